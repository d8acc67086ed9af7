"""Writing an export: whole or not at all, and nothing replaced that is no export."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.helpers import one_of_each

from bnn import export as exports
from bnn.cli import main
from bnn.export import MARKER, TARGETS, Export, ExportError, Target, export
from bnn.files import replace_folder
from bnn.packed.model import PackedModel


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return one_of_each()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a target `made` gives, for tests to change; its calls, by options."""
    what: dict[str, Any] = {"files": {"a.txt": b"a", "sub/b.bin": b"b"}, "calls": []}

    def make(model: PackedModel, **options: Any) -> Export:
        what["calls"].append(options)
        if isinstance(what["files"], Exception):
            raise what["files"]
        return Export(what["files"], ("a note",))

    monkeypatch.setattr(exports, "TARGETS", {**TARGETS, "made": Target("made up", True, ("how",))})
    monkeypatch.setattr(
        exports, "import_module", lambda name: type("Module", (), {"make": staticmethod(make)})
    )
    return what


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones too, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- folders ----------------------------------------------------------------------------------------------


def test_a_folder_holds_the_files_and_a_marker(
    model: PackedModel, made: dict[str, Any], tmp_path: Path
) -> None:
    """The target's files, and one that says what the folder is; options go to the target, notes come back."""
    assert export(model, "made", tmp_path / "out", how="well") == ("a note",)
    found = contents(tmp_path)
    marker = json.loads(found.pop(f"out/{MARKER}"))
    assert found == {"out/a.txt": b"a", "out/sub/b.bin": b"b"}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in made["files"].items()}
    assert marker == {"target": "made", "sha256": hashes}
    assert made["calls"] == [{"how": "well"}]


def test_an_existing_folder_is_refused(model: PackedModel, made: dict[str, Any], tmp_path: Path) -> None:
    """Without force nothing is touched, nor computed; with it, nothing of the old export is left."""
    export(model, "made", tmp_path / "out")
    before = contents(tmp_path)
    made["files"] = {"c.txt": b"c"}
    with pytest.raises(FileExistsError, match="out: exists; --force replaces it"):
        export(model, "made", tmp_path / "out")
    assert contents(tmp_path) == before
    assert len(made["calls"]) == 1
    export(model, "made", tmp_path / "out", force=True)
    assert set(contents(tmp_path)) == {"out/c.txt", f"out/{MARKER}"}


def test_a_folder_that_is_no_export_is_never_replaced(
    model: PackedModel, made: dict[str, Any], tmp_path: Path
) -> None:
    """Not even with force, and not even an empty one: a mistyped path loses nobody's files."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    (tmp_path / "empty").mkdir()
    for name in ("mine", "empty"):
        with pytest.raises(FileExistsError, match=rf"{name}: not replaced: it is no export"):
            export(model, "made", tmp_path / name, force=True)
    assert contents(tmp_path) == {"mine/thesis.tex": b"years"}
    assert made["calls"] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda out: (out / "LICENSE").write_text("mine"), "LICENSE is not of the export"),
        (lambda out: (out / "sub" / "b.bin").write_text("mine"), "sub/b.bin was changed since"),
        (lambda out: (out / MARKER).write_text('{"target": "c", "sha256": {}}'), "it is an export to c"),
        (lambda out: (out / MARKER).write_text("[]"), "it is no export"),
        (lambda out: (out / MARKER).write_text("[" * 10**5), "it is no export"),
        (lambda out: (out / "more").symlink_to("sub", target_is_directory=True), "more is not of the export"),
    ],
)
def test_an_export_that_was_changed_is_never_replaced(
    model: PackedModel,
    made: dict[str, Any],
    tmp_path: Path,
    change: Callable[[Path], object],
    problem: str,
) -> None:
    """What was added or edited since, or another target made, is not lost by force; the error names it."""
    out = tmp_path / "out"
    export(model, "made", out)
    change(out)
    before = contents(out)
    with pytest.raises(FileExistsError, match=rf"out: not replaced: {problem}"):
        export(model, "made", out, force=True)
    assert contents(out) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", [MARKER, "sub/b.bin"])
def test_an_export_with_a_pipe_is_never_replaced(
    model: PackedModel, made: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """A folder from elsewhere whose files are pipes is refused; nobody waits for what they give."""
    out = tmp_path / "out"
    export(model, "made", out)
    (out / name).unlink()
    os.mkfifo(out / name)
    with pytest.raises(FileExistsError, match="out: not replaced: "):
        export(model, "made", out, force=True)
    assert (out / name).is_fifo()


def test_a_link_is_followed(model: PackedModel, made: dict[str, Any], tmp_path: Path) -> None:
    """A link to a folder stays one, and the folder it leads to is the export."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out", target_is_directory=True)
    for force in (False, True):
        export(model, "made", link, force=force)
    assert link.is_symlink()
    assert set(contents(tmp_path / "out")) == {"a.txt", "sub/b.bin", MARKER}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]


def test_ctrl_c_between_two_moves_loses_nothing(
    model: PackedModel, made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old export is back in its place."""
    export(model, "made", tmp_path / "out")
    before, made["files"] = contents(tmp_path), {"c.txt": b"c"}
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".new":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        export(model, "made", tmp_path / "out", force=True)
    assert contents(tmp_path) == before


def test_a_failing_target_leaves_nothing(model: PackedModel, made: dict[str, Any], tmp_path: Path) -> None:
    """Its error comes through, no file is there, and an export that was there stays."""
    made["files"] = ExportError("node 'odd': no")
    with pytest.raises(ExportError, match="node 'odd'"):
        export(model, "made", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    made["files"] = {"a.txt": b"a"}
    export(model, "made", tmp_path / "out")
    before, made["files"] = contents(tmp_path), ExportError("no")
    with pytest.raises(ExportError):
        export(model, "made", tmp_path / "out", force=True)
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_nothing(
    model: PackedModel, made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of writing names the folder, and leaves what was there before."""
    export(model, "made", tmp_path / "out")
    before, made["files"] = contents(tmp_path), {"c.txt": b"c", "d.txt": b"d"}
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left") as error:
        export(model, "made", tmp_path / "out", force=True)
    assert error.value.filename == str(tmp_path / "out")
    assert contents(tmp_path) == before


# --- a kill -----------------------------------------------------------------------------------------------

KILLED = """
import os, pathlib, signal, sys
from bnn.cli import main
real, left = {function}, [{calls}]

def killed(*arguments, **more):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **more)

{function} = killed
main(sys.argv[1:])
"""


def killed(function: str, calls: int, *argv: object) -> None:
    """Runs the command line, and kills it when a function is called once more than `calls` times."""
    code = KILLED.format(function=function, calls=calls)
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("function", "calls"), [("os.fsync", 0), ("os.fsync", 2), ("pathlib.Path.rename", 0)]
)
@pytest.mark.parametrize("there", [False, True])
def test_a_kill_leaves_no_half_written_folder(
    model: PackedModel, tmp_path: Path, function: str, calls: int, there: bool
) -> None:
    """Killed in the first file, in the last, and before the move: no folder, or the old one whole.

    The next export takes away what was left behind.
    """
    model.save(tmp_path / "m.bnn")
    out = tmp_path / "out"
    argv = ["export", tmp_path / "m.bnn", "--to", "folder", out, "--force"]
    if there:
        assert main([*map(str, argv)]) == 0
    before = contents(out)
    killed(function, calls, *argv)
    assert contents(out) == before
    assert out.exists() == there
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] != []
    assert main([*map(str, argv)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bnn", "out"]
    assert {"model.bnn", "README.md", MARKER} == set(contents(out))


def test_a_kill_between_two_moves_loses_nothing(model: PackedModel, tmp_path: Path) -> None:
    """Killed when the old folder is away and the new one not yet there: both are, beside it, and whole.

    The next call puts the old one back before anything else, and so keeps it if it fails.
    """
    model.save(tmp_path / "m.bnn")
    argv = ["export", tmp_path / "m.bnn", "--to", "folder", tmp_path / "out", "--force"]
    assert main([*map(str, argv)]) == 0
    before = contents(tmp_path / "out")
    killed("pathlib.Path.rename", 1, *argv)
    hidden = [path for path in tmp_path.iterdir() if path.suffix in (".new", ".old")]
    assert [contents(path) for path in hidden] == [before, before]
    with pytest.raises(OSError, match="out"):
        replace_folder(tmp_path / "out", {"x" * 300: b""})
    assert contents(tmp_path / "out") == before
    assert main([*map(str, argv)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bnn", "out"]


def test_a_kill_leaves_no_half_written_file(model: PackedModel, tmp_path: Path) -> None:
    """The same of a target that is one file."""
    model.save(tmp_path / "m.bnn")
    argv = ["export", tmp_path / "m.bnn", "--to", "onnx", tmp_path / "m.onnx", "--force"]
    killed("os.fsync", 0, *argv)
    assert not (tmp_path / "m.onnx").exists()
    assert len(list(tmp_path.iterdir())) == 3  # the model, half of a file and its lock
    assert main([*map(str, argv)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bnn", "m.onnx"]


# --- what is refused --------------------------------------------------------------------------------------


def test_a_file_is_no_folder(model: PackedModel, tmp_path: Path) -> None:
    """A folder export does not replace a file, nor a file export a folder, whatever is forced."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for to, name, kind in (("folder", "file", "folder"), ("onnx", "folder", "file")):
        with pytest.raises(FileExistsError, match=f"{name}: exists and is no {kind}"):
            export(model, to, tmp_path / name, force=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_never_replaced(model: PackedModel, tmp_path: Path) -> None:
    """A pipe or a device is written to; no folder is put in its place, whatever is forced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="pipe: exists and is no folder"):
        export(model, "folder", pipe, force=True)
    writer = threading.Thread(target=export, args=[model, "onnx", pipe])
    writer.start()
    content = pipe.read_bytes()
    writer.join()
    export(model, "onnx", tmp_path / "file")
    assert (content, pipe.is_fifo()) == ((tmp_path / "file").read_bytes(), True)
    export(model, "onnx", "/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/stdout")
def test_standard_output_gets_the_file_and_nothing_else(model: PackedModel, tmp_path: Path) -> None:
    """What was written is said on standard error."""
    model.save(tmp_path / "m.bnn")
    argv = ["export", str(tmp_path / "m.bnn"), "--to", "onnx"]
    command = [sys.executable, "-m", "bnn.cli", *argv, "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    assert main([*argv, str(tmp_path / "file")]) == 0
    assert done.stdout == (tmp_path / "file").read_bytes()
    assert b"/dev/stdout: an ONNX file" in done.stderr


def test_a_file_is_replaced_only_with_force(model: PackedModel, tmp_path: Path) -> None:
    """An existing file is refused, and replaced with force."""
    out = tmp_path / "m.onnx"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="--force replaces it"):
        export(model, "onnx", out)
    assert out.read_text() == "mine"
    export(model, "onnx", out, force=True)
    assert out.read_bytes()[:4] != b"mine"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: export(m, "tflite", p / "x"), "no target is named 'tflite': one of c, onnx"),
        (lambda m, p: export(m, "folder", p / "x", unpacked=True), "--to folder takes no --unpacked"),
        (lambda m, p: export(m, "onnx", p / "x", run=p), "--to onnx takes no --run"),
    ],
)
def test_unknown_targets_and_options(
    model: PackedModel, tmp_path: Path, call: Callable[..., Any], message: str
) -> None:
    """A ValueError names what is not there, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        call(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["m.bnn", "--to", "tflite", "x"], "no target is named 'tflite'"),
        (["m.bnn", "--to", "folder", "x", "--unpacked"], "--to folder takes no --unpacked"),
        (["m.bnn", "--to", "onnx", "there"], "there: exists; --force replaces it"),
        (["m.bnn", "--to", "onnx", "no/where/m.onnx"], "no/where: no such folder"),
        (["m.bnn", "--to", "folder", "mine", "--force"], "mine: not replaced: it is no export"),
        (["m.bnn", "--to", "onnx", "m.bnn", "--force"], "m.bnn: is, or holds, the model"),
        (["m.bnn", "--to", "folder", ".", "--force"], ".: is, or holds, the model"),
        (["none.bnn", "--to", "onnx", "x"], "none.bnn: No such file or directory"),
        (["mine", "--to", "onnx", "x"], "mine: a folder without model.bnn"),
        (["there", "--to", "onnx", "x"], "there: not a .bnn file"),
        (["m.bnn", "x"], "required: --to"),
        (["m.bnn", "--to", "onnx"], "required: OUT"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str],
    problem: str,
    model: PackedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the command line they are one line on standard error and exit status 2; nothing is written."""
    monkeypatch.chdir(tmp_path)
    model.save("m.bnn")
    Path("there").write_text("mine")
    Path("mine").mkdir()
    before = contents(tmp_path)
    try:
        status = main(["export", *argv])
    except SystemExit as stop:  # argparse's own
        status = int(str(stop.code))
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("bnn export: ")
    assert problem in err
    assert contents(tmp_path) == before


def test_the_command_says_what_it_wrote(
    model: PackedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path, what it is, and the target's notes."""
    model.save(tmp_path / "m.bnn")
    out = tmp_path / "m.onnx"
    assert main(["export", str(tmp_path / "m.bnn"), "--to", "onnx", str(out), "--unpacked"]) == 0
    first, *notes = capsys.readouterr().out.splitlines()
    assert first == f"{out}: an ONNX file, for ONNX Runtime and others"
    assert f"  {out.stat().st_size:,} bytes, weights in float32" in notes
