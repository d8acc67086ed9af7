"""What a training run is: a typed set of values, read from a TOML recipe and from the command line.

    config = TrainConfig.from_recipe("mnist", epochs=3)

A recipe is a TOML file of these fields; those that ship are in `bnn/recipes`. Every field is an option of
`bnn train` as well, by the same name.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bnn.errors import UserError
from bnn.files import read_whole

__all__ = ["ConfigError", "TrainConfig", "recipes"]

MOST_BYTES = 1 << 16  # of a recipe; those that ship have less than 2,000


class ConfigError(UserError):
    """A field or value is not one. The message is one line that names it."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Raises ConfigError for a value that cannot be meant."""

    data: str = _option("mnist", "data set: digits, mnist, cifar10, svhn, or a folder of images by class")
    validation: int = _option(10_000, "the last so many training samples are kept for validation")
    augment: Literal["none", "crop-flip"] = _option(
        "none", "of each training image: crop-flip shifts by up to 4 pixels and mirrors every other one"
    )

    model: str = _option("binaryconnect_mlp", "architecture: a function of bnn.models")
    width: int = _option(1024, "units of a hidden layer, or channels of the first convolution")
    dropout: float = _option(0.0, "probability of dropping a hidden activation")
    dropout_in: float = _option(0.0, "probability of dropping an input")

    weights: Literal["deterministic", "stochastic", "float"] = _option(
        "deterministic", "weights in training: signs, random signs, or the float twin"
    )
    latent_init: float = _option(
        0.0, "latent weights start uniform in ±this (the authors': 1); 0 keeps PyTorch's initialisation"
    )
    recalibrate: int = _option(
        10_000,
        "training samples for new batch-norm statistics after random signs, dropout or adversarial images; "
        "0: keep the old",
    )

    loss: Literal["squared_hinge", "cross_entropy"] = _option("squared_hinge", "squared_hinge is the papers'")
    adversarial: float = _option(
        0.0,
        "take half of the loss from images whose pixels, of 0 to 1, are moved by this much to where the loss "
        "rises (Goodfellow et al., 2015); an epoch takes up to twice the time; 0: do not",
    )
    optimizer: Literal["adam", "adamw", "sgd"] = _option("adam", "update rule")
    lr: float = _option(1e-3, "learning rate at its highest")
    lr_final: float = _option(1e-6, "learning rate at the end")
    schedule: Literal["exponential", "linear", "cosine", "constant"] = _option(
        "exponential", "how the rate goes from lr to lr_final, step by step"
    )
    warmup: float = _option(0.0, "epochs in which the rate rises from 0 to lr")
    lr_scaling: bool = _option(True, "scale each latent weight's rate as the authors' code does")
    momentum: float = _option(0.0, "of sgd")
    weight_decay: float = _option(0.0, "of all parameters")

    epochs: int = _option(10, "passes over the training set")
    batch_size: int = _option(100, "samples a step, over all processes")
    accumulate: int = _option(1, "pieces that a process cuts its share of a batch into, for less memory")
    precision: Literal["32", "bf16"] = _option("32", "of matrix products: float32, or bfloat16 by autocast")
    diagnostics: bool = _option(True, "watch signs flip and latent weights saturate, layer by layer")
    device: str = _option("cpu", "cpu, cuda, cuda:1, mps, ...")
    seed: int = _option(0, "of everything random in the run")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):
            _check_type(f.name, getattr(self, f.name), hints[f.name])
        for name in ("width", "epochs", "batch_size", "accumulate", "lr"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        for name in (
            "validation",
            "recalibrate",
            "latent_init",
            "warmup",
            "weight_decay",
            "seed",
            "momentum",
        ):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        _require(self.latent_init <= 1, "latent_init", self.latent_init, "must be at most 1, as weights are")
        for name in ("seed", "width", "batch_size", "epochs", "accumulate", "validation", "recalibrate"):
            _require(getattr(self, name) < 2**31, name, getattr(self, name), "must be below 2^31")
        _require(self.recalibrate != 1, "recalibrate", 1, "has no variance: 0, or at least 2")
        for name in ("dropout", "dropout_in"):
            _require(
                0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1"
            )
        _require(0 <= self.adversarial <= 1, "adversarial", self.adversarial, "must be from 0 to 1")
        lowest = 0 if self.schedule in ("linear", "cosine") else 1e-300
        _require(lowest <= self.lr_final, "lr_final", self.lr_final, "is too small for the schedule")
        _require(self.warmup < self.epochs, "warmup", self.warmup, "must be below epochs")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> "TrainConfig":
        """From a mapping of field names; `source` is named in errors."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"{source}: unknown field {name!r}{nearest(name, known)}")
        try:
            return cls(**_widen(values))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def from_recipe(cls, recipe: str | Path, **changes: Any) -> "TrainConfig":
        """From a shipped recipe's name or a TOML file, with `changes` to its fields.

        Raises:
            ConfigError: there is no such recipe, field or value.
        """
        shipped = recipes()
        path = Path(recipe)
        if str(recipe) in shipped:
            text = shipped[str(recipe)]
        elif path.suffix == ".toml" or path.is_file():
            try:
                text = read_whole(path, MOST_BYTES).decode()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(f"recipe {recipe}: {reason}") from error
        else:
            hint = nearest(str(recipe), shipped)
            raise ConfigError(
                f"unknown recipe {str(recipe)!r}{hint} (shipped: {', '.join(shipped)}; or a .toml file)"
            )
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # numbers of any length, lists in lists in lists
            raise ConfigError(f"recipe {recipe}: {error}") from error
        return replace(cls.from_mapping(values, f"recipe {recipe}"), **_widen(changes))

    def to_toml(self) -> str:
        """The recipe that gives this config."""
        return "".join(f"{name} = {_as_toml(value)}\n" for name, value in asdict(self).items())


def recipes() -> dict[str, str]:
    """The text of each shipped recipe, by name."""
    folder = files("bnn").joinpath("recipes")
    texts = {
        path.name.removesuffix(".toml"): path.read_text(encoding="utf-8")
        for path in folder.iterdir()
        if path.name.endswith(".toml")
    }
    return dict(sorted(texts.items()))


def _as_toml(value: Any) -> str:
    """JSON's strings, numbers and booleans are TOML's too, but for U+007F and for pairs of surrogates."""

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"

    return re.sub("[^ -~]", escaped, json.dumps(value, ensure_ascii=False))


def _widen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Integers where floats are due as floats: TOML tells 1 from 1.0."""
    hints = get_type_hints(TrainConfig)
    return {
        name: _float(value) if hints.get(name) is float and type(value) is int else value
        for name, value in values.items()
    }


def _float(value: int) -> float:
    return float(value) if abs(value) < 2**1000 else math.inf  # which is refused


def nearest(name: str, known: Any) -> str:
    """A hint for a mistyped name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _require(condition: bool, name: str, value: Any, rule: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {_quoted(value)} {rule}")


def _quoted(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, tables in tables in tables
        return f"({type(value).__name__})"


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if value not in choices:
            hinted = nearest(value, choices) if isinstance(value, str) else ""
            raise ConfigError(f"{name} = {_quoted(value)} is not one of {', '.join(choices)}{hinted}")
    elif type(value) is not hint:
        raise ConfigError(f"{name} = {_quoted(value)} is not of type {hint.__name__}")
    elif hint is str:
        _require(not re.search(r"[\ud800-\udfff]", value), name, value, "is no UTF-8")
    elif hint is float:
        _require(abs(value) < float("inf"), name, value, "must be finite")  # false for NaN as well
