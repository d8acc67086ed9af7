"""An epoch of training, and evaluation: plain PyTorch, in one process or in several."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
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
from bnn.training.reports import Progress, Row
from bnn.training.samples import EVALUATION_BATCH, Samples, shuffled

__all__ = ["Batches", "Run", "TrainingDiverged", "as_tested", "evaluate", "recalibrates", "train_epoch"]

CHECK_EVERY = 50
"""Steps between looks at the losses: each waits for the device, and for the other processes."""


class TrainingDiverged(ArithmeticError):
    """A loss, a weight or a statistic became NaN or infinite; the message names the step or the epoch."""


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut: into `steps` of `size` samples, and each of those into equal pieces.

    A process takes `accumulate` pieces of every step, one after the other.
    """

    size: int
    steps: int
    accumulate: int

    @classmethod
    def of(cls, config: TrainConfig, samples: int, world: World) -> "Batches":
        """The cut of so many samples.

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

    def check(self, model: nn.Module, world: World) -> None:
        """Raises ConfigError if a piece is of one sample, and the model takes the variance of a piece."""
        norms = any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
        if norms and self.size == world.size * self.accumulate:
            raise ConfigError(
                f"batch_size = {self.size} leaves one sample to a batch norm, which has no variance: take "
                f"{2 * self.size} or more"
            )


@dataclass
class Run:
    """A run under way: what an epoch needs.

    Attributes:
        config: the recipe.
        state: what changes in it; model, optimizer and schedule.
        training: samples to train on.
        validation: samples to validate on, or None.
        world: this process among others.
        progress: hears how it goes.
        batches: how an epoch is cut.
        wrapped: the model as its world wraps it.
    """

    config: TrainConfig
    state: State
    training: Samples
    validation: Samples | None = None
    world: World = field(default_factory=World)
    progress: Progress = field(default_factory=Progress)
    batches: Batches = field(init=False)
    wrapped: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.batches = Batches.of(self.config, len(self.training), self.world)
        self.wrapped = self.world.wrap(self.state.model)


def train_epoch(run: Run) -> tuple[Row, list[LayerState]]:
    """Trains the model for the epoch after those in `run.state`, and validates it.

    Returns:
        how it went, in all and layer by layer; without diagnostics, and in other processes than rank 0,
        there are no layers.

    Raises:
        TrainingDiverged: in every process at once.
    """
    config, state, world, batches = run.config, run.state, run.world, run.batches
    epoch, lr, start = len(state.rows) + 1, state.optimizer.param_groups[-1]["lr"], perf_counter()
    run.wrapped.train()
    watch = LatentWatch(state.model) if config.diagnostics and world.rank == 0 else None
    if watch:
        watch.begin_epoch(batches.steps)
    losses = torch.zeros(batches.steps, device=world.device)
    correct = torch.zeros((), dtype=torch.int64, device=world.device)
    share = (world.rank, world.size)
    pieces = shuffled(run.training, batches.size, config.augment, state.shuffler, share, batches.accumulate)
    for step, seed in enumerate(_seeds(config.seed, world.rank, epoch, batches.steps)):
        _seed(seed, world.device)
        loss, right = _gradients(run, islice(pieces, batches.accumulate))
        state.optimizer.step()  # its hook clips the latent weights
        state.schedule.step()
        losses[step] = loss
        correct += right
        if watch:
            watch.step()
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == batches.steps:
            since = step // CHECK_EVERY * CHECK_EVERY
            losses[since : step + 1] = world.mean(losses[since : step + 1])
            _check_finite(run, losses[: step + 1])
            run.progress.step((epoch - 1) * batches.steps + step + 1, config.epochs * batches.steps)
    world.average_buffers(state.model)
    loss_val, acc_val = _validate(run)
    layers = watch.end_epoch() if watch else []
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


def _gradients(run: Run, pieces: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Leaves a step's gradients in the parameters; the loss of its pieces, and how many labels were right."""
    config, accumulate = run.config, run.batches.accumulate
    run.state.optimizer.zero_grad()
    total = torch.zeros((), device=run.world.device)
    correct = torch.zeros((), dtype=torch.int64, device=run.world.device)
    for piece, (x, labels) in enumerate(pieces, 1):
        last = piece == accumulate
        x.requires_grad_(config.adversarial > 0)
        logits, loss = _backward(run, x, labels, averaged=last and not config.adversarial)
        if config.adversarial:
            moved = _adversarial(x, config.adversarial / run.training.std)
            _backward(run, moved, labels, averaged=last)
        total += loss / accumulate
        correct += (logits.argmax(1) == labels).sum()
    return total, correct


def _backward(run: Run, x: Tensor, labels: Tensor, averaged: bool) -> tuple[Tensor, Tensor]:
    """Logits and loss of a piece; gradients, averaged over the processes with a step's last pass only."""
    passes = run.batches.accumulate * (2 if run.config.adversarial else 1)
    alone = run.world.size == 1 or averaged
    with nullcontext() if alone else run.wrapped.no_sync():  # type: ignore[operator]
        with autocast(run.config):
            logits = run.wrapped(x)
        loss = LOSSES[run.config.loss](logits.float(), labels)
        (loss / passes).backward()
    return logits.detach(), loss.detach()


def _validate(run: Run) -> tuple[float | None, float | None]:
    """Loss and accuracy on the validation samples, with the weights that will ship; None without samples."""
    if run.validation is None:
        return None, None
    model = as_tested(run.config, run.state.model, run.training)
    loss, accuracy = evaluate(model, run.validation.batches(), LOSSES[run.config.loss], run.world)
    if not math.isfinite(loss):
        raise TrainingDiverged(f"the validation loss is {loss} {_kept(run)}")
    return loss, accuracy


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


def _kept(run: Run) -> str:
    return f"(epoch {len(run.state.rows) + 1}); the last good checkpoint is kept: try a lower lr"


def _check_finite(run: Run, losses: Tensor) -> None:
    """Raises TrainingDiverged if the epoch's losses so far, the same in all processes, or the model are not
    finite."""
    done = len(run.state.rows) * run.batches.steps  # in the epochs before
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise TrainingDiverged(f"the loss is {losses[step].item()} at step {done + step + 1} {_kept(run)}")
    # A NaN among the latent weights has a sign like any other, and the loss may stay finite.
    state = [(key, value) for key, value in run.state.model.state_dict().items() if value.is_floating_point()]
    # Statistics are each process's own: all must hear of what one has found.
    bad = torch.tensor([_has_nan_or_infinity(value) for _, value in state], dtype=torch.int32)
    found = run.world.total(bad.to(run.world.device)).tolist()
    for (key, _), wrong_somewhere in zip(state, found, strict=True):
        if wrong_somewhere:
            name = key.replace("parametrizations.", "").removesuffix(".original")
            raise TrainingDiverged(f"{name} holds NaN or infinity by step {done + len(losses)} {_kept(run)}")


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

    In a world of several processes each takes its share of the batches, and all get the figures of the whole.
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
    """Whether batch-norm statistics are to be taken anew, as training saw what no test will."""
    unlike = config.weights == "stochastic" or config.dropout or config.dropout_in or config.adversarial
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return bool(config.recalibrate and unlike and norms)


def as_tested(config: TrainConfig, model: nn.Module, training: Samples) -> nn.Module:
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
        part = torch.arange(min(config.recalibrate, len(training)), device=training.images.device)
        # Batches of one size: `recalibrate` gives each the same weight, and a batch of one has no variance.
        recalibrate(
            frozen, (training.batch(index) for index in part.chunk(-(-len(part) // EVALUATION_BATCH)))
        )
    return frozen
