"""A packed model as a folder fit for a model hub: the model, a README that says what it is, and its run.

The README is a model card: front matter in YAML for programs, below it the same for people. It says only
what the model and its run's files say; a licence they do not have, and that is left to who publishes it.

The run may be a stranger's. Of its folder only known files are taken, no symbolic links among them, and what
they say is text: in the card it is neither Markdown nor HTML nor YAML.
"""

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bnn.config import TrainConfig
from bnn.errors import UserError, printable
from bnn.export.markdown import WORDS, fenced, words
from bnn.export.target import Export, content_of
from bnn.packed.costs import Summary, packed_summary
from bnn.packed.model import MODEL_FILE, PackedModel

__all__ = ["make"]

CONFIG, RESULT, CURVES = "config.toml", "result.json", "curves.png"
OF_RUN = {
    CONFIG: "the recipe as it was run; `bnn train config.toml` runs it again",
    RESULT: "accuracies and sizes",
    "metrics.csv": "loss, accuracy and more, by epoch",
    "layers.csv": "flips and saturation of each layer, by epoch",
    CURVES: "the same as figures",
}
"""What is taken from a run's folder, if it is there. Checkpoint and events are for training further."""

SMALL, LARGE = 2**16, 2**26
"""Bytes of a file, at most: of recipe and result, and of tables and figures."""

PNG = b"\x89PNG\r\n\x1a\n"

ACCURACIES = ("trained", "frozen", "packed", "validation")
TEXTS = ("trained_weights", "frozen_weights")
NUMBERS = ("test_samples", "one_bit_weights", "float_bytes", "packed_bytes")
FLAG = "recalibrated"
"""The fields of a result, which is `bnn.training.Result`."""


def make(model: PackedModel, *, run: str | Path | None = None) -> Export:
    """The folder of a model.

    Args:
        model: the packed model.
        run: the folder of the run that the model is from, or an earlier export of it; None: only the model
            and a README.

    Raises:
        UserError: the run's model is another one; a file of the run is not what it should be, or not a
            regular one.
        OSError: a file of the run cannot be read.
    """
    files = {MODEL_FILE: model.to_bytes()}
    if run is not None:
        files |= _files_of_run(Path(run), files[MODEL_FILE])
    config = _config(files, model)
    result = _parsed(files, RESULT, json.loads)
    _check(result)
    if config:  # what is published was understood: both are written anew, a run's to the same bytes
        files[CONFIG] = config.to_toml().encode()
    if RESULT in files:
        files[RESULT] = (json.dumps(result, indent=2, allow_nan=False) + "\n").encode()
    readme = "\n".join([*_front_matter(model, config, result), "", *_card(model, files, config, result)])
    files["README.md"] = readme.encode()
    total = sum(map(len, files.values()))
    notes = (
        f"{len(files)} files, {total:,} bytes, of which the model has {len(files[MODEL_FILE]):,}",
        "README.md names no licence: add `license: ...` to its front matter before you publish it",
    )
    return Export(files, notes)


def _files_of_run(run: Path, model: bytes) -> dict[str, bytes]:
    files = {}
    for name in OF_RUN:
        if not os.path.lexists(run / name):
            continue
        limit = SMALL if name in (CONFIG, RESULT) else LARGE
        files[name] = content = content_of(run / name, limit)
        if len(content) > limit:
            raise UserError(f"{name} of the run: larger than {limit:,} bytes")
        if name == CURVES and not content.startswith(PNG):
            raise UserError(f"{name} of the run: no PNG")
        if name.endswith(".csv") and not _is_table(content):
            raise UserError(f"{name} of the run: no text, or with characters that a table does not have")
    # At the end: a new run removes it before all else, so it is the model of what was read above.
    if content_of(run / MODEL_FILE, len(model)) != model:
        raise UserError(f"{run}: its {MODEL_FILE} is another model")
    return files


def _is_table(content: bytes) -> bool:
    try:
        lines = content.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        return False
    return all(printable(line) == line for line in lines)


def _parsed(files: Mapping[str, bytes], name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(files[name].decode()) if name in files else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} of the run: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} of the run: not an object")
    return content


def _config(files: Mapping[str, bytes], model: PackedModel) -> TrainConfig | None:
    if CONFIG not in files:
        return None
    config = TrainConfig.from_mapping(_parsed(files, CONFIG, tomllib.loads), f"{CONFIG} of the run")
    if config.data == model.about.get("data"):
        return config
    # No data set that others have but a folder, whose path is nobody else's business.
    return replace(config, data=Path(config.data).name)


def _check(result: Mapping[str, Any]) -> None:
    for name, value in result.items():
        if name in ACCURACIES:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            sound, kind = value is None or (number and 0 <= value <= 1), "accuracy from 0 to 1"
        elif name in NUMBERS:
            sound, kind = type(value) is int and 0 <= value < 2**63, "number"
        elif name in TEXTS:
            sound, kind = isinstance(value, str), "text"
        else:
            sound, kind = name == FLAG and isinstance(value, bool), "field of a result"
        if not sound:
            raise UserError(f"{RESULT} of the run: {name:.40} is {value!r:.40}, no {kind}")


# --- the card ---------------------------------------------------------------------------------------------


def _data(model: PackedModel, config: TrainConfig | None) -> str:
    return _seen(model.about.get("data", "")) or _seen(config.data if config else "")


def _architecture(model: PackedModel) -> str:
    return _seen(model.about.get("model", "")) or "network"


def _seen(name: str) -> str:
    """The name, or nothing where nothing would be seen of it."""
    return name if printable(name).strip() else ""


def _front_matter(model: PackedModel, config: TrainConfig | None, result: Mapping[str, Any]) -> list[str]:
    """YAML; its strings are in JSON's notation, which is YAML as well where all characters are printable."""

    def quoted(text: str) -> str:
        return json.dumps(printable(text, WORDS), ensure_ascii=False)

    tested = result.get("packed") is not None
    data, is_image = _data(model, config), len(model.input.shape) == 3
    one_bit = packed_summary(model).one_bit_weights > 0
    lines = ["---", "library_name: binaryconnect"]
    if is_image:
        lines.append("pipeline_tag: image-classification")
    lines += [
        "tags:",
        *(f"- {tag}" for tag in ("binaryconnect", *["binary-neural-network", "1-bit"] * one_bit)),
    ]
    if data:
        lines += ["datasets:", f"- {quoted(data)}"]
    if tested:
        lines += ["metrics:", "- accuracy"]
    if tested and data and is_image:
        lines += [
            "model-index:",
            f"- name: {quoted(_architecture(model))}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {quoted(data)}",
            f"      type: {quoted(data)}",
            "      split: test",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {np.format_float_positional(result['packed'], trim='0')}",
        ]
    return [*lines, "---"]


def _card(
    model: PackedModel, files: Mapping[str, bytes], config: TrainConfig | None, result: Mapping[str, Any]
) -> list[str]:
    summary = packed_summary(model, len(files[MODEL_FILE]))
    data = words(_data(model, config))
    sections = [
        [f"# {words(_architecture(model))}{f' on {data}' if data else ''}", *_what_it_is(model, summary)],
        ["## How to run it", *_how_to_run(model, data)],
        ["## Size", fenced(str(summary))],
        ["## Accuracy", *_accuracy(result, config, data)] if result else [],
        ["## How it was trained", *_training(config, CURVES in files)] if config else [],
        ["## Files", *_list_of(files)],
    ]
    return ["\n\n".join(line for section in sections for line in section), ""]


def _what_it_is(model: PackedModel, summary: Summary) -> list[str]:
    contract = model.input
    shape, outputs = "x".join(map(str, contract.shape)), "x".join(map(str, model.shapes[model.output.name]))
    if summary.one_bit_weights:
        floats = f"{summary.float_parameters:,} floats"
        kind = f"{summary.one_bit_weights:,} weights of ±1, one bit each, and {floats}"
    else:
        kind = f"{summary.float_parameters:,} floats: no weight of it is packed to one bit"
    lines = [f"A neural network of {kind}. It takes {shape} inputs and gives {outputs} scores."]
    if contract.labels:
        lines.append(f"Classes, by index: {', '.join(map(words, contract.labels))}.")
    if contract.mean:
        lines.append("Raw pixels, uint8, are normalised inside; float32 is taken as normalised.")
    return lines


def _how_to_run(model: PackedModel, data: str) -> list[str]:
    shape = ", ".join(map(str, model.input.shape))
    kind = "uint8, raw pixels" if model.input.mean else "float32, normalised"
    image = len(model.input.shape) == 3 and model.input.mean
    return [
        "With the Python package `binaryconnect`, without PyTorch; `folder` is the path of this folder:",
        f"```python\nimport bnn\n\nnet = bnn.load(folder)\nnet.predict(x)  # x: {kind}, (n, {shape})\n```",
        *(["On the command line: `bnn predict FOLDER IMAGE`."] if image else []),
        *([f"`bnn eval FOLDER` measures the accuracy on the test set of {data}."] if data else []),
    ]


def _accuracy(result: Mapping[str, Any], config: TrainConfig | None, data: str) -> list[str]:
    def percent(name: str) -> str:
        return f"{100 * float(result[name]):.2f} %"

    seed = f", of one run, seed {config.seed}" if config else ""
    where = f"the {result.get('test_samples', 0):,} test images of {data or 'the data'}"
    rows = {
        "packed": ("this model", "frozen_weights"),
        "frozen": ("the same in PyTorch", "frozen_weights"),
        "trained": ("as it was trained, in PyTorch", "trained_weights"),
    }
    table = ["| network | weights | accuracy |", "| --- | --- | --- |"]
    for name, (text, weights) in rows.items():
        if result.get(name) is not None:
            table.append(f"| {text} | {words(result.get(weights, ''))} | {percent(name)} |")
    lines = [f"On {where}, read once, at the end{seed}:", "\n".join(table)]
    if result.get("recalibrated"):
        lines.append("Its batch norms have statistics taken anew; as it was trained, they were training's.")
    if result.get("validation") is not None:
        lines.append(f"On the validation set, by which choices are made: {percent('validation')}.")
    return lines


def _training(config: TrainConfig, curves: bool) -> list[str]:
    lines = ["`bnn train config.toml` with these fields:", fenced(config.to_toml().strip(), "toml")]
    return [*lines, f"![Loss and accuracy by epoch]({CURVES})"] if curves else lines


def _list_of(files: Mapping[str, bytes]) -> list[str]:
    texts = {
        MODEL_FILE: "the network; its format is documented and needs no code of ours to be read",
        **OF_RUN,
    }
    return ["\n".join(f"- `{name}`: {text}" for name, text in texts.items() if name in files)]
