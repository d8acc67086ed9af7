"""kill -9 at any moment, then --resume: the same outcome as a run that was left alone."""

import csv
import random
import subprocess
import sys
from time import monotonic, sleep

import pytest
import torch

ARGV = [
    sys.executable, "-m", "bnn.cli", "train", "digits", "--weights", "stochastic", "--epochs", "12",
    "--width", "96", "--dropout", "0.2", "--batch-size", "20", "--lr", "0.01",
]  # fmt: skip


def _start(out, *more):
    return subprocess.Popen(
        [*ARGV, "--out", str(out), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(out, *more):
    process = _start(out, *more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def _outcome(out):
    """Everything that a run ends with, but for its seconds."""
    rows = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    metrics = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    weights = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    return (
        metrics,
        {n: v.tolist() for n, v in weights.items()},
        (out / "model.bnn").read_bytes(),
        (out / "result.json").read_text(),
    )


@pytest.mark.slow
def test_twenty_kills_twenty_identical_results(tmp_path):
    """Twenty runs, each killed at a random moment of its life and resumed, end as one that was not killed."""
    start = monotonic()
    _finish(tmp_path / "whole")
    life = monotonic() - start
    expected = _outcome(tmp_path / "whole")
    moments = random.Random(0)
    killed_with_epochs_done = set()
    for number in range(20):
        out = tmp_path / f"killed-{number}"
        process = _start(out)
        sleep(moments.uniform(0, life))
        process.kill()
        process.communicate()
        metrics = out / "metrics.csv"
        killed_with_epochs_done.add(len(metrics.read_text().splitlines()) if metrics.exists() else 0)
        _finish(out, "--resume")
        assert _outcome(out) == expected
        assert not list(out.glob(".*")), "a temporary file was left behind"
    assert len(killed_with_epochs_done) > 3, "the kills all came at the same stage"
