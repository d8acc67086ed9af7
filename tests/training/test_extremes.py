"""Values at their extremes, hostile recipes, a TensorBoard folder that cannot be written: one line each."""

import errno
import os
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from tensorboard.summary.writer import record_writer

from bnn.cli import main
from bnn.config import ConfigError, TrainConfig

HINTS = get_type_hints(TrainConfig)
FLOATS = [f.name for f in fields(TrainConfig) if HINTS[f.name] is float]
INTEGERS = [f.name for f in fields(TrainConfig) if HINTS[f.name] is int]
CASES = [
    (name, value) for name in FLOATS for value in ("1e308", "3e38", "5e-324", "-0.0", "-1", "nan", "inf")
]
CASES += [(name, value) for name in INTEGERS for value in ("0", "-1", "1", "2147483647", "1" + "0" * 30)]


def ends_well(capsys: pytest.CaptureFixture[str], argv: list[str], name: str) -> None:
    """Trained, diverged, or refused in one line that names the field or says what is missing."""
    status = main(["train", "digits", "--width", "8", *argv])
    said = capsys.readouterr().err.splitlines()
    assert status in (0, 1, 2)
    assert len(said) == (status != 0)
    if status == 1:
        assert "try a lower lr" in said[0]
    if status == 2:
        assert f"{name} = " in said[0] or "not enough memory" in said[0] or "2147483647 pieces" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [case for case in CASES if case != ("epochs", "2147483647")])
def test_a_value_at_its_extreme_trains_or_is_one_line(
    name: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every number in a recipe."""
    one_epoch = ["--epochs", "1"] * (name != "epochs")
    ends_well(capsys, [*one_epoch, "--out", str(tmp_path), f"--{name.replace('_', '-')}={value}"], name)


def test_latent_weights_do_not_start_where_they_cannot_be() -> None:
    """They are clipped to ±1, and PyTorch cannot draw from ±1e308."""
    assert TrainConfig(latent_init=1.0).latent_init == 1
    for value in (1.01, 1e308):
        with pytest.raises(ConfigError, match=r"latent_init = .* must be at most 1"):
            TrainConfig(latent_init=value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = " + b"[" * 30_000, "recursion"),
        (b"a = " + b"{a = " * 10_000, "recursion"),
        (b"width = " + b"9" * 5000, "digits"),
        (b"width = 0x" + b"f" * 5000, "must be below"),
        (b"validation = 0x" + b"f" * 5000, "must be below"),
        (b"lr = 0x" + b"f" * 5000, "must be finite"),
        (b"loss = 0x" + b"f" * 5000, "is not one of"),
        (b"data = 0x" + b"f" * 5000, "is not of type str"),
        (b"# " + b"c" * (1 << 16), "at most 65,536 are read"),
        (b"data = '\xff'", "utf-8"),
        (b'data = "\\u0000"\nx = 1', "unknown field 'x'"),
        (b"when = 2024-02-31", "recipe"),
        (b"a." * 10_000 + b"a = 1", "unknown field 'a'"),
        (b"\0", "recipe"),
    ],
)
def test_a_hostile_recipe_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    """However deep, long or odd it is."""
    path = tmp_path / "hostile.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_recipe(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    """A pipe is not waited for, a name with NUL not looked up."""
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe.toml")
        with pytest.raises(ConfigError, match="a pipe, not a file"):
            TrainConfig.from_recipe(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="a folder, not a file"):
        TrainConfig.from_recipe(tmp_path / "folder.toml")
    with pytest.raises(ConfigError, match="NUL"):
        TrainConfig.from_recipe("a\0.toml")


@pytest.mark.parametrize("data", ["a\0b", "~nobody-of-that-name/images"])
def test_data_that_no_path_can_be_is_one_line(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A NUL in a recipe, a home folder that is not known."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(TrainConfig.from_recipe("digits", data=data).to_toml(), encoding="utf-8")
    assert main(["train", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("how", ["file", "pipe", "full", "full at once"])
def test_a_tensorboard_folder_that_cannot_be_written_is_one_line(
    how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the folder, or the file in it."""
    folder = tmp_path / "tensorboard"
    reason = "delete it"
    if how == "file":
        folder.touch()
    elif how == "pipe":
        if os.name != "posix":
            pytest.skip("pipes")
        os.mkfifo(folder)
    else:
        reason = os.strerror(errno.ENOSPC)
        write, left = record_writer.RecordWriter.write, [0 if how == "full at once" else 30]

        def full(self: record_writer.RecordWriter, data: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, reason)
            write(self, data)

        monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    assert main(["train", "digits", "--epochs", "2", "--width", "8", "--out", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"bnn train: {folder}")
    assert said.endswith(f": {reason}\n")
    assert said.count("\n") == 1
