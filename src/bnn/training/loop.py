"""An epoch of training, and evaluation: plain PyTorch, in one process or in several."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from bnn.config import ConfigError, TrainConfig
from bnn.freezing import freeze, recalibrate
from bnn.training.building import LOSSES, autocast
from bnn.training.checkpoints import State
from bnn.training.diagnostics import SHARES, LatentWatch, LayerState, overall
from bnn.training.distributed import World
from bnn.training.losses import squared_hinge
from bnn.training.reports import Row
from bnn.training.samples import EVALUATION_BATCH, Samples, shuffled

__all__ = ["Batches", "TrainingDiverged", "as_tested", "evaluate", "recalibrates", "train_epoch"]

CHECK_EVERY = 50
"""Steps between looks at the losses: each waits for the device, and for the other processes."""


class TrainingDiverged(ArithmeticError):
    """A loss, a weight or a statistic became NaN or infinite; the message names the step or the epoch."""


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut: into `steps` of `size` samples, each in equal pieces.

    A process takes `accumulate` pieces of every step, one after the other.
    """

    size: int
    steps: int
    accumulate: int

    @classmethod
    def of(cls, config: TrainConfig, samples: int, world: World) -> "Batches":
        """For so many samples.

        Raises:
            ConfigError: the batch size is no multiple of the pieces.
        """
        pieces = world.size * config.accumulate
        if config.batch_size % pieces:
            raise ConfigError(
                f"batch_size = {config.batch_size} cannot be shared equally by {world.size} processes "
                f"in {config.accumulate} pieces each"
            )
        size = min(config.batch_size, samples // pieces * pieces)
        if size == 0:
            raise ConfigError(f"{samples} samples are too few for {pieces} pieces of a batch")
        return cls(size, samples // size, config.accumulate)


def train_epoch(
    epoch: int,
    config: TrainConfig,
    state: State,
    wrapped: nn.Module,
    batches: Batches,
    fit: Samples,
    val: Samples | None,
    world: World,
    on_step: Callable[[int, int], None],
) -> tuple[Row, list[LayerState]]:
    """Trains the model for an epoch, validates it, and says how it went, in all and layer by layer.

    Args:
        epoch: its number, from 1.
        config: the recipe.
        state: the run; model, optimizer and schedule change.
        wrapped: the model as its world wraps it.
        batches: how the epoch is cut.
        fit, val: samples to train on, and to validate on.
        world: this process among others.
        on_step: called with (steps done, steps in all) now and then.

    Raises:
        TrainingDiverged: in every process at once.
    """
    start = perf_counter()
    model, optimizer, schedule = state.model.train(), state.optimizer, state.schedule
    wrapped.train()
    loss_function = LOSSES[config.loss]
    lr = optimizer.param_groups[-1]["lr"]
    watch = LatentWatch(model) if config.diagnostics and world.rank == 0 else LatentWatch(nn.Identity())
    watch.begin_epoch(batches.steps)
    losses = torch.zeros(batches.steps, device=world.device)
    correct = torch.zeros((), dtype=torch.int64, device=world.device)
    done = (epoch - 1) * batches.steps
    passes = batches.accumulate * (2 if config.adversarial else 1)
    pieces = shuffled(
        fit, batches.size, config.augment, state.shuffler, (world.rank, world.size), batches.accumulate
    )

    def backward(x: Tensor, labels: Tensor, averaged: bool) -> tuple[Tensor, Tensor]:
        """Logits and loss of a piece; gradients, averaged over the processes with a step's last pass only."""
        with nullcontext() if world.size == 1 or averaged else wrapped.no_sync():  # type: ignore[operator]
            with autocast(config):
                logits = wrapped(x)
            loss = loss_function(logits.float(), labels)
            (loss / passes).backward()
        return logits.detach(), loss.detach()

    for step, seed in enumerate(_seeds(config.seed, world.rank, epoch, batches.steps)):
        _seed(seed, world.device)
        optimizer.zero_grad()
        for piece in range(1, batches.accumulate + 1):
            x, labels = next(pieces)
            last = piece == batches.accumulate
            x.requires_grad_(config.adversarial > 0)
            logits, loss = backward(x, labels, averaged=last and not config.adversarial)
            if config.adversarial:
                backward(_adversarial(x, config.adversarial / fit.std), labels, averaged=last)
            losses[step] += loss / batches.accumulate
            correct += (logits.argmax(1) == labels).sum()
        optimizer.step()  # its hook clips the latent weights
        schedule.step()
        watch.step()
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == batches.steps:
            since = step // CHECK_EVERY * CHECK_EVERY
            losses[since : step + 1] = world.mean(losses[since : step + 1])
            _check_finite(losses[: step + 1], model, done, epoch, world)
            on_step(done + step + 1, config.epochs * batches.steps)

    world.average_buffers(model)
    loss_val = acc_val = None
    if val is not None:
        loss_val, acc_val = evaluate(as_tested(config, model, fit), val.batches(), loss_function, world)
        if not math.isfinite(loss_val):
            raise TrainingDiverged(f"the validation loss is {loss_val} {_KEPT.format(epoch)}")
    layers = watch.end_epoch()
    row = Row(
        epoch=epoch,
        loss_train=losses.mean().item(),
        loss_val=loss_val,
        acc_train=int(world.total(correct)) / (batches.steps * batches.size),
        acc_val=acc_val,
        **(overall(layers) or dict.fromkeys(SHARES)),
        lr=lr,
        seconds=perf_counter() - start,
    )
    return row, layers


def _adversarial(x: Tensor, distance: Tensor) -> Tensor:
    """Images moved to where their loss is higher, from the gradient that the backward pass has left in `x`
    (Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015, section 4).

    Pixels may leave their range, and inputs that were dropped have no gradient and stay.
    """
    assert x.grad is not None
    return x.detach() + distance * x.grad.sign()


def _seeds(seed: int, rank: int, epoch: int, steps: int) -> list[int]:
    """A seed for each step of an epoch in a process, of 64 bits."""
    states: list[int] = np.random.SeedSequence((seed, rank, epoch)).generate_state(steps, np.uint64).tolist()
    return states


def _seed(seed: int, device: torch.device) -> None:
    """Seeds what this process draws in a step, random signs and dropout: no draw depends on those before."""
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` looks for every kind of device: 0.1 ms
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


_KEPT = "(epoch {}); the last good checkpoint is kept: try a lower lr"


def _check_finite(losses: Tensor, model: nn.Module, done: int, epoch: int, world: World) -> None:
    """Of the epoch's losses so far, the same in all processes, after `done` steps in the epochs before."""
    kept = _KEPT.format(epoch)
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise TrainingDiverged(f"the loss is {losses[step].item()} at step {done + step + 1} {kept}")
    # A NaN among the latent weights has a sign like any other, and the loss may stay finite.
    state = [(key, value) for key, value in model.state_dict().items() if value.is_floating_point()]
    # Statistics are each process's own: all must hear of what one has found.
    bad = torch.tensor([_has_nan_or_infinity(value) for _, value in state], dtype=torch.int32)
    found = world.total(bad.to(world.device)).tolist()
    for (key, _), wrong_somewhere in zip(state, found, strict=True):
        if wrong_somewhere:
            name = key.replace("parametrizations.", "").removesuffix(".original")
            raise TrainingDiverged(f"{name} holds NaN or infinity by step {done + len(losses)} {kept}")


def _has_nan_or_infinity(value: Tensor) -> bool:
    # A sum is one pass over memory, and tells but for those that overflow.
    return not value.sum().isfinite() and not bool(value.isfinite().all())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_function: Callable[[Tensor, Tensor], Tensor] = squared_hinge,
    world: World | None = None,
) -> tuple[float, float]:
    """(mean loss, accuracy in 0..1) of a model in eval mode over batches of (inputs, labels).

    In a world of several processes each takes its share of the batches, and all get the whole's figures.
    """
    model.eval()
    loss = correct = samples = 0.0
    for i, (x, labels) in enumerate(batches):
        if world is None or i % world.size == world.rank:
            logits = model(x)
            loss += loss_function(logits, labels).item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
            samples += len(labels)
    if world is not None and world.size > 1:
        sums = torch.tensor([loss, correct, samples], dtype=torch.float64, device=world.device)
        loss, correct, samples = world.total(sums).tolist()
    if samples == 0:
        raise ValueError("evaluate: there is no batch")
    return loss / samples, correct / samples


def recalibrates(config: TrainConfig, model: nn.Module) -> bool:
    """Whether the model has statistics to take anew, as training saw what no test will."""
    unlike = config.weights == "stochastic" or config.dropout or config.dropout_in or config.adversarial
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return bool(config.recalibrate and unlike and norms)


def as_tested(config: TrainConfig, model: nn.Module, fit: Samples) -> nn.Module:
    """The model with the weights and batch-norm statistics it will ship with.

    Random signs and dropout add variance in training that is not there in a test (for dropout: Li et al.,
    "Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift", 2019), and
    adversarial images are other images: such networks are recalibrated. Others are as they are.
    """
    anew = recalibrates(config, model)
    if config.weights != "stochastic" and not anew:
        return model
    frozen = freeze(model) if config.weights == "float" else freeze(model, "sign")
    if anew:
        part = torch.arange(min(config.recalibrate, len(fit)), device=fit.images.device)
        # Batches of one size: `recalibrate` gives each the same weight, and a batch of one has no variance.
        recalibrate(frozen, (fit.batch(index) for index in part.chunk(-(-len(part) // EVALUATION_BATCH))))
    return frozen
