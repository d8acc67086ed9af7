"""The command `bnn`. Each subcommand parses, calls what the library offers, and prints.

Nothing here imports torch but `train`, inside its function: the rest works on the deployment side.
"""

import argparse
import difflib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import numpy as np

from bnn import __version__
from bnn.bench import bench, instruction_sets, model_cases, select, standard_cases
from bnn.config import TrainConfig, recipes
from bnn.data import DATASETS, load_dataset
from bnn.errors import MissingExtraError, require
from bnn.files import write_atomically
from bnn.images import read_image
from bnn.runtime import ACTIVATIONS, ENGINES, Runner, load
from bnn.runtime.threads import thread_count
from bnn.studies import NAMES as STUDIES
from bnn.studies import find
from bnn.summary import as_dict, layer_costs
from bnn.tables import table

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 1 failed, 2 the user's mistake, 130 Ctrl-C."""
    options = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_warn, options.command)
            return _run(options)
    except BrokenPipeError:  # `bnn info ... | head`
        sys.stderr.close()
        return 1


def _warn(command: str, message: Warning | str, *where: Any) -> None:
    print(f"bnn {command}: warning: {message}", file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    try:
        status: int = options.run(options)
        sys.stdout.flush()  # a closed pipe shows here, not at exit
        return status
    except KeyboardInterrupt:
        print(f"\nbnn {options.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, OverflowError, MissingExtraError) as error:
        return _complain(options.command, str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error) and "alloc" not in str(error):
            raise  # a mistake of ours
        return _complain(options.command, f"not enough memory: {str(error)[:200]}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(options.command, f"{where}{error.strerror or error}")


def _complain(command: str, message: str) -> int:
    print(f"bnn {command}: {' '.join(message.split())}", file=sys.stderr)
    return 2


# --- train ------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    # GNU OpenMP's threads spin for long while they wait; where something else runs, they starve each other: a
    # step took 800 ms instead of 50. It reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    require("torch", "train")
    from bnn.training import TrainingDiverged, train

    names = [f.name for f in fields(TrainConfig)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = TrainConfig.from_recipe(options.recipe, **given)
    out = Path(options.out or Path("runs") / Path(options.recipe).stem)
    if options.seeds is not None and options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: must be at least 1")
    if options.seeds and (out / "config.toml").exists():
        raise ValueError(f"{out} holds a single run: choose another --out for --seeds")
    seeds = range(config.seed, config.seed + (options.seeds or 1))
    results = {}
    for seed in seeds:
        folder = out / f"seed-{seed}" if options.seeds else out
        try:
            with _progress() as (on_step, on_epoch):
                results[seed] = train(
                    replace(config, seed=seed),
                    folder,
                    data_dir=options.data_dir,
                    resume=options.resume,
                    force=options.force,
                    on_step=on_step,
                    on_epoch=on_epoch,
                )
        except TrainingDiverged as error:
            print(f"bnn train: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                f"\nbnn train: interrupted; the same command with --resume goes on in {folder}",
                file=sys.stderr,
            )
            return 130
        _print_result(asdict(results[seed]), f"{config.data} (seed {seed})")
        print(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if options.seeds:
        _print_spread({seed: asdict(result) for seed, result in results.items()}, out)
    return 0


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[Any], None]]]:
    """A line for each epoch on standard output; on a terminal, a bar on standard error as well."""

    def line(row: Any) -> str:
        parts = [
            f"epoch {row.epoch:3d}",
            f"loss {row.loss_train:.4f}",
            f"train {100 * row.acc_train:.2f} %",
        ]
        if row.acc_val is not None:
            parts.append(f"validation {100 * row.acc_val:.2f} %")
        if row.flip_ratio is not None:
            parts.append(f"flips {100 * row.flip_ratio:.2f} %")
        return "  ".join([*parts, f"{row.seconds:.1f} s"])

    if not sys.stderr.isatty():
        yield lambda step, steps: None, lambda row: print(line(row), flush=True)
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
        # Where both streams are one terminal, the line has to go above the bar.
        out = console.out if sys.stdout.isatty() else print
        yield lambda step, steps: bar.update(task, completed=step, total=steps), lambda row: out(line(row))


def _print_result(result: dict[str, Any], data: str) -> None:
    ratio = result["float_bytes"] / result["packed_bytes"]
    kind = result["frozen_weights"]
    rows = [
        ["trained", result["trained_weights"], _percent(result["trained"]), ""],
        ["frozen", kind, _percent(result["frozen"]), f"{result['float_bytes']:,}"],
        [
            "packed",
            kind,
            _percent(result["packed"]),
            f"{result['packed_bytes']:,} ({ratio:.1f} times smaller)",
        ],
    ]
    print(f"\ntest accuracy on {result['test_samples']:,} images of {data}, read once")
    print(table(["network", "weights", "accuracy", "bytes"], rows))


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
    print(f"\ntest accuracy over {len(results)} seeds, mean ± standard deviation")
    print(table(["network", "accuracy"], rows))


# --- eval, predict, info ----------------------------------------------------------------------------------


def _load(model: str, **options: Any) -> tuple[Runner, Path]:
    """A model by its file or its run's folder; `options` are those of `bnn.load`."""
    path = Path(model)
    if path.is_dir():
        path = path / "model.bnn"
        if not path.exists():
            raise ValueError(f"{model}: a folder without model.bnn; is its training finished?")
    return load(path, **options), path


def _eval(options: argparse.Namespace) -> int:
    how = {"engine": options.engine, "threads": options.threads}
    runner, path = _load(options.model, activations=options.activations, **how)
    name = options.data or runner.model.about.get("data")
    if not name:
        raise ValueError(f"{path} does not say what data it was trained on: give --data")
    data = load_dataset(name, options.data_dir)
    if data.test_images.shape[1:] != runner.model.input.shape:
        raise ValueError(
            f"--data {name}: its images are {data.test_images.shape[1:]}, "
            f"the model takes {runner.model.input.shape}"
        )
    labels = runner.model.input.labels
    if labels and labels != data.classes:
        raise ValueError(f"--data {name}: its classes are {_list(data.classes)}, the model's {_list(labels)}")

    def accuracy_of(runner: Runner) -> float:
        return float(np.mean(runner.predict(data.test_images) == data.test_labels))

    accuracy = accuracy_of(runner)
    exact = accuracy_of(load(path, **how)) if runner.activations == "int8" else accuracy
    weights = runner.model.about.get("weights", "unknown")
    result = {
        "accuracy": accuracy,
        "n": len(data.test_labels),
        "weights": weights,
        "engine": runner.engine,
        "isa": runner.isa,
        "activations": runner.activations,
        "data": name,
    }
    if runner.activations == "int8":
        result["accuracy_float32"] = exact
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{_percent(accuracy)} of {len(data.test_labels):,} test images of {name} "
            f"({weights} weights, {runner.engine} engine, {runner.isa})"
        )
        if runner.activations == "int8":
            change = f"{100 * (accuracy - exact):+.2f} points"
            print(f"with int8 activations; {_percent(exact)} with float32: {change}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    runner, _ = _load(options.model)
    labels = runner.model.input.labels
    read = [read_image(path, runner.model.input) for path in options.images]
    outputs = runner(np.stack([pixels for pixels, _ in read]))
    answers = []
    for path, (_, notes), scores in zip(options.images, read, outputs, strict=True):
        index = int(scores.argmax())
        label = labels[index] if labels else str(index)
        answers.append(
            {"image": path, "class": index, "label": label, "converted": notes, "scores": scores.tolist()}
        )
    if options.json:
        print(json.dumps(answers))
    else:
        for answer in answers:
            converted = "; ".join(answer["converted"])
            print(f"{answer['image']}: {answer['label']}" + (f"   ({converted})" if converted else ""))
    return 0


def _info(options: argparse.Namespace) -> int:
    runner, path = _load(options.model, engine="reference")  # nothing is run
    info = as_dict(runner.model, path.stat().st_size)
    if options.json:
        print(json.dumps(info))
        return 0
    rows = [
        [
            layer.name,
            layer.operation,
            "x".join(map(str, layer.output_shape)),
            f"{layer.one_bit_weights:,}" if layer.one_bit_weights else "",
            f"{layer.float_parameters:,}" if layer.float_parameters else "",
            f"{layer.bytes:,}" if layer.bytes else "",
            f"{layer.macs:,}" if layer.macs else "",
            layer.macs_kind,
        ]
        for layer in layer_costs(runner.model)
    ]
    contract = runner.model.input
    print(f"{path}: takes {'x'.join(map(str, contract.shape))}", end="")
    print(
        f", uint8 pixels (mean {_numbers(contract.mean)}, deviation {_numbers(contract.std)})"
        * bool(contract.mean)
    )
    print(", ".join(f"{key}: {value}" for key, value in sorted(info["about"].items())))
    print()
    head = ["layer", "operation", "output", "one-bit", "float", "bytes", "multiply-accumulates", "of"]
    print(table(head, rows))
    ratio = info["float_bytes"] / info["file_bytes"]
    print(
        f"\n{info['one_bit_weights']:,} one-bit weights and {info['float_parameters']:,} float parameters "
        f"in {info['file_bytes']:,} bytes: {ratio:.1f} times smaller than in float32"
    )
    return 0


# --- bench ------------------------------------------------------------------------------------------------


def _bench(options: argparse.Namespace) -> int:
    sets = instruction_sets()
    isa = options.isa or os.environ.get("BNN_ISA") or sets[-1]
    if isa not in sets:
        source = "--isa" if options.isa else "BNN_ISA"
        raise ValueError(f"{source}: kernels must be one of {', '.join(sets)} on this processor, not {isa!r}")
    thread_count(options.threads)
    if options.repeats < 1:
        raise ValueError(f"--repeats {options.repeats}: must be at least 1")
    for path in filter(None, (options.json, options.png)):  # better now than after minutes
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path}: cannot be written")
    if options.png:
        require("matplotlib", "bench")
    if options.model:
        skipped: list[str] = []
        cases = model_cases(_load(options.model, engine="reference")[0].model, isa, options.threads)
    else:
        cases, skipped = standard_cases(isa, options.threads)
    cases = select(cases, options.only)

    def on_case(index: int, case: Any) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{index + 1} of {len(cases)}: {case.name}", end="", file=sys.stderr, flush=True)

    report = bench(cases, isa, options.threads, options.repeats, skipped, on_case)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(report)
    if options.json:
        write_atomically(options.json, (json.dumps(report.as_dict(), indent=1) + "\n").encode())
    if options.png:
        report.draw(options.png)
    for line in report.wrong():
        print(f"bnn bench: WRONG: {line}", file=sys.stderr)
    return 1 if report.wrong() else 0


# --- study ------------------------------------------------------------------------------------------------


def _study(options: argparse.Namespace) -> int:
    for module in ("torch", "pandas"):
        require(module, "train")
    study = find(options.name)
    from bnn.studies.study import conduct, markdown

    asked = {name: getattr(options, name) for name in ("seeds", "epochs", "width")}
    settings = study.options(options.data, options.data_dir, **asked)
    out = Path(options.out or Path("studies") / f"{options.name}-{options.data}")

    def on_cell(variant: str, seed: int) -> None:
        print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)

    print(f"{study.title}\n\n{markdown(conduct(study, settings, out, on_cell))}\n\nin {out}: report.md")
    return 0


# --- text -------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


# --- options ----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, with the nearest option where one was mistyped."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)  # an abbreviation may mean another option tomorrow

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            option = message.split()[2].partition("=")[0]
            close = difflib.get_close_matches(option, self._option_string_actions, n=1)
            message += f" (did you mean {close[0]}?)" if close else ""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Subparsers hand unknown options up to the main parser, which does not know what is near them.
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog != "bnn":
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bnn",
        description="Train one-bit networks, and run them.",
        epilog="bnn COMMAND --help shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"bnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    experiment = _command(
        commands,
        "study",
        _study,
        "run an experiment: a table, figures and a report",
        "bnn study from-scratch --data digits",
    )
    experiment.add_argument("name", metavar="NAME", help=", ".join(STUDIES))
    experiment.add_argument("--data", default="mnist", metavar="NAME", help="mnist (default), digits, ...")
    _data_dir(experiment)
    experiment.add_argument(
        "--out", metavar="DIR", help="its folder; what is done there is not done again (default: studies/...)"
    )
    for name, text in (("seeds", "runs of each variant"), ("epochs", "of training"), ("width", "of layers")):
        experiment.add_argument(f"--{name}", type=int, metavar="N", help=f"{text} (default: the study's)")

    train = _command(
        commands,
        "train",
        _train,
        "train, freeze, pack and test a network",
        "bnn train mnist --epochs 3 --out runs/first",
    )
    train.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(recipes())}, or a TOML file")
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    _data_dir(train)
    train.add_argument(
        "--seeds", type=int, metavar="N", help="N runs with seeds from --seed on, and their spread"
    )
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--force", action="store_true", help="start anew in --out")
    _config_options(train)

    evaluate = _command(
        commands, "eval", _eval, "test accuracy of a packed model", "bnn eval runs/mnist --json"
    )
    _model(evaluate)
    evaluate.add_argument(
        "--data", metavar="NAME", help=f"{', '.join(DATASETS)}, or a folder (default: the model's)"
    )
    _data_dir(evaluate)
    evaluate.add_argument("--engine", default="native", metavar="NAME", help=f"one of {', '.join(ENGINES)}")
    evaluate.add_argument(
        "--activations",
        default="float32",
        metavar="DTYPE",
        help=f"one of {', '.join(ACTIVATIONS)}; with int8 the change of accuracy is shown",
    )
    _threads(evaluate)
    _json(evaluate)

    predict = _command(
        commands, "predict", _predict, "classify image files", "bnn predict runs/mnist seven.png"
    )
    _model(predict)
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="image files; converted as needed")
    _json(predict)

    info = _command(commands, "info", _info, "layers, sizes and operations", "bnn info runs/mnist/model.bnn")
    _model(info)
    _json(info)

    compare = _command(
        commands,
        "bench",
        _bench,
        "time one bit beside PyTorch and ONNX Runtime on this machine",
        "bnn bench runs/mnist --png bench.png",
    )
    compare.add_argument(
        "model", metavar="MODEL", nargs="?", help="a .bnn file, or a run's folder (default: standard shapes)"
    )
    compare.add_argument("--threads", type=int, default=1, metavar="N", help="on both sides (default: 1)")
    compare.add_argument("--isa", metavar="NAME", help="our kernels (default: the processor's best)")
    compare.add_argument("--only", default="", metavar="TEXT", help="cases that have it in their name")
    compare.add_argument("--repeats", type=int, default=30, metavar="N", help="of each timing (default: 30)")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, for programs")
    compare.add_argument("--png", type=Path, metavar="FILE", help="draw a bar chart")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .bnn file, or a run's folder")


def _data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="holds a folder for each data set (default: $BNN_DATA_DIR, or a cache)",
    )


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="at most that many (default: $BNN_NUM_THREADS, or all cores)"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _config_options(parser: argparse.ArgumentParser) -> None:
    """An option for every field of TrainConfig, declared there and nowhere else."""
    group = parser.add_argument_group("fields of the recipe")
    hints = get_type_hints(TrainConfig)
    for f in fields(TrainConfig):
        flag, hint, text = (
            "--" + f.name.replace("_", "-"),
            hints[f.name],
            f.metadata["help"].replace("%", "%%"),
        )
        assert f.default is not MISSING
        if hint is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif get_origin(hint) is Literal:
            choices = "{" + ",".join(get_args(hint)) + "}"
            group.add_argument(flag, metavar=choices, help=text)  # checked with the recipe's values
        else:
            group.add_argument(flag, type=hint, metavar=hint.__name__.upper(), help=text)


if __name__ == "__main__":
    sys.exit(main())
