"""docs/tutorial.ipynb runs from top to bottom, and what is committed is the record of such a run.

BNN_DATA_DIR=... python tests/docs/test_tutorial.py    # runs it anew and writes it, to be committed
"""

import base64
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


def read() -> Any:
    return nbformat.read(TUTORIAL, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def accuracy(text: str, of: str) -> float:
    """The first test accuracy that is printed of these weights."""
    found = re.search(rf"^{re.escape(of)}: +test accuracy (\d\.\d+)", text, re.MULTILINE)
    assert found, f"no test accuracy of {of!r} in:\n{text}"
    return float(found[1])


def execute(folder: str | Path) -> Any:
    """The notebook with the outputs of a run in this folder. A cell that raises, and several assert, is a
    CellExecutionError."""
    notebook = read()
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version that ran it
    return notebook


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the notebook with data from a folder, and without a network."""

    def run_with(data_dir: str | Path) -> Any:
        folder = tmp_path / "work"
        folder.mkdir()
        monkeypatch.setenv("BNN_DATA_DIR", str(Path(data_dir).resolve()))
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            monkeypatch.setenv(name, str(tmp_path / "jupyter"))  # not the user's settings, nor kernels
        monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # or old versions warn that it will be so
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
        notebook = execute(folder)
        assert list(folder.iterdir()) == []
        return notebook

    return run_with


@pytest.mark.slow
def test_on_digits(run: Any, tmp_path: Path) -> None:
    """Without MNIST it runs on the embedded digits, fetches nothing, leaves no file and warns of nothing."""
    (tmp_path / "data").mkdir()
    notebook = run(tmp_path / "data")
    text = printed(notebook)
    assert text.startswith("digits (from scikit-learn")
    assert list((tmp_path / "data").iterdir()) == []
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}
    assert accuracy(text, "float weights") > 0.85
    assert accuracy(text, "one-bit weights") > 0.75
    assert accuracy(text, "float, then binarized") < accuracy(text, "one-bit weights") - 0.05
    assert "297 of 297 predictions are equal" in text
    assert "every function agrees" in text


@pytest.mark.slow
def test_on_mnist(run: Any, mnist_dir: str) -> None:
    """On MNIST the accuracies are those of the study, and all predictions of the packed file are NumPy's."""
    text = printed(run(mnist_dir))
    assert text.startswith("mnist (found on this machine)")
    assert accuracy(text, "float weights") > 0.915
    assert accuracy(text, "one-bit weights") > 0.885
    assert 0.6 < accuracy(text, "float, then binarized") < 0.8
    assert "10,000 of 10,000 predictions are equal" in text
    assert "every function agrees" in text


def test_what_is_committed() -> None:
    """A run on MNIST in one go, without warnings and errors; it names no place on the author's machine."""
    notebook = read()
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.output_type for output in outputs(notebook)} == {"stream", "display_data"}
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}
    text = printed(notebook)
    assert text.startswith("mnist (found on this machine)")
    assert "10,000 of 10,000 predictions are equal" in text
    text += "\n".join(cell.source for cell in notebook.cells)
    assert re.findall(r"/(?:home|root|tmp|work|Users)/\w+|<[\w.]+ (?:object )?at 0x|Warning", text) == []
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    assert all(cell.metadata == {} for cell in notebook.cells)


def test_it_stays_small() -> None:
    """At most 600 KB, no picture above 150 KB, and each has words for those who cannot see it."""
    assert TUTORIAL.stat().st_size < 600_000
    data = [output.data for output in outputs(read()) if output.output_type == "display_data"]
    assert len(data) >= 6
    for each in data:
        assert len(base64.b64decode(each["image/png"])) < 150_000
        assert re.fullmatch(r"\w[^<>]{20,}", each["text/plain"])


def test_its_nine_parts_and_links() -> None:
    """The nine parts stand in their order, the table of contents leads to them, and linked files exist."""
    text = "\n\n".join(cell.source for cell in read().cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [heading.partition(".")[0] for heading in headings] == [str(part) for part in range(1, 10)]
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert [target for target in targets if target[0] == "#"] == [
        "#" + heading.replace(" ", "-") for heading in headings
    ]
    files = [target for target in targets if target[0] != "#" and "://" not in target]
    assert files
    assert [target for target in files if not (TUTORIAL.parent / target).exists()] == []


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in the tests
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(folder), TUTORIAL)  # type: ignore[no-untyped-call]
