"""The command line, as a user meets it."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bnn.cli import main
from bnn.data import load_dataset
from bnn.errors import UserError
from bnn.files import no_writer, one_writer
from bnn.packed.model import PackedModel
from bnn.packed.nodes import AvgPool2d, Flatten, InputContract, MaxPool2d
from bnn.runtime import load

SMALL = ["--epochs", "6", "--width", "64", "--lr", "0.003"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the digits."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--out", str(out), *SMALL]) == 0
    return out


def _fails(capsys, *argv):
    """The one line on standard error of a command that exits with 2."""
    try:
        status = main(list(argv))
    except SystemExit as stop:  # argparse's own
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.startswith("bnn")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_train_prints_epochs_and_the_three_accuracies(tmp_path, capsys):
    """An epoch a line, then trained, frozen and packed; no control characters where it is no terminal."""
    assert main(["train", "digits", "--out", str(tmp_path), *SMALL]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\nepoch") == 5  # and the first
    for word in ("trained", "frozen", "packed", "times smaller"):
        assert word in captured.out
    assert "\x1b" not in captured.out + captured.err
    assert captured.err == ""


def test_seeds_make_a_folder_each_and_a_spread(tmp_path, capsys):
    """--seeds 2 runs two seeds and reports mean and deviation."""
    assert main(["train", "digits", "--out", str(tmp_path), "--seeds", "2", "--seed", "5", *SMALL]) == 0
    assert "±" in capsys.readouterr().out
    spread = json.loads((tmp_path / "seeds.json").read_text())
    values = [
        json.loads((tmp_path / f"seed-{seed}" / "result.json").read_text())["packed"] for seed in (5, 6)
    ]
    assert spread["seeds"] == [5, 6]
    assert spread["packed"]["values"] == values
    assert spread["packed"]["mean"] == pytest.approx(np.mean(values))
    assert spread["packed"]["deviation"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize("what", ["", "model.bnn"])
def test_eval_json(run, capsys, what):
    """eval takes a run's folder or its file, and prints accuracy, n, weights and engine."""
    assert main(["eval", str(run / what), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    result = json.loads((run / "result.json").read_text())
    assert got["accuracy"] == result["packed"]
    assert (got["n"], got["weights"], got["engine"]) == (297, "sign", "native")


def test_eval_with_the_reference(run, capsys):
    """--engine chooses: the numpy reference predicts the very same."""
    for engine in ("native", "reference"):
        assert main(["eval", str(run), "--json", "--engine", engine]) == 0
    native, reference = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (native["engine"], reference["engine"], reference["isa"]) == ("native", "reference", "numpy")
    assert native["accuracy"] == reference["accuracy"]


def test_eval_with_int8_activations(run, capsys):
    """--activations int8 shows what they cost: the accuracy beside that with float32."""
    assert main(["eval", str(run), "--activations", "int8"]) == 0
    sentence = r"with int8 activations; \d+\.\d\d % with float32: [+-]\d\.\d\d points"
    assert re.search(sentence, capsys.readouterr().out)
    assert main(["eval", str(run), "--activations", "int8", "--json", "--threads", "1"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["accuracy_float32"] == json.loads((run / "result.json").read_text())["packed"]
    assert abs(got["accuracy"] - got["accuracy_float32"]) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "warp"], "engine must be one of native, reference, not 'warp'"),
        (["--activations", "int4"], "activations must be one of float32, int8, not 'int4'"),
        (["--threads", "0"], "threads must be a number from 1 to 1024, not 0"),
    ],
)
def test_mistaken_options_of_eval(run, capsys, options, message):
    """One line that names the value, and exit status 2."""
    assert main(["eval", str(run), *options]) == 2
    assert capsys.readouterr().err == f"bnn eval: {message}\n"


def test_eval_for_people(run, capsys):
    """Without --json it is a sentence with the data, the weights and the engine."""
    assert main(["eval", str(run)]) == 0
    out = capsys.readouterr().out
    assert "297 test images of digits" in out
    assert "sign weights, native engine" in out


def test_info(run, capsys):
    """info lists the layers; its JSON adds up."""
    assert main(["info", str(run)]) == 0
    assert "times smaller than in float32" in capsys.readouterr().out
    assert main(["info", str(run), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    weights = 64 * 64 * 3 + 64 * 10
    assert info["one_bit_weights"] == weights == info["macs"]["float x ±1"]
    assert info["file_bytes"] == (run / "model.bnn").stat().st_size
    assert sum(layer["bytes"] for layer in info["layers"]) < info["file_bytes"]


def test_predict_reads_image_files(run, tmp_path, capsys):
    """A digit drawn larger, in colour, dark on light, is read like the array itself, and that is said."""
    digits = load_dataset("digits")
    index = int(np.flatnonzero(load(run / "model.bnn").predict(digits.test_inputs) == digits.test_targets)[0])
    pixels, label = digits.test_inputs[index, 0], digits.test_targets[index]
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    big = 255 - np.kron(pixels, np.ones((16, 16), dtype=np.uint8))
    Image.fromarray(np.stack([big] * 3, axis=-1)).save(tmp_path / "photo.png")
    paths = [str(tmp_path / "plain.png"), str(tmp_path / "photo.png")]
    assert main(["predict", str(run), *paths, "--json"]) == 0
    plain, photo = json.loads(capsys.readouterr().out)
    assert plain["label"] == photo["label"] == str(label)
    assert plain["converted"] == []
    assert len(photo["converted"]) == 3
    np.testing.assert_allclose(plain["scores"], photo["scores"])
    assert main(["predict", str(run), paths[1]]) == 0
    assert "inverted: dark on light ground" in capsys.readouterr().out


def test_what_a_model_may_ask_for(run, tmp_path, capsys):
    """What asks for much is one line with both numbers; options lift that; info shows what is asked."""
    nodes = [MaxPool2d(name="p", inputs=("input",), kernel=(900, 900), stride=(1, 1))]
    nodes += [AvgPool2d(name="a", inputs=("p",), kernel=(1, 1), stride=(2**20, 2**20))]
    nodes += [Flatten(name="f", inputs=("a",))]
    long = tmp_path / "long.bnn"
    PackedModel(InputContract((1, 3000, 3000), (0.5,), (0.5,)), tuple(nodes)).save(long)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    for more, allowed in (((), "3e+10"), (("--max-work", "1e9"), "1e+09")):
        message = _fails(capsys, "predict", str(long), str(picture), *more)
        assert f"{long}: " in message
        assert f"more than is allowed: {allowed} (max_work=, --max-work)" in message
    for value, allowed in (("30k", "30 KiB"), ("99", "99 bytes")):
        message = _fails(capsys, "predict", str(run), str(picture), "--max-memory", value)
        assert f"{run / 'model.bnn'}: " in message
        assert f"more than is allowed: {allowed} (max_memory=, --max-memory)" in message
    assert main(["info", str(long), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["work"] > 3e10
    assert info["memory"] > 3000 * 3000
    assert main(["info", str(long), "--max-memory", "none"]) == 0
    assert "a sample: at most " in capsys.readouterr().out
    for option, value in (("--max-memory", "4X"), ("--max-work", "-1"), ("--max-memory", "nan")):
        with pytest.raises(SystemExit):
            main(["predict", str(run), str(picture), option, value])
        assert f"argument {option}: invalid" in capsys.readouterr().err


@pytest.mark.parametrize("together", [1, 200, 1 << 24])
def test_predict_goes_on_past_a_file_that_is_no_picture(run, tmp_path, capsys, monkeypatch, together):
    """It is a line on standard error, the others are classified, however many at a time; the status is 2."""
    monkeypatch.setattr("bnn.cli.models.MOST_TOGETHER", together)
    names = [f"{k}.png" for k in range(9)]
    for name, pixels in zip(names, load_dataset("digits").test_inputs, strict=False):
        Image.fromarray(pixels[0]).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in names]
    assert main(["predict", str(run), *paths]) == 0
    sound = capsys.readouterr().out.splitlines()
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path / "3.png").unlink()
    (tmp_path / "3.png").mkdir()
    (tmp_path / "8.png").unlink()
    assert main(["predict", str(run), *paths]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [line for k, line in enumerate(sound) if k not in (1, 3, 8)]
    assert [line.split(": ")[:2] for line in printed.err.splitlines()] == [
        ["bnn predict", paths[k]] for k in (1, 3, 8)
    ]
    assert main(["predict", str(run), *paths, "--json"]) == 2
    answers = json.loads(capsys.readouterr().out)
    assert [answer["image"] for answer in answers] == [paths[k] for k in (0, 2, 4, 5, 6, 7)]
    assert main(["predict", str(run), paths[1], "--json"]) == 2
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize("command", ["train", "eval", "predict", "info"])
def test_help_has_an_example(command, capsys):
    """--help of every subcommand ends with an example."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"example: bnn {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["train", "digit"], "unknown recipe 'digit'; did you mean 'digits'?"),
        (["train", "digits", "--epochs", "0"], "epochs = 0 must be positive"),
        (["train", "digits", "--width", "-3"], "width = -3 must be positive"),
        (["train", "digits", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["train", "digits", "--epoch", "3"], "did you mean --epochs?"),
        (["train", "digits", "--optimizer", "adm"], "did you mean 'adam'?"),
        (["train", "digits", "--data", "mnits"], "did you mean 'mnist'?"),
        (["train", "digits", "--seed", "99999999999999999999"], "must be below 2^31"),
        (["train", "digits", "--device", "meta"], "device = 'meta' cannot be used"),
        (["train", "digits", "--resume", "--force"], "give one of them"),
        (["train", "digits", "--width", "900000000"], "not enough memory"),
        (["train", "digits", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["train", "digits", "--device", "tpu"], "device = 'tpu' cannot be used"),
        (["eval", "none.bnn"], "none.bnn: No such file or directory"),
        (["info", "."], "a folder without model.bnn"),
        (["trian"], "invalid choice: 'trian'"),
        ([], "required: COMMAND"),
    ],
)
def test_mistakes_are_one_line(argv, problem, capsys, tmp_path, monkeypatch):
    """A user's mistake is one line on standard error that names option and value, and exit status 2."""
    monkeypatch.chdir(tmp_path)
    assert problem in _fails(capsys, *argv)


@pytest.mark.parametrize(
    "error", [ValueError("of ours"), RuntimeError("a memory format of ours"), OverflowError("of ours")]
)
def test_a_fault_of_ours_is_a_traceback(run, monkeypatch, error):
    """An error that no one raised for the user is not taken for the user's mistake, whatever its words."""
    monkeypatch.setattr("bnn.cli.models.packed_summary", _raising(error))
    with pytest.raises(type(error), match="of ours"):
        main(["info", str(run)])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        torch.OutOfMemoryError("no room"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: no room"),
        RuntimeError("CUDA error: out of memory: no room"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED: no room"),
    ],
)
def test_too_little_memory_is_one_line(run, monkeypatch, capsys, error):
    """NumPy's error, PyTorch's class, and what its CPU allocator says in a plain RuntimeError."""
    monkeypatch.setattr("bnn.cli.models.packed_summary", _raising(error))
    line = _fails(capsys, "info", str(run))
    assert line.startswith("bnn info: not enough memory: ")
    assert "no room" in line


def test_what_the_terminal_cannot_show_is_one_line(run, monkeypatch, capsys):
    """A character that standard output's encoding lacks is no fault of ours."""
    error = UnicodeEncodeError("ascii", "±", 0, 1, "ordinal not in range(128)")
    monkeypatch.setattr("bnn.cli.models.packed_summary", _raising(error))
    assert "'ascii' codec can't encode character" in _fails(capsys, "info", str(run))


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE = 'abc' is no number of processes"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the 2 processes cannot meet, as torchrun has them: "),
    ],
)
def test_processes_that_cannot_meet_are_one_line(variables, problem, monkeypatch, capsys, tmp_path):
    """Variables of torchrun's that were set by hand, and wrongly."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert problem in _fails(capsys, "train", "digits", "--out", str(tmp_path / "run"))


def _raising(error):
    def stand_in(*args):
        raise error

    return stand_in


def test_another_run_in_out_is_refused(run, capsys):
    """--out that holds a run names both ways on, and is left as it was."""
    before = (run / "checkpoint.pt").read_bytes()
    assert "--resume" in _fails(capsys, "train", "digits", "--out", str(run), *SMALL)
    assert "width = 64, not 65" in _fails(
        capsys, "train", "digits", "--out", str(run), *SMALL, "--width", "65", "--resume"
    )
    assert (run / "checkpoint.pt").read_bytes() == before


def test_a_run_that_is_alive_is_left_alone(run, tmp_path, capsys):
    """Neither trained in, alone or as one of several seeds, nor copied from; the line says who is there."""
    small = ["--out", str(run), *SMALL]
    with one_writer(run):
        for argv in (
            ["train", "digits", *small, "--force"],
            ["train", "digits", *small, "--seeds", "2"],
            ["export", str(run), "--to", "folder", str(tmp_path / "hub")],
        ):
            assert f"{run} is being written by process {os.getpid()} on " in _fails(capsys, *argv)
    assert not (tmp_path / "hub").exists()
    assert main(["export", str(run / "model.bnn"), "--to", "folder", str(tmp_path / "hub")]) == 0
    capsys.readouterr()


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_the_folder_of_a_seed_is_no_link(tmp_path, capsys):
    """Nothing is cleared elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.bnn").write_text("mine")
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seed-0").symlink_to(tmp_path / "elsewhere")
    argv = ["train", "digits", "--out", str(tmp_path / "seeds"), "--seeds", "2", "--force", *SMALL]
    assert main(argv) == 2
    assert "seed-0 is no folder, or leads to another: delete it" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "model.bnn").read_text() == "mine"


def test_several_seeds_hold_the_folder_around_them(tmp_path, monkeypatch):
    """While they run, no single run begins there."""
    held = []

    def train(config, folder, **options):
        around = no_writer(tmp_path / "seeds")
        with pytest.raises(UserError, match="seeds is being written by process"), around:
            pass
        held.append(folder.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("bnn.training.run.train", train)
    assert main(["train", "digits", "--out", str(tmp_path / "seeds"), "--seeds", "2", *SMALL]) == 130
    assert held == ["seed-0"]
    assert not (tmp_path / "seeds").exists()


def test_out_that_is_a_file_is_refused(tmp_path, capsys):
    """A file where the run's folder should be is not touched."""
    path = tmp_path / "file"
    path.write_text("mine")
    assert str(path) in _fails(capsys, "train", "digits", "--out", str(path), *SMALL)
    assert path.read_text() == "mine"


def test_no_space_is_one_line(tmp_path, capsys, monkeypatch):
    """A full disk is one line with the system's words, and leaves no temporary file."""

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("bnn.training.checkpoints.write_atomically", full)
    assert "No space left on device" in _fails(
        capsys, "train", "digits", "--out", str(tmp_path / "r"), *SMALL
    )


def test_data_folder_without_files(tmp_path, capsys):
    """An image folder with nothing in it is named, and the run's folder is not even made."""
    (tmp_path / "empty").mkdir()
    out = tmp_path / "never"
    assert "empty" in _fails(capsys, "train", "digits", "--data", str(tmp_path / "empty"), "--out", str(out))
    assert not out.exists()


def test_damaged_model_is_one_line(run, tmp_path, capsys):
    """A truncated .bnn file is a line, for every command that reads one."""
    path = tmp_path / "cut.bnn"
    path.write_bytes((run / "model.bnn").read_bytes()[:-100])
    for command in (["eval"], ["info"], ["predict"]):
        assert "cut.bnn" in _fails(capsys, *command, str(path), *["x.png"] * (command == ["predict"]))


def test_no_image_is_one_line(run, tmp_path, capsys):
    """A text file given to predict is named."""
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert "notes.txt: not an image" in _fails(capsys, "predict", str(run), str(path))


def test_eval_on_data_of_another_shape(run, capsys, tmp_path):
    """Data that does not fit the model names both shapes."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.fromarray(np.full((9, 9), i, dtype=np.uint8)).save(tmp_path / label / f"{i}.png")
    assert "(1, 9, 9), the model takes (1, 8, 8)" in _fails(capsys, "eval", str(run), "--data", str(tmp_path))


def test_eval_on_other_classes(run, capsys, tmp_path):
    """Data of the right shape but with other classes is refused, not scored."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(tmp_path / label / f"{i}.png")
    line = _fails(capsys, "eval", str(run), "--data", str(tmp_path))
    assert "its classes are cat, dog, the model's 0, 1, 2" in line


def test_a_model_of_a_folder_asks_for_its_data(capsys, tmp_path):
    """A network trained on a folder of images carries no path; eval asks for --data, and then works."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / label / f"{i}.png")
    pets, out = str(tmp_path / "pets"), str(tmp_path / "run")
    assert main(["train", "digits", "--data", pets, "--validation", "4", "--out", out, *SMALL]) == 0
    assert "give --data" in _fails(capsys, "eval", out)
    assert main(["eval", out, "--data", pets]) == 0


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path, capsys, monkeypatch):
    """Interrupted in the second epoch, the command says how to go on, and --resume does."""
    argv = ["train", "digits", "--out", str(tmp_path), *SMALL]

    with monkeypatch.context() as patch:
        patch.setattr("bnn.training.run.metrics_csv", interrupt_after(2))
        assert main(argv) == 130
    assert "--resume" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 0
    assert "epoch   1" not in capsys.readouterr().out


def interrupt_after(epochs):
    """A stand-in for metrics_csv that presses Ctrl-C once there are so many rows."""
    from bnn.training.reports import metrics_csv

    def stand_in(rows):
        if len(rows) >= epochs:
            raise KeyboardInterrupt
        return metrics_csv(rows)

    return stand_in


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
from bnn.cli import main
sys.exit(main({argv!r}))
"""


def _without(blocked, *argv):
    code = BLOCKED.format(blocked=blocked, argv=list(argv))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_the_edge_side_needs_no_torch(run, tmp_path):
    """eval, info and predict work where torch, pandas, rich, matplotlib and certifi are not installed."""
    blocked = ["torch", "pandas", "rich", "matplotlib", "certifi", "tensorboard"]
    Image.fromarray(load_dataset("digits").test_inputs[0, 0]).save(tmp_path / "digit.png")
    for argv in (
        ["eval", str(run), "--json"],
        ["info", str(run)],
        ["predict", str(run), str(tmp_path / "digit.png")],
    ):
        done = _without(blocked, *argv)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_a_missing_extra_names_its_install_command(run, tmp_path):
    """Without torch, train says what to install; without Pillow, predict does."""
    done = _without(["torch"], "train", "digits", "--out", str(tmp_path / "r"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'binaryconnect[train]'" in done.stderr
    (tmp_path / "x.png").write_bytes(b"")
    done = _without(["PIL"], "predict", str(run), str(tmp_path / "x.png"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'binaryconnect[images]'" in done.stderr


def test_import_is_light():
    """`import bnn` and loading a model load numpy and safetensors, and none of the training side."""
    code = "import bnn, sys; bnn.load; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    loaded = set(done.stdout.split())
    assert {"bnn", "numpy", "safetensors"} <= loaded
    heavy = {
        "torch",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "rich",
        "certifi",
        "PIL",
        "tensorboard",
        "onnx",
    }
    assert not loaded & heavy


def test_every_public_name_exists():
    """Each name of bnn.__all__ can be imported from bnn, and an unknown one is an AttributeError."""
    import bnn

    assert all(getattr(bnn, name) is not None for name in bnn.__all__)
    assert set(bnn.__all__) <= set(dir(bnn))
    with pytest.raises(AttributeError, match="no attribute 'binarise'"):
        bnn.binarise  # noqa: B018
