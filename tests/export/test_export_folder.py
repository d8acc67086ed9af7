"""The folder for a model hub: what is in it, what its README says, and that it loads as a model."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.helpers import model_of, one_of_each, random_pixels

import bnn
import bnn.export.folder as folder_module
from bnn.cli import main
from bnn.config import TrainConfig
from bnn.errors import UserError
from bnn.export import export
from bnn.export.folder import make
from bnn.packed.costs import packed_summary
from bnn.packed.model import PackedModel
from bnn.packed.nodes import ReLU
from bnn.runtime import Runner
from bnn.training.run import Result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    out = tmp_path_factory.mktemp("folder") / "run"
    assert main(["train", "digits", "--out", str(out), "--epochs", "3", "--width", "64", "--seed", "4"]) == 0
    return out


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    out = tmp_path_factory.mktemp("folder") / "digits"
    assert main(["export", str(run), "--to", "folder", str(out)]) == 0
    return out


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of a README."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def written(model: PackedModel, tmp_path: Path, **options: Any) -> tuple[dict[str, Any], str]:
    export(model, "folder", tmp_path / "out", **options)
    return card(tmp_path / "out")


# --- the files --------------------------------------------------------------------------------------------


def test_the_files_of_a_run(run: Path, folder: Path) -> None:
    """Model, recipe, metrics, figures and result are the run's, byte for byte; no checkpoint, no events."""
    names = {path.name for path in folder.iterdir()}
    taken = {"model.bnn", "config.toml", "metrics.csv", "layers.csv", "curves.png", "result.json"}
    assert names == taken | {"README.md", "bnn-export.json"}
    assert all((folder / name).read_bytes() == (run / name).read_bytes() for name in taken)


def test_without_a_run_there_are_model_and_readme(tmp_path: Path) -> None:
    """A .bnn file alone says less: its README has no accuracy, no training, and no front matter on them."""
    front, text = written(one_of_each(), tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.bnn",
        "README.md",
        "bnn-export.json",
    }
    assert not {"metrics", "model-index"} & set(front)
    assert re.findall(r"(?m)^## (.*)$", text) == ["How to run it", "Size", "Files"]
    one_of_each().save(tmp_path / "m.bnn")
    assert (tmp_path / "out" / "model.bnn").read_bytes() == (tmp_path / "m.bnn").read_bytes()


def test_an_exported_folder_exports_again(folder: Path, tmp_path: Path) -> None:
    """To the same bytes: it is as good a source as the run."""
    assert main(["export", str(folder), "--to", "folder", str(tmp_path / "again")]) == 0
    assert all(
        (tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir()
    )


# --- the README -------------------------------------------------------------------------------------------


def test_the_front_matter(run: Path, folder: Path) -> None:
    """What hubs read: library, task, tags, data, and the packed model's accuracy as in result.json."""
    front, _ = card(folder)
    result = json.loads((run / "result.json").read_text())
    (index,) = front.pop("model-index")
    assert front == {
        "library_name": "binaryconnect",
        "pipeline_tag": "image-classification",
        "tags": ["binaryconnect", "binary-neural-network", "1-bit"],
        "datasets": ["digits"],
        "metrics": ["accuracy"],
    }
    assert index == {
        "name": "binaryconnect_mlp",
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": "digits", "type": "digits", "split": "test"},
                "metrics": [{"type": "accuracy", "value": result["packed"]}],
            }
        ],
    }


def test_a_license_is_not_invented(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The project's own is not the model's: there is none, and the command says so."""
    front, text = card(folder)
    assert "license" not in front
    assert "icen" not in text
    export_notes = make(PackedModel.load(folder)).notes
    assert any("names no licence" in note for note in export_notes)


def test_the_text(run: Path, folder: Path) -> None:
    """Sizes, accuracies with data, weights and seed, and the recipe: all as the run's files have them."""
    _, text = card(folder)
    result = json.loads((run / "result.json").read_text())
    model = PackedModel.load(run)
    assert str(packed_summary(model, (run / "model.bnn").stat().st_size)) in text
    assert f"On the {result['test_samples']} test images of digits" in text
    assert "of one run, seed 4" in text
    assert f"| this model | sign | {100 * result['packed']:.2f} % |" in text
    assert f"| as it was trained, in PyTorch | sign | {100 * result['trained']:.2f} % |" in text
    assert ("statistics taken anew" in text) is result["recalibrated"] is True
    assert f"validation set, by which choices are made: {100 * result['validation']:.2f} %" in text
    (recipe,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert TrainConfig(**tomllib.loads(recipe)) == TrainConfig.from_recipe(run / "config.toml")
    linked = re.findall(r"\]\(([\w.-]+)\)|^- `([\w.-]+)`", text, re.MULTILINE)
    assert len(linked) == 7
    assert all((folder / (link or listed)).is_file() for link, listed in linked)


def test_its_code_runs(folder: Path) -> None:
    """The README's Python predicts on the digits."""
    _, text = card(folder)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    images = bnn.load_dataset("digits").test_inputs
    names: dict[str, Any] = {"folder": folder, "x": images}
    exec(code, names)
    np.testing.assert_array_equal(names["net"].predict(images), bnn.load(folder).predict(images))


def test_a_model_of_floats_from_vectors(tmp_path: Path) -> None:
    """No image, no one-bit weight, no pixels: the README claims none of them."""
    front, text = written(model_of((5,), ReLU(name="r", inputs=("input",))), tmp_path)
    assert front == {"library_name": "binaryconnect", "tags": ["binaryconnect"]}
    assert "no weight of it is packed" in text
    assert "float32, normalised, (n, 5)" in text
    assert not re.search("pixels|predict FOLDER|±1, one bit", text)


def test_names_cannot_break_it(tmp_path: Path) -> None:
    """Labels and notes may be anything: front matter stays YAML, and tables and code blocks whole."""
    about = {"data": 'a"b: [c\n---\n', "model": "x|y\u2028```\n# head"}
    node = ReLU(name="```\n# no heading", inputs=("input",))
    model = PackedModel(bnn.packed.nodes.InputContract((2,), labels=("a\n## b", "c")), (node,), about)
    front, text = written(model, tmp_path)
    assert front["datasets"] == ['a"b: [c\\x0a---\\x0a']
    assert "Classes, by index: a\\\\x0a\\#\\# b, c." in text
    assert "\n````\nlayer" in text  # a fence longer than that in the node's name
    assert re.findall(r"(?m)^#+ (\w+)", text) == ["x", "How", "Size", "Files"]


# --- loading ----------------------------------------------------------------------------------------------


def test_folders_load(run: Path, folder: Path) -> None:
    """bnn.load, PackedModel.load and to_torch take an exported folder and a run's, as path or string."""
    x = random_pixels(5, 1, 8, 8)
    expected = bnn.load(run / "model.bnn")(x)
    for path in (folder, str(folder), run):
        np.testing.assert_array_equal(bnn.load(path)(x), expected)
        np.testing.assert_array_equal(Runner(PackedModel.load(path))(x), expected)
    assert bnn.to_torch(folder).code == bnn.to_torch(run / "model.bnn").code


def test_the_command_line_takes_the_folder(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bnn eval` of the export gives the run's accuracy; `bnn info` reads it."""
    assert main(["eval", str(folder), "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert accuracy == json.loads((run / "result.json").read_text())["packed"]
    assert main(["info", str(folder)]) == 0


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """One line that says what is missing, from the library too."""
    for load in (bnn.load, PackedModel.load, bnn.to_torch):
        with pytest.raises(IsADirectoryError, match=r"a folder without model\.bnn"):
            load(tmp_path)


def test_it_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    """Where torch cannot be imported, a folder exports and loads."""
    code = (
        "import sys; sys.modules['torch'] = None; from bnn.cli import main; import bnn; "
        "assert main(['export', sys.argv[1], '--to', 'folder', sys.argv[2]]) == 0; bnn.load(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=300, capture_output=True)


# --- runs that are not what they should be ----------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a model, for a test to put files in."""
    (tmp_path / "run").mkdir()
    one_of_each().save(tmp_path / "run" / "model.bnn")
    return tmp_path / "run"


def test_the_path_of_a_folder_of_images_stays_private(broken: Path, tmp_path: Path) -> None:
    """Only the name of a folder of the user's is published, where that was the data."""
    config = TrainConfig(data="/home/someone/secret/flowers", seed=3)
    (broken / "config.toml").write_text(config.to_toml())
    model = PackedModel(one_of_each().input, one_of_each().nodes, {"weights": "sign"})
    model.save(broken / "model.bnn")
    front, _ = written(model, tmp_path, run=broken)
    assert front["datasets"] == ["flowers"]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"secret" not in everything
    published = TrainConfig.from_recipe(tmp_path / "out" / "config.toml")
    assert published == replace(config, data="flowers")


def test_another_model_is_refused(broken: Path) -> None:
    """A run's accuracies are not claimed of a model that it did not give."""
    with pytest.raises(ValueError, match=r"run: its model\.bnn is another model"):
        make(one_of_each(seed=1), run=broken)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", b"{", "result.json of the run: "),
        ("result.json", b"[1]", "result.json of the run: not an object"),
        ("result.json", b"\xff", "result.json of the run: "),
        ("result.json", b'{"packed": "high"}', "packed is 'high', no accuracy from 0 to 1"),
        ("result.json", b'{"packed": NaN}', "packed is nan, no accuracy"),
        ("result.json", b'{"validation": 98.5}', "validation is 98.5, no accuracy"),
        ("result.json", b'{"test_samples": "all"}', "test_samples is 'all', no number"),
        ("result.json", b'{"packed": 0.5, "x": 1e999}', "x is inf, no field of a result"),
        ("result.json", b'{"recalibrated": [[[]]]}', "recalibrated is [[[]]], no field of a result"),
        ("result.json", b'{"trained": true}', "trained is True, no accuracy"),
        ("result.json", b'{"packed_bytes": Infinity}', "packed_bytes is inf, no number"),
        ("result.json", b'{"frozen_weights": {}}', "frozen_weights is {}, no text"),
        ("result.json", b"[" * 60_000, "result.json of the run: maximum recursion depth"),
        ("result.json", b" " * 70_000, "result.json of the run: larger than 65,536 bytes"),
        ("config.toml", b"epochs =", "config.toml of the run: "),
        ("config.toml", b"a = " + b"[" * 60_000, "config.toml of the run: maximum recursion depth"),
        ("config.toml", b'"a\\u001b[31m" = 3', "config.toml of the run: unknown field 'a\\x1b[31m'"),
        ("curves.png", b"<svg/>", "curves.png of the run: no PNG"),
        ("metrics.csv", b"epoch\n\x1b[31m\n", "metrics.csv of the run: no text, or with characters"),
        ("layers.csv", b"\xff", "layers.csv of the run: no text, or with characters"),
        ("config.toml", b"[train]\nepochs = 3", "config.toml of the run: unknown field 'train'"),
    ],
)
def test_files_of_a_run_are_checked(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    """One line that names the file and what is wrong with it, and nothing written."""
    (broken / name).write_bytes(content)
    assert main(["export", str(broken), "--to", "folder", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.bnn", "config.toml", "result.json", "metrics.csv", "curves.png"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_regular_files_are_published(broken: Path, tmp_path: Path, name: str, kind: str) -> None:
    """A link to a file of the user's own is not followed, a pipe not waited for: one line names it."""
    secret = tmp_path / "secret"
    secret.write_bytes((broken / "model.bnn").read_bytes() if name == "model.bnn" else b"private")
    (broken / name).unlink(missing_ok=True)
    if kind == "link":
        (broken / name).symlink_to(secret)
    elif kind == "folder":
        (broken / name).mkdir()
    elif hasattr(os, "mkfifo"):
        os.mkfifo(broken / name)
    else:
        pytest.skip("no pipes with names here")
    with pytest.raises(UserError, match=f"{name}: no regular file, and no other is published"):
        make(one_of_each(), run=broken)


def test_a_dangling_link_is_no_missing_file(broken: Path, tmp_path: Path) -> None:
    """It is refused too; the run's folder itself may be reached by a link."""
    (tmp_path / "by-link").symlink_to(broken, target_is_directory=True)
    assert set(make(one_of_each(), run=tmp_path / "by-link").files) == {"model.bnn", "README.md"}
    (broken / "metrics.csv").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"metrics\.csv: no regular file"):
        make(one_of_each(), run=tmp_path / "by-link")


def test_a_file_may_not_be_large(broken: Path) -> None:
    """A table of 10 GB is refused after its first 64 MB are read."""
    with (broken / "metrics.csv").open("wb") as file:
        file.truncate(10 * 2**30)  # a hole: it takes no room
    with pytest.raises(UserError, match=r"metrics\.csv of the run: larger than 67,108,864 bytes"):
        make(one_of_each(), run=broken)


def test_what_is_published_is_written_anew(broken: Path) -> None:
    """Recipe and result are those that were understood: a comment, a mark in a string do not go on."""
    (broken / "config.toml").write_text('seed = 3  # \u202e\ndata = "none"\n', encoding="utf-8")
    (broken / "result.json").write_text('{"packed": 0.00001, "trained_weights": "\u202e"}', encoding="utf-8")
    node = ReLU(name="r", inputs=("input",))
    model = PackedModel(bnn.packed.nodes.InputContract((1, 2, 2)), (node,), {"data": "none"})
    model.save(broken / "model.bnn")
    files = make(model, run=broken).files
    assert files["config.toml"].decode() == TrainConfig(seed=3, data="none").to_toml()
    assert files["result.json"].decode() == '{\n  "packed": 1e-05,\n  "trained_weights": "\\u202e"\n}\n'
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 1e-5}]


def test_the_fields_of_a_result_are_known() -> None:
    """Those that training writes, no more and no fewer."""
    known = {*folder_module.ACCURACIES, *folder_module.TEXTS, *folder_module.NUMBERS, folder_module.FLAG}
    assert known == {field.name for field in fields(Result)}


def test_a_run_that_begins_meanwhile_is_no_mixture(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing keeps it out: its model is looked at again when all else was read."""
    real = folder_module.content_of

    def content_of(path: Path, limit: int) -> bytes:
        if path.name == "model.bnn":
            one_of_each(seed=1).save(path)
        return real(path, limit)

    monkeypatch.setattr(folder_module, "content_of", content_of)
    with pytest.raises(UserError, match=r"run: its model\.bnn is another model"):
        make(one_of_each(), run=broken)


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")
def test_no_run_begins_while_one_is_exported(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before the model is loaded until all files are read. Nothing is written to the run's folder."""
    import fcntl

    moments = []
    for module, name in ((PackedModel, "load"), (folder_module, "content_of")):
        real = getattr(module, name)

        def checked(*args: Any, real: Any = real, **options: Any) -> Any:
            descriptor = os.open(broken, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as a writer does, but for the wait
            os.close(descriptor)
            moments.append(args[0])
            return real(*args, **options)

        monkeypatch.setattr(module, name, checked)
    before = sorted(broken.iterdir())
    assert main(["export", str(broken), "--to", "folder", str(tmp_path / "out")]) == 0
    assert len(moments) == 2  # the load, and the look at the end
    assert sorted(broken.iterdir()) == before


def test_a_result_may_be_partial(broken: Path, tmp_path: Path) -> None:
    """No validation set, no config: what is known is said."""
    (broken / "result.json").write_text('{"packed": 0.5, "validation": null, "test_samples": 1234}')
    front, text = written(one_of_each(), tmp_path, run=broken)
    assert front["metrics"] == ["accuracy"]
    assert "On the 1,234 test images of none, read once, at the end:" in text
    assert "validation" not in text
