"""From a recipe's values to what they name: network, optimizer, schedule, loss."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bnn import models
from bnn.binarization import binarize, clip_latent_weights, latent_parameters, scaled_parameter_groups
from bnn.config import ConfigError, TrainConfig, nearest
from bnn.quantizers import Sign, StochasticSign
from bnn.training.checkpoints import State
from bnn.training.losses import squared_hinge

__all__ = ["LOSSES", "autocast", "begin", "build", "lr_factor", "make_optimizer"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_hinge": squared_hinge,
    "cross_entropy": cross_entropy,
}


def begin(
    config: TrainConfig, shape: tuple[int, ...], classes: int, steps: int, device: torch.device
) -> State:
    """A run before its first step, all of it by the config's seed.

    Args:
        config: the recipe.
        shape: the shape of an image.
        classes: their number.
        steps: steps in an epoch; the learning rate changes at each.
        device: the network's.
    """
    torch.manual_seed(config.seed)
    model = build(config, shape, classes).to(device)
    if device.type == "cuda":  # whose convolutions are several times as fast on it
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(config, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, step / steps))
    shuffler = torch.Generator().manual_seed(config.seed)
    return State(model, optimizer, schedule, shuffler, rows=[], layers=[], shape=shape, classes=classes)


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


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimizer over the model's parameters; its steps clip the latent weights."""
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
                groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused
            )
    if binary:
        clip_latent_weights(optimizer, model)
    return optimizer


def lr_factor(config: TrainConfig, epochs: float) -> float:
    """The factor of the learning rate after so many epochs (a fraction of one counts).

    exponential: (final / lr)^t, the papers'; linear: straight; cosine: half a wave. t goes from 0 to 1
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


def autocast(config: TrainConfig) -> Any:
    """The context of a forward pass, for the config's precision."""
    if config.precision == "32":
        return nullcontext()
    return torch.autocast(torch.device(config.device).type, dtype=torch.bfloat16)
