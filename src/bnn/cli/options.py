"""The command line's options. Those of `bnn train` are the fields of TrainConfig, declared there alone."""

import argparse
import difflib
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from bnn import __version__
from bnn.cli.experiments import run_bench, run_study
from bnn.cli.models import run_eval, run_export, run_info, run_predict
from bnn.cli.text import line_of
from bnn.cli.train import run_train
from bnn.config import TrainConfig, recipes
from bnn.data import DATASETS
from bnn.export import TARGETS
from bnn.packed.limits import MAX_MEMORY, MAX_WORK
from bnn.runtime import ACTIVATIONS, ENGINES
from bnn.studies import NAMES as STUDIES

__all__ = ["make_parser"]


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, with the nearest option where one was mistyped."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)  # an abbreviation may mean another option tomorrow

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            option = message.split()[2].partition("=")[0]
            close = difflib.get_close_matches(option, self._option_string_actions, n=1)
            message += f" (did you mean {close[0]}?)" if close else ""
        self.exit(2, line_of(f"{self.prog}: {message}; see {self.prog} --help") + "\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Subparsers hand unknown options up to the main parser, which does not know what is near them.
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog != "bnn":
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bnn",
        description="Train one-bit networks, and run them.",
        epilog="bnn COMMAND --help shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"bnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for add in (_train, _evaluate, _predict, _info, _export, _bench, _study):
        add(commands)
    return parser


def _train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        run_train,
        "train, freeze, pack and test a network",
        "bnn train mnist --epochs 3 --out runs/first",
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"{', '.join(recipes())}, or a TOML file")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    _data_dir(parser)
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="N runs with seeds from --seed on, and their spread"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--force", action="store_true", help="start anew in --out")
    _config_options(parser)


def _evaluate(commands: Any) -> None:
    parser = _command(
        commands, "eval", run_eval, "test accuracy of a packed model", "bnn eval runs/mnist --json"
    )
    _model(parser)
    parser.add_argument(
        "--data", metavar="NAME", help=f"{', '.join(DATASETS)}, or a folder (default: the model's)"
    )
    _data_dir(parser)
    parser.add_argument("--engine", default="native", metavar="NAME", help=f"one of {', '.join(ENGINES)}")
    parser.add_argument(
        "--activations",
        default="float32",
        metavar="DTYPE",
        help=f"one of {', '.join(ACTIVATIONS)}; with int8 the change of accuracy is shown",
    )
    _threads(parser)
    _limits(parser)
    _json(parser)


def _predict(commands: Any) -> None:
    parser = _command(
        commands, "predict", run_predict, "classify image files", "bnn predict runs/mnist seven.png"
    )
    _model(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files; converted as needed")
    _limits(parser)
    _json(parser)


def _info(commands: Any) -> None:
    text = "layers, sizes and operations"
    parser = _command(commands, "info", run_info, text, "bnn info runs/mnist/model.bnn")
    _model(parser)
    _max_memory(parser, "its arrays")
    _json(parser)


def _export(commands: Any) -> None:
    text = "a packed model for C, ONNX, the browser, a model hub"
    parser = _command(commands, "export", run_export, text, "bnn export runs/mnist --to c mnist-c")
    _model(parser)
    parser.add_argument("out", metavar="OUT", help="the folder or file to write")
    parser.add_argument(
        "--to",
        required=True,
        metavar="TARGET",
        help="; ".join(f"{name}: {target.text}" for name, target in TARGETS.items()),
    )
    parser.add_argument(
        "--force", action="store_true", help="replace OUT; a folder only if it is an unchanged export"
    )
    parser.add_argument("--unpacked", action="store_true", help="onnx: plain weights of ±1 in float32")
    _max_memory(parser)


def _bench(commands: Any) -> None:
    parser = _command(
        commands,
        "bench",
        run_bench,
        "time one bit beside PyTorch and ONNX Runtime on this machine",
        "bnn bench runs/mnist --png bench.png",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a .bnn file, or a run's folder (default: standard shapes)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="on both sides (default: 1)")
    parser.add_argument("--isa", metavar="NAME", help="our kernels (default: the processor's best)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases that have it in their name")
    parser.add_argument("--repeats", type=int, default=30, metavar="N", help="of each timing (default: 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, for programs")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a bar chart")
    _limits(parser)


def _study(commands: Any) -> None:
    parser = _command(
        commands,
        "study",
        run_study,
        "run an experiment: a table, figures and a report",
        "bnn study from-scratch --data digits",
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--data", default="mnist", metavar="NAME", help="mnist (default), digits, ...")
    _data_dir(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="its folder; results that lie there are kept (default: studies/...)"
    )
    for name, text in (("seeds", "runs of each variant"), ("epochs", "of training"), ("width", "of layers")):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{text} (default: the study's)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="to train on (default: cpu)")


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


def _limits(parser: argparse.ArgumentParser) -> None:
    _max_memory(parser)
    parser.add_argument(
        "--max-work",
        type=_work,
        default=MAX_WORK,
        metavar="CYCLES",
        help=f"of a core, that a sample may take at most, or none (default: {MAX_WORK:.0e})",
    )


def _max_memory(parser: argparse.ArgumentParser, what: str = "the model") -> None:
    parser.add_argument(
        "--max-memory",
        type=_size,
        default=MAX_MEMORY,
        metavar="SIZE",
        help=f"that {what} may take at most, as 4G, or none (default: {MAX_MEMORY / 2**30:g}G)",
    )


def _size(text: str) -> int | None:
    """Bytes, from "500M" or "4G"; None from "none"."""
    if text == "none":
        return None
    factor = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(text[-1:].upper(), 1)
    return _number(text[:-1] if factor > 1 else text, factor)


def _work(text: str) -> int | None:
    return None if text == "none" else _number(text)


def _number(text: str, factor: int = 1) -> int:
    value = float(text) * factor
    if not 0 < value < 2**63:
        raise ValueError
    return int(value)


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
