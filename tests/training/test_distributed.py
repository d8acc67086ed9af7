"""Several processes train one network: `torchrun` with gloo, against one process."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bnn.cli import main
from bnn.config import ConfigError, TrainConfig
from bnn.training.checkpoints import read_checkpoint
from bnn.training.distributed import World
from bnn.training.loop import Batches
from bnn.training.run import load_trained, train
from bnn.training.samples import Samples, shuffled

# One step an epoch, so that metrics.csv has the loss of every step.
STEPS = ["--epochs", "20", "--batch-size", "1000", "--validation", "300", "--dropout-in", "0"]
WITHOUT_BATCH_NORM = ["--model", "logistic_regression", "--lr", "0.01"]


def bnn_train(out: Path, *options: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, *(launcher if processes > 1 else ["-m"]), "bnn.cli", "train", "digits"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--out", str(out), *options], env=environment, capture_output=True, text=True, timeout=300
    )


def column(out: Path, name: str) -> np.ndarray:
    with (out / "metrics.csv").open() as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


@pytest.mark.parametrize("adversarial", ["0", pytest.param("0.1", marks=pytest.mark.slow)])
def test_two_processes_are_as_one(tmp_path: Path, adversarial: str) -> None:
    """Without batch norm twenty steps have the same losses; one process writes, and says it once."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    options = [*STEPS, *WITHOUT_BATCH_NORM, "--adversarial", adversarial]
    assert main(["train", "digits", "--out", str(alone), *options]) == 0
    done = bnn_train(both, *options, processes=2)
    assert done.returncode == 0, done.stderr
    assert len(column(both, "loss_train")) == 20
    for name in ("loss_train", "loss_val", "acc_train", "acc_val"):
        np.testing.assert_allclose(column(both, name), column(alone, name), rtol=1e-6)
    assert done.stdout.count("epoch  20 ") == 1
    assert done.stdout.count("read once") == 1
    assert {path.name for path in both.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.slow
def test_a_checkpoint_moves_between_one_and_two_processes(tmp_path: Path) -> None:
    """Ten epochs in one process and ten more in two, or the other way round, are twenty in one."""
    whole = tmp_path / "whole"
    config = _config()
    train(config, whole)
    for name, first, second in (("grow", 1, 2), ("shrink", 2, 1)):
        out = tmp_path / name
        stopped = subprocess.run(
            [sys.executable, *_launch(first), "-c", _STOP_AFTER_TEN.format(out=str(out))]
            if first == 1
            else [sys.executable, *_launch(first), _script(tmp_path, out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert len(column(out, "loss_train")) == 10, stopped.stderr
        done = bnn_train(out, *STEPS, *WITHOUT_BATCH_NORM, "--resume", processes=second)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(column(out, "loss_train"), column(whole, "loss_train"), rtol=1e-6)
        weights = [load_trained(folder).state_dict() for folder in (out, whole)]
        for key in weights[0]:
            assert torch.allclose(weights[0][key], weights[1][key], atol=1e-6)


def _config(**changes) -> TrainConfig:
    values = {
        "epochs": 20,
        "batch_size": 1000,
        "validation": 300,
        "dropout_in": 0.0,
        "model": "logistic_regression",
        "lr": 0.01,
    }
    return TrainConfig.from_recipe("digits", **(values | changes))


_STOP_AFTER_TEN = """
from bnn.config import TrainConfig
from bnn.training import Progress, train
class Stop(Progress):
    def epoch(self, row):
        if row.epoch == 10:
            raise SystemExit(3)
config = TrainConfig.from_recipe("digits", epochs=20, batch_size=1000, validation=300, dropout_in=0.0,
                                 model="logistic_regression", lr=0.01)
train(config, {out!r}, progress=Stop())
"""


def _script(folder: Path, out: Path) -> str:
    path = folder / "stop.py"
    path.write_text(_STOP_AFTER_TEN.format(out=str(out)))
    return str(path)


def _launch(processes: int) -> list[str]:
    if processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


@pytest.mark.slow
def test_batch_norm_and_stochastic_weights_in_two_processes(tmp_path: Path) -> None:
    """The whole recipe trains, each process with samples and statistics of its own, and packs one network."""
    done = bnn_train(
        tmp_path / "run", "--weights", "stochastic", "--lr", "0.03", "--epochs", "8", "--batch-size", "50",
        "--width", "128", "--accumulate", "5", processes=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy = column(tmp_path / "run", "acc_val")
    assert accuracy[-1] > 0.8
    _, content = read_checkpoint(tmp_path / "run")
    assert all(value.isfinite().all() for value in content["model"].values())


_THREADS_LEFT = """
import sys
from pathlib import Path
from bnn.config import TrainConfig
from bnn.training import train
train(TrainConfig.from_recipe("digits", epochs=1, width=16), sys.argv[1])
sys.exit(any("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are read from /proc")
def test_the_group_ends_with_its_threads(tmp_path: Path) -> None:
    """After a run no thread of gloo is left: one that met Python's shutdown would abort the process."""
    (tmp_path / "script.py").write_text(_THREADS_LEFT)
    done = subprocess.run(
        [sys.executable, *_launch(2), str(tmp_path / "script.py"), str(tmp_path / "run")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_an_error_of_the_first_process_ends_all(tmp_path: Path) -> None:
    """A folder that holds another run is refused by all, and what is wrong is said."""
    (tmp_path / "config.toml").write_text("epochs = 3\n")
    done = bnn_train(tmp_path, processes=2)
    assert done.returncode != 0
    assert "holds another run" in done.stderr
    assert "bnn/training.py" not in done.stderr  # one line, and torchrun's own report


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_accumulated_pieces_are_the_batch(tmp_path: Path, adversarial: float) -> None:
    """Without batch norm a batch in five pieces gives the losses of the whole one."""
    for pieces in (1, 5):
        train(_config(epochs=5, accumulate=pieces, adversarial=adversarial), tmp_path / str(pieces))
    five, one = (column(tmp_path / pieces, "loss_train") for pieces in ("5", "1"))
    np.testing.assert_allclose(five, one, rtol=1e-6)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_shares_of_a_batch(augment: str) -> None:
    """Processes get disjoint shares, which in order of rank are the batch of a single one."""
    images = torch.randint(0, 256, (23, 1, 8, 8), dtype=torch.uint8)
    samples = Samples(images, torch.arange(23), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))

    def epoch(share: tuple[int, int], pieces: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(shuffled(samples, 8, augment, torch.Generator().manual_seed(0), share, pieces))

    whole = epoch((0, 1), 1)
    assert [len(labels) for _, labels in whole] == [8, 8]
    shares = [epoch((rank, 2), 2) for rank in (0, 1)]
    for step, (x, labels) in enumerate(whole):
        found = [piece for share in shares for piece in share[2 * step : 2 * step + 2]]
        assert torch.equal(torch.cat([x for x, _ in found]), x)
        assert torch.equal(torch.cat([labels for _, labels in found]), labels)


def test_batches_must_be_shared_equally() -> None:
    """A batch size that processes and pieces do not divide is refused, with the numbers."""
    world = World(0, 3, torch.device("cpu"))
    with pytest.raises(
        ConfigError, match="batch_size = 100 cannot be shared equally by 3 processes in 1 pieces"
    ):
        Batches.of(_config(batch_size=100), 1000, world)
    assert Batches.of(_config(batch_size=99), 50, world) == Batches(size=48, steps=1, accumulate=1)
    with pytest.raises(ConfigError, match="2 samples are too few for 3 pieces of a batch"):
        Batches.of(_config(batch_size=99), 2, world)


def test_a_batch_norm_needs_two_samples() -> None:
    """A piece of one sample is refused before training, unless the network takes no variance of it."""
    config, world = _config(batch_size=4, accumulate=2), World(0, 2, torch.device("cpu"))
    batches = Batches.of(config, 100, world)
    message = "batch_size = 4 leaves one sample to a batch norm, which has no variance: take 8 or more"
    with pytest.raises(ConfigError, match=message):
        batches.check(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), world)
    batches.check(nn.Linear(4, 4), world)
    Batches.of(_config(batch_size=8, accumulate=2), 100, world).check(nn.BatchNorm1d(4), world)
