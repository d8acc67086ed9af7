"""Training by a recipe: one loop in plain PyTorch, from the first step to a packed model and its figures.

    result = train(TrainConfig.from_recipe("mnist"), "runs/mnist")

A run's folder holds config.toml, metrics.csv, tensorboard/, curves.png, checkpoint.pt, model.bnn and
result.json. Everything but the events is written whole or not at all, and the checkpoint, written after
every epoch, holds all that changes: a run that was killed and resumed gives the same weights, metrics and
result as one that was not.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bnn import models
from bnn.binarize import (
    binarize,
    clip_latent_weights,
    latent_parameters,
    scaled_parameter_groups,
)
from bnn.config import ConfigError, TrainConfig, nearest
from bnn.data import DATASETS, Dataset, load_dataset
from bnn.diagnostics import flip_ratio, latent_signs
from bnn.files import replacing, write_atomically
from bnn.freezing import freeze, recalibrate
from bnn.losses import squared_hinge
from bnn.packed import PackedModel
from bnn.packing import pack
from bnn.quantizers import Sign, StochasticSign
from bnn.reports import METRICS, Row, draw_curves, metrics_csv
from bnn.runs import (
    RunError,
    State,
    check_free,
    claim,
    first_lines,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from bnn.runtime import Runner
from bnn.samples import EVALUATION_BATCH, Samples, shuffled, split

__all__ = [
    "Result",
    "RunError",
    "TrainingDiverged",
    "build",
    "evaluate",
    "load_trained",
    "lr_factor",
    "train",
]


class TrainingDiverged(ArithmeticError):
    """A loss, a weight or a statistic became NaN or infinite; the message names the step or the epoch."""


@dataclass(frozen=True)
class Result:
    """What a run gave, the test figures first; `result.json` holds the same.

    Accuracies are on the test set (0..1), read once, at the end. `trained` is the network as PyTorch has
    it: with its signs, or for stochastic training with the real-valued weights, as the paper tests it.
    `frozen` and `packed` have the signs (the float twin its floats).
    """

    trained: float
    frozen: float
    packed: float
    trained_weights: str
    frozen_weights: str
    validation: float | None
    test_samples: int
    one_bit_weights: int
    float_bytes: int
    packed_bytes: int


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    on_epoch: Callable[[Row], None] = lambda row: None,
) -> Result:
    """Trains, freezes, packs and tests a network; fills the folder `out`.

    Args:
        config: the recipe.
        out: the run's folder; made if it is not there.
        data_dir: where data sets are; see `bnn.data.load_dataset`.
        resume: go on where the run in `out` was stopped (from the start, if it had not got anywhere).
        force: start anew in a folder that holds another run.
        on_step: called with (steps done, steps in all) now and then, for a progress bar.
        on_epoch: called with the epoch's row of metrics.

    Raises:
        RunError: `out` holds another run, or one that does not fit.
        TrainingDiverged: NaN or infinity; the last good checkpoint is kept.
        ConfigError, DataError, OSError: as their messages say.
    """
    out = Path(out)
    check_free(out, config, resume, force)
    data = load_dataset(config.data, data_dir)
    device = _device(config.device)
    fit, val, normalisation = split(data, config.validation, device)

    torch.manual_seed(config.seed)
    model = build(config, data.train_images.shape[1:], len(data.classes)).to(device)
    if device.type == "cuda":  # whose convolutions are several times as fast on it
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(config, model)
    steps = len(fit) // _batch_size(config, fit)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, step / steps))
    shuffler = torch.Generator().manual_seed(config.seed)
    state = State(
        model,
        optimizer,
        schedule,
        shuffler,
        rows=[],
        shape=data.train_images.shape[1:],
        classes=len(data.classes),
    )
    claim(out, config, force)  # only now: what was wrong with data or model has shown itself
    if resume:
        load_checkpoint(out, config, state)

    with _event_writer(out / "tensorboard", first=len(state.rows) + 1) as events:
        for epoch in range(len(state.rows) + 1, config.epochs + 1):
            row = _train_epoch(epoch, config, state, fit, val, on_step)
            state.rows.append(row)
            for name in METRICS[1:]:
                if (value := getattr(row, name)) is not None:
                    events.add_scalar(name, value, epoch)
            save_checkpoint(out, config, state)
            _write_metrics(out, state)
            on_epoch(row)
    _write_metrics(out, state)  # again, for a run that was killed between its last checkpoint and its metrics
    with replacing(out / "curves.png") as temporary:
        draw_curves(state.rows, f"{config.model}, {config.weights} weights, {data.name}", temporary)
    return _finish(out, config, model, data, fit, state.rows[-1], normalisation)


def _write_metrics(out: Path, state: State) -> None:
    write_atomically(out / "metrics.csv", metrics_csv(state.rows).encode())


def _train_epoch(
    epoch: int,
    config: TrainConfig,
    state: State,
    fit: Samples,
    val: Samples | None,
    on_step: Callable[[int, int], None],
) -> Row:
    start = perf_counter()
    model, optimizer = state.model.train(), state.optimizer
    loss_function = LOSSES[config.loss]
    lr = optimizer.param_groups[-1]["lr"]
    size = _batch_size(config, fit)
    steps = len(fit) // size  # a last batch that is not full waits for another epoch
    before = latent_signs(model)
    losses = torch.zeros(steps, device=fit.images.device)
    correct = torch.zeros((), dtype=torch.int64, device=fit.images.device)

    for step, (x, labels) in enumerate(shuffled(fit, size, config.augment, state.shuffler)):
        _seed(fit.images.device, config.seed, rank=0, step=(epoch - 1) * steps + step)
        with _autocast(config):
            logits = model(x)
        loss = loss_function(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # its hook clips the latent weights
        state.schedule.step()
        losses[step] = loss.detach()
        correct += (logits.argmax(1) == labels).sum()
        if (step + 1) % 50 == 0 or step + 1 == steps:  # not each time: it waits for the device
            done = (epoch - 1) * steps
            _check_finite(losses[: step + 1], model, done, epoch)
            on_step(done + step + 1, config.epochs * steps)

    loss_val = acc_val = None
    if val is not None:
        loss_val, acc_val = evaluate(_as_tested(config, model, fit), val.batches(), loss_function)
        if not math.isfinite(loss_val):
            raise TrainingDiverged(f"the validation loss is {loss_val} {_KEPT.format(epoch)}")
    return Row(
        epoch=epoch,
        loss_train=losses.mean().item(),
        loss_val=loss_val,
        acc_train=correct.item() / (steps * size),
        acc_val=acc_val,
        flip_ratio=flip_ratio(before, latent_signs(model)) if before else None,
        lr=lr,
        seconds=perf_counter() - start,
    )


def _seed(device: torch.device, seed: int, rank: int, step: int) -> None:
    """Seeds what a process draws in a step, random signs and dropout: no draw depends on those before."""
    mixed = int(np.random.SeedSequence((seed, rank, step)).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(mixed)  # `torch.manual_seed` looks for every kind of device: 0.1 ms
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)


_KEPT = "(epoch {}); the last good checkpoint is kept: try a lower lr"


def _check_finite(losses: Tensor, model: nn.Module, done: int, epoch: int) -> None:
    """Of the epoch's losses so far, after `done` steps in the epochs before."""
    kept = _KEPT.format(epoch)
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise TrainingDiverged(f"the loss is {losses[step].item()} at step {done + step + 1} {kept}")
    # A NaN among the latent weights has a sign like any other, and the loss may stay finite.
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            name = key.replace("parametrizations.", "").removesuffix(".original")
            raise TrainingDiverged(f"{name} holds NaN or infinity by step {done + len(losses)} {kept}")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss_function: Callable[[Tensor, Tensor], Tensor] = squared_hinge,
) -> tuple[float, float]:
    """(mean loss, accuracy in 0..1) of a model in eval mode over batches of (inputs, labels)."""
    model.eval()
    loss = correct = samples = 0.0
    for x, labels in batches:
        logits = model(x)
        loss += loss_function(logits, labels).item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        samples += len(labels)
    if samples == 0:
        raise ValueError("evaluate: there is no batch")
    return loss / samples, correct / samples


def lr_factor(config: TrainConfig, epochs: float) -> float:
    """What the learning rate is multiplied by after so many epochs (a fraction of one counts).

    exponential: (final / lr)^t, the papers'; linear: straight; cosine: half a wave; where t goes from 0 to 1
    between the end of the warm-up and the end of training.
    """
    if epochs < config.warmup:
        return epochs / config.warmup
    t = min(1.0, (epochs - config.warmup) / (config.epochs - config.warmup))
    final = config.lr_final / config.lr
    match config.schedule:
        case "exponential":
            return float(final**t)
        case "linear":
            return 1 + (final - 1) * t
        case "cosine":
            return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2
        case _:
            return 1.0


# --- setting up -------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_hinge": squared_hinge,
    "cross_entropy": cross_entropy,
}


def build(config: TrainConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The config's network for images of that shape, with binarized weights unless they are float."""
    if config.model not in models.__all__:
        known = ", ".join(models.__all__)
        raise ConfigError(
            f"model = {config.model!r} is not one of {known}{nearest(config.model, models.__all__)}"
        )
    model: nn.Module = getattr(models, config.model)(
        shape, classes, config.width, config.dropout, config.dropout_in
    )
    if config.weights != "float":
        binarize(model, Sign if config.weights == "deterministic" else StochasticSign)
        if config.latent_init > 0:
            for parameter in latent_parameters(model):
                nn.init.uniform_(parameter, -config.latent_init, config.latent_init)
    return model


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    binary = config.weights != "float"
    groups = (
        scaled_parameter_groups(model, config.lr)
        if config.lr_scaling and binary
        else [{"params": list(model.parameters()), "lr": config.lr}]
    )
    fused = torch.device(config.device).type in ("cpu", "cuda")  # a pass over memory instead of ten
    optimizer: torch.optim.Optimizer
    match config.optimizer:
        case "adam":
            optimizer = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        case "adamw":
            optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        case _:
            optimizer = torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            )
    if binary:
        clip_latent_weights(optimizer, model)
    return optimizer


def _batch_size(config: TrainConfig, fit: Samples) -> int:
    return min(config.batch_size, len(fit))


def load_trained(folder: str | Path) -> nn.Module:
    """The network of a run's folder as it was trained, latent weights and all, in eval mode.

    Raises:
        RunError: there is no checkpoint, or it is damaged.
    """
    config, content = read_checkpoint(Path(folder))
    try:
        model = build(config, tuple(content["shape"]), content["classes"])
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint in {folder} does not fit its own config: {first_lines(error)}"
        ) from error
    return model.eval()


def _device(name: str) -> torch.device:
    try:
        device = torch.zeros(1, device=name)
        device.item()  # which the device "meta" has none of
        return device.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device = {name!r} cannot be used: {first_lines(error)}") from error


def _autocast(config: TrainConfig) -> Any:
    if config.precision == "32":
        return nullcontext()
    return torch.autocast(torch.device(config.device).type, dtype=torch.bfloat16)


def _event_writer(folder: Path, first: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own imports
        from torch.utils.tensorboard import SummaryWriter
    # Events of epochs from `first` on, written before a kill and the checkpoint, are void.
    return SummaryWriter(str(folder), purge_step=first)


# --- the end ----------------------------------------------------------------------------------------------


def _as_tested(config: TrainConfig, model: nn.Module, fit: Samples) -> nn.Module:
    """The model with the weights it will ship with. Deterministic and float ones have them already."""
    if config.weights != "stochastic":
        return model
    frozen = freeze(model, "sign")
    if config.recalibrate:
        part = torch.arange(min(config.recalibrate, len(fit)))
        # Batches of one size: `recalibrate` gives each the same weight, and a batch of one has no variance.
        recalibrate(frozen, (fit.batch(index) for index in part.chunk(-(-len(part) // EVALUATION_BATCH))))
    return frozen


def _finish(
    out: Path,
    config: TrainConfig,
    model: nn.Module,
    data: Dataset,
    fit: Samples,
    last: Row,
    normalisation: tuple[list[float], list[float]],
) -> Result:
    """Freezes, packs and tests: the only place that reads the test set."""
    stochastic = config.weights == "stochastic"
    shipped = "real" if config.weights == "float" else "sign"
    frozen = freeze(_as_tested(config, model, fit))
    example, _ = fit.batch(slice(0, 2))
    # A folder's name would not find it again, and its path is nobody else's business.
    known_data = {"data": config.data} if config.data in DATASETS else {}
    packed = pack(
        frozen,
        example,
        mean=normalisation[0],
        std=normalisation[1],
        labels=data.classes,
        about={"model": config.model, "trained": config.weights, "weights": shipped} | known_data,
    )
    packed.save(out / "model.bnn")

    test = Samples(
        torch.from_numpy(data.test_images).to(fit.images.device),
        torch.from_numpy(data.test_labels).to(fit.images.device),
        fit.mean,
        fit.std,
    )
    runner = Runner(PackedModel.load(out / "model.bnn"))
    _, trained = evaluate(freeze(model, "real") if stochastic else model, test.batches(), LOSSES[config.loss])
    _, accuracy = evaluate(frozen, test.batches(), LOSSES[config.loss])
    result = Result(
        trained=trained,
        frozen=accuracy,
        packed=float(np.mean(runner.predict(data.test_images) == data.test_labels)),
        trained_weights="real" if stochastic else shipped,
        frozen_weights=shipped,
        validation=last.acc_val,
        test_samples=len(test),
        one_bit_weights=sum(p.numel() for p in latent_parameters(model)),
        float_bytes=sum(t.numel() * t.element_size() for t in frozen.state_dict().values()),
        packed_bytes=(out / "model.bnn").stat().st_size,
    )
    write_atomically(out / "result.json", (json.dumps(asdict(result), indent=2) + "\n").encode())
    return result
