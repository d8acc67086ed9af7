"""`bnn eval`, `bnn predict`, `bnn info`, `bnn export`: what is done with a packed model."""

import argparse
import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bnn.cli.text import NAME, complain, listed, numbers, percent, reason, say, show
from bnn.data import DATASETS, load_dataset
from bnn.errors import UserError, printable
from bnn.export import TARGETS, export
from bnn.files import is_stream, no_writer
from bnn.packed.costs import packed_summary
from bnn.packed.demand import asks_of
from bnn.packed.limits import readable
from bnn.packed.model import PackedModel, model_file
from bnn.runtime import Runner, load
from bnn.runtime.images import ImageError, check_takes_images, read_image

__all__ = ["limits", "load_model", "run_eval", "run_export", "run_info", "run_predict"]

MOST_TOGETHER = 1 << 24  # pixels that are classified at a time, so that many images do not fill the memory


def load_model(model: str, **options: Any) -> tuple[Runner, Path]:
    """A model by its file or its run's folder; `options` are those of `bnn.load`."""
    path = model_file(model)
    return load(path, **options), path


def limits(options: argparse.Namespace) -> dict[str, Any]:
    """What --max-memory and --max-work say."""
    return {"max_memory": options.max_memory, "max_work": options.max_work}


def run_eval(options: argparse.Namespace) -> int:
    how = {"engine": options.engine, "threads": options.threads, **limits(options)}
    runner, path = load_model(options.model, activations=options.activations, **how)
    name = options.data or _data_of(runner.model, path)
    data = load_dataset(name, options.data_dir)
    if data.test_inputs.shape[1:] != runner.model.input.shape:
        raise UserError(
            f"--data {name}: its images are {data.test_inputs.shape[1:]}, "
            f"the model takes {runner.model.input.shape}"
        )
    labels = runner.model.input.labels
    if labels and labels != data.classes:
        raise UserError(
            f"--data {name}: its classes are {listed(data.classes)}, the model's {listed(labels)}"
        )

    def accuracy_of(runner: Runner) -> float:
        return float(np.mean(runner.predict(data.test_inputs) == data.test_targets))

    accuracy = accuracy_of(runner)
    exact = accuracy_of(load(path, **how)) if runner.activations == "int8" else accuracy
    weights = runner.model.about.get("weights", "unknown")
    result = {
        "accuracy": accuracy,
        "n": len(data.test_targets),
        "weights": weights,
        "engine": runner.engine,
        "isa": runner.isa,
        "activations": runner.activations,
        "data": name,
    }
    if runner.activations == "int8":
        result["accuracy_float32"] = exact
    if options.json:
        show(json.dumps(result))
    else:
        say(
            f"{percent(accuracy)} of {len(data.test_targets):,} test images of {name} "
            f"({printable(weights, NAME)} weights, {runner.engine} engine, {runner.isa})"
        )
        if runner.activations == "int8":
            change = f"{100 * (accuracy - exact):+.2f} points"
            say(f"with int8 activations; {percent(exact)} with float32: {change}")
    return 0


def _data_of(model: PackedModel, path: Path) -> str:
    """The data set that a model names; a path there would be a stranger's say in what is read here."""
    name = model.about.get("data")
    if not name:
        raise UserError(f"{path} does not say what data it was trained on: give --data")
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise UserError(f"{path} was trained on {name!r}, which is none of {known}: give --data")
    return name


def run_predict(options: argparse.Namespace) -> int:
    runner, _ = load_model(options.model, **limits(options))
    check_takes_images(runner.model.input, options.model)
    labels = runner.model.input.labels
    unread = 0
    answers = []
    together = max(1, MOST_TOGETHER // math.prod(runner.model.input.shape))
    for first in range(0, len(options.images), together):
        read = []
        for path in options.images[first : first + together]:
            try:
                read.append((path, *read_image(path, runner.model.input)))
            except (ImageError, OSError) as error:  # the others can be classified all the same
                complain(f"bnn predict: {reason(error)}")
                unread += 1
        outputs = runner(np.stack([pixels for _, pixels, _ in read])) if read else ()
        for (path, _, notes), scores in zip(read, outputs, strict=True):
            index = int(scores.argmax())
            label = labels[index] if labels else str(index)
            if options.json:
                answer = {"image": path, "class": index, "label": label, "converted": notes}
                answers.append(answer | {"scores": scores.tolist()})
            else:
                converted = f"   ({'; '.join(notes)})" if notes else ""
                say(f"{path}: {printable(label, NAME)}{converted}")
    if options.json:
        show(json.dumps(answers))
    return 2 if unread else 0


def run_info(options: argparse.Namespace) -> int:
    path = model_file(options.model)
    model = PackedModel.load(path, options.max_memory)
    contract, about, asks = model.input, dict(model.about), asks_of(model)  # nothing is run
    summary = packed_summary(model, path.stat().st_size if path.is_file() else None)
    if options.json:
        show(json.dumps({"input": asdict(contract), "about": about, **summary.as_dict(), **asdict(asks)}))
        return 0
    pixels = f", uint8 pixels (mean {numbers(contract.mean)}, deviation {numbers(contract.std)})"
    say(f"{path}: takes {'x'.join(map(str, contract.shape))}" + pixels * bool(contract.mean))
    if about:
        say(", ".join(f"{printable(k, NAME)}: {printable(v, NAME)}" for k, v in sorted(about.items())))
    show(f"\n{summary}")
    say(f"a sample: at most {readable(asks.memory)} of memory, and about {asks.work:.2g} cycles of a core")
    return 0


def run_export(options: argparse.Namespace) -> int:
    path, to = model_file(options.model), options.to
    of_target: dict[str, Any] = {"unpacked": True} if options.unpacked else {}
    of_run = to == "folder" and Path(options.model).is_dir()
    if of_run:
        of_target["run"] = path.parent
    source, out = path.resolve(), Path(options.out).resolve()
    if out == source or out in source.parents:
        raise UserError(f"{options.out}: is, or holds, the model that is to be exported")
    if to in TARGETS and "max_memory" in TARGETS[to].options:
        of_target["max_memory"] = options.max_memory
    with no_writer(path.parent) if of_run else nullcontext():  # or what is copied might be of two runs
        model = PackedModel.load(path, options.max_memory)
        notes = export(model, to, options.out, force=options.force, **of_target)
    tell = complain if is_stream(Path(options.out)) else say  # it may be standard output
    tell(f"{options.out}: {TARGETS[to].text}")
    for line in notes:
        tell(f"  {line}")
    return 0
