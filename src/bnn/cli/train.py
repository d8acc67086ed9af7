"""`bnn train`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnn.cli.openmp import spin_briefly
from bnn.cli.text import complain, line_of, percent, say, show
from bnn.config import TrainConfig
from bnn.errors import UserError, require
from bnn.files import check_own_folder, one_writer, write_atomically
from bnn.tables import table

__all__ = ["run_train"]


def run_train(options: argparse.Namespace) -> int:
    spin_briefly()
    require("torch", "train")
    names = [f.name for f in fields(TrainConfig)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = TrainConfig.from_recipe(options.recipe, **given)
    out = Path(options.out or Path("runs") / Path(options.recipe).stem)
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: must be at least 1")
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun may have started
    with one_writer(out) if options.seeds and leads else nullcontext():
        if options.seeds and (out / "config.toml").exists():
            raise UserError(f"{out} holds a single run: choose another --out for --seeds")
        return _run_each(options, config, out, leads)


def _run_each(options: argparse.Namespace, config: TrainConfig, out: Path, leads: bool) -> int:
    """A run for each seed, one after the other."""
    from bnn.training.run import TrainingDiverged, train

    seeds = range(config.seed, config.seed + (options.seeds or 1))
    results = {}
    for seed in seeds:
        folder = out / f"seed-{seed}" if options.seeds else out
        if options.seeds:  # what the user names may be a link, what is in it not
            check_own_folder(folder)
        try:
            with _progress() as progress:
                results[seed] = train(
                    replace(config, seed=seed),
                    folder,
                    data_dir=options.data_dir,
                    resume=options.resume,
                    force=options.force,
                    progress=progress,
                )
        except TrainingDiverged as error:
            complain(f"bnn train: {error}")
            return 1
        except KeyboardInterrupt:
            complain("")  # below ^C
            complain(f"bnn train: interrupted; the same command with --resume goes on in {folder}")
            return 130
        if leads:
            _print_result(asdict(results[seed]), f"{config.data} (seed {seed})")
            say(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if options.seeds and leads:
        _print_spread({seed: asdict(result) for seed, result in results.items()}, out)
    return 0


@contextmanager
def _progress() -> Iterator[Any]:
    """A line for each epoch, and for whatever looks wrong in it, on standard output; on a terminal, a bar on
    standard error as well."""
    from bnn.training.reports import Progress

    class Lines(Progress):
        def __init__(self, out: Callable[[str], None]) -> None:
            self.out = out

        def epoch(self, row: Any) -> None:
            self.out(line_of(_line(row)))

        def advice(self, line: str) -> None:
            self.out(line_of(f"  {line}"))

    if not sys.stderr.isatty():
        yield Lines(say)
        return
    progress = require("rich.progress", "train")
    console = require("rich.console", "train").Console(stderr=True)
    with progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("steps"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,  # epoch lines are output, for `> log` as well
    ) as bar:
        task = bar.add_task("training", total=None)

        class Bar(Lines):
            def step(self, done: int, steps: int) -> None:
                bar.update(task, completed=done, total=steps)

        # Where both streams are one terminal, the line has to go above the bar.
        yield Bar(console.out if sys.stdout.isatty() else say)


def _line(row: Any) -> str:
    parts = [f"epoch {row.epoch:3d}", f"loss {row.loss_train:.4f}", f"train {100 * row.acc_train:.2f} %"]
    if row.acc_val is not None:
        parts.append(f"validation {100 * row.acc_val:.2f} %")
    if row.flip_ratio is not None:
        parts.append(f"flips {100 * row.flip_ratio:.2f} %")
    return "  ".join([*parts, f"{row.seconds:.1f} s"])


def _print_result(result: dict[str, Any], data: str) -> None:
    ratio = result["float_bytes"] / result["packed_bytes"]
    kind = result["frozen_weights"] + (", recalibrated" if result["recalibrated"] else "")
    rows = [
        ["trained", result["trained_weights"], percent(result["trained"]), ""],
        ["frozen", kind, percent(result["frozen"]), f"{result['float_bytes']:,}"],
        [
            "packed",
            kind,
            percent(result["packed"]),
            f"{result['packed_bytes']:,} ({ratio:.1f} times smaller)",
        ],
    ]
    say("")
    say(f"test accuracy on {result['test_samples']:,} images of {data}, read once")
    show(table(["network", "weights", "accuracy", "bytes"], rows))


def _print_spread(results: dict[int, dict[str, Any]], out: Path) -> None:
    """Mean and sample standard deviation over the seeds; also in seeds.json."""
    summary: dict[str, Any] = {"seeds": list(results)}
    rows = []
    for name in ("trained", "frozen", "packed"):
        values = np.array([result[name] for result in results.values()])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        summary[name] = {"mean": float(values.mean()), "deviation": deviation, "values": values.tolist()}
        spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
        rows.append([name, f"{100 * values.mean():.2f}{spread} %"])
    write_atomically(out / "seeds.json", (json.dumps(summary, indent=2) + "\n").encode())
    say("")
    say(f"test accuracy over {len(results)} seeds, mean ± standard deviation")
    show(table(["network", "accuracy"], rows))
