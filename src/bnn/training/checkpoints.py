"""A run's folder: whose it is, and the checkpoint from which it goes on."""

import hashlib
import io
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnn.config import ConfigError, TrainConfig
from bnn.errors import UserError, first_lines, is_out_of_memory, warn
from bnn.files import make_own_folder, read_whole, replacing, sweep, write_atomically
from bnn.training.diagnostics import LayerState
from bnn.training.reports import Row

__all__ = [
    "RunError",
    "State",
    "check_free",
    "claim",
    "find_checkpoint",
    "read_checkpoint",
    "restore",
    "save_checkpoint",
]

CHECKPOINT = "checkpoint.pt"
BEFORE = "checkpoint-before.pt"
"""The checkpoint of the epoch before: what is left if the last one is damaged."""
# The model first, as they are removed: who reads it before and after other files has those of one run.
RESULTS = ("model.bnn", CHECKPOINT, BEFORE, "metrics.csv", "layers.csv", "curves.png", "result.json")
MOST_BYTES = 2**34
"""That a checkpoint may have."""


class RunError(UserError):
    """The run's folder does not fit what was asked. The message is one line."""


@dataclass
class State:
    """Everything that changes in a run, and so everything that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    shuffler: torch.Generator
    rows: list[Row]
    layers: list[list[LayerState]]  # of each epoch
    shape: tuple[int, ...]  # of an image; with `classes`, what is needed to build the model again
    classes: int


def check_free(out: Path, config: TrainConfig, resume: bool, force: bool) -> None:
    """Raises RunError if the folder cannot be this run's."""
    if resume and force:
        raise RunError("--resume goes on with a run and --force starts anew: give one of them")
    marker = out / "config.toml"
    if (out / "seeds.json").exists():
        raise RunError(f"{out} holds the runs of several seeds: choose another folder")
    if any((out / name).exists() for name in ("config.toml", *RESULTS)) and not force:
        if not resume:
            raise RunError(f"{out} holds another run: --resume goes on with it, --force starts anew")
        if not marker.exists():
            raise RunError(f"{out} holds results but no config.toml, so what to resume is unknown")
        _compare(TrainConfig.from_recipe(marker), config, out)


def claim(out: Path, config: TrainConfig, force: bool) -> None:
    """Makes the folder this run's; `force` clears another's results away.

    Raises:
        UserError: its `tensorboard` is a link, or no folder.
        OSError: it cannot be written.
    """
    make_own_folder(out / "tensorboard")
    for name in RESULTS:
        sweep(out / name)  # not all of them need be written again
    if force:
        for name in RESULTS:
            (out / name).unlink(missing_ok=True)
        for path in (out / "tensorboard").glob("events.out.tfevents.*"):
            if stat.S_ISREG(path.lstat().st_mode):
                path.unlink()
    write_atomically(out / "config.toml", config.to_toml().encode())


def _compare(before: TrainConfig, now: TrainConfig, out: Path) -> None:
    for f in fields(TrainConfig):
        old, new = getattr(before, f.name), getattr(now, f.name)
        if old != new and f.name != "device":  # a run may move to another
            raise RunError(
                f"{out} was made with {f.name} = {old!r}, not {new!r}: resume it as it was, or --force"
            )


def save_checkpoint(out: Path, config: TrainConfig, state: State) -> None:
    """Writes the checkpoint, whole or not at all, and keeps the one before."""
    content = {
        "config": asdict(config),
        "shape": list(state.shape),
        "classes": state.classes,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "shuffler": state.shuffler.get_state(),
        "rows": [asdict(row) for row in state.rows],
        "layers": [[asdict(layer) for layer in layers] for layers in state.layers],
    }
    buffer = io.BytesIO()  # writing to a full disk then raises OSError, not what torch makes of it
    torch.save(content, buffer)
    archive = buffer.getbuffer()
    assert bytes(archive[-22:-18]) == b"PK\5\6", "no end of an archive without a comment"
    archive[-2:] = hashlib.sha256().digest_size.to_bytes(2, "little")  # the comment's length
    with replacing(out / CHECKPOINT, keep=out / BEFORE) as file:
        file.write(archive)
        file.write(hashlib.sha256(archive).digest())  # the comment: what all before it must have


def _check_seal(content: bytes) -> None:
    """Raises ValueError if a byte is not as it was written. Earlier releases' archives have no comment."""
    if content[-22:].startswith(b"PK\5\6") and content.endswith(b"\0\0"):
        return
    archive, digest = memoryview(content)[:-32], content[-32:]
    if hashlib.sha256(archive).digest() != digest:
        raise ValueError("its bytes are not those that were written")


def read_checkpoint(out: Path, name: str = CHECKPOINT) -> tuple[TrainConfig, dict[str, Any]]:
    """The config and the contents of a run's checkpoint.

    Raises:
        RunError: there is none, or it is damaged.
        OSError: it cannot be read, or is no file.
    """
    path = out / name
    try:
        written = read_whole(path, MOST_BYTES)
    except FileNotFoundError as error:
        raise RunError(f"{out} has no {name}") from error
    try:
        _check_seal(written)
        content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
        return TrainConfig(**content["config"]), content
    except ConfigError as error:
        raise RunError(f"{path}: {error}") from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        if is_out_of_memory(error):
            raise
        raise RunError(f"{path} is damaged: {first_lines(error)}") from error


def find_checkpoint(out: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The contents of the checkpoint in `out`, or None where the run had not got that far.

    If it is damaged or gone, those of the one before, and a RuntimeWarning says so.

    Raises:
        RunError: it is of another config, or both are damaged.
        OSError: it cannot be read.
    """
    if not (out / CHECKPOINT).exists() and not (out / BEFORE).exists():
        return None
    fault, name = None, CHECKPOINT
    try:
        begun, content = read_checkpoint(out)
    except RunError as error:
        fault, name = error, BEFORE
        try:
            begun, content = read_checkpoint(out, name)
        except RunError:
            raise fault from None
    _compare(begun, config, out / name)
    if fault is not None:
        (out / CHECKPOINT).unlink(missing_ok=True)  # or the next would put it in the place of the one before
        text = f"{fault}: goes on from {BEFORE}, after epoch {len(content['rows'])}"
        warn(text, RuntimeWarning, stacklevel=2)
    return content


def restore(content: dict[str, Any], state: State, out: Path) -> None:
    """Puts `state` where the checkpoint's run was.

    Raises:
        RunError: it is of another architecture.
    """
    try:
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.schedule.load_state_dict(content["schedule"])
        state.shuffler.set_state(content["shuffler"])
        state.rows[:] = [Row(**row) for row in content["rows"]]
        state.layers[:] = [[LayerState(**layer) for layer in layers] for layers in content["layers"]]
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"the checkpoint in {out} is of another architecture: {first_lines(error)}") from error
