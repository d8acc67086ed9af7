"""Optimizers for binary weights that have no latent ones."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bnn.functional import sign

__all__ = ["Bop"]


class Bop(torch.optim.Optimizer):
    """The binary optimizer of "Latent Weights Do Not Exist" (Helwegen et al., 2019, algorithm 1).

    A weight w is ±1 itself; what is kept beside it is an average m of its gradients g:

        m <- (1 - gamma) m + gamma g
        w <- -w   where |m| >= tau and sign(m) = sign(w)

    So a weight flips when the gradients of the last 1 / gamma steps or so agree that its sign is wrong. Give
    Bop the binary weights, and everything else to another optimizer:

        binary = list(bnn.latent_parameters(model))
        others = [p for p in model.parameters() if all(p is not b for b in binary)]
        optimizers = [bnn.Bop(binary), torch.optim.Adam(others)]

    The constructor changes the weights to their signs. There are no magnitudes after that, so nothing
    to clip. The estimator of a weight's quantizer must let gradients pass at ±1: the identity, which is
    `binarize`'s default, does; `approx_ste` does not. Parameters that are used as they are, without
    `binarize`, work as well.

    Gradients that are NaN stay in the average, and their weights flip no more.

    Args:
        params: parameters in float32 or float64, or groups of them, each of which may have its own gamma and
            tau. PyTorch's schedules look for an "lr": for one of gamma set group["gamma"] in the loop.
        gamma: the adaptivity rate, in (0, 1]: how much a new gradient counts in the average. The larger,
            the more weights flip; as a learning rate it should fall in the course of training.
        tau: the threshold, >= 0, that an average must reach for a flip. At 0 every average does but 0.

    Raises:
        ValueError: gamma or tau is out of range, or a parameter is of another dtype, or holds NaN or
            infinity. No parameter is then changed.
    """

    _constructing = False  # in copies too, which PyTorch makes without the attributes of an instance

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], gamma: float = 1e-4, tau: float = 1e-8
    ) -> None:
        self._constructing = True
        super().__init__(params, {"gamma": gamma, "tau": tau})
        self._constructing = False
        for group in self.param_groups:
            _make_signs(group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, which are changed to their signs."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        if not self._constructing:  # else a later group may still be refused
            _make_signs(self.param_groups[-1]["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the averages and flips weights. Weights without gradient are left alone.

        Args:
            closure: evaluates the model anew and returns the loss, which is then returned.

        Raises:
            ValueError: a gradient is sparse. Nothing is then changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        if any(p.grad.is_sparse for params in held for p in params):
            raise ValueError("Bop takes dense gradients only: an average of sparse ones is not sparse")
        for group, params in zip(self.param_groups, held, strict=True):
            if params:
                averages = [self._average(p) for p in params]
                torch._foreach_lerp_(averages, [p.grad for p in params], group["gamma"])
                for p, m in zip(params, averages, strict=True):
                    _flip(p, m, group["tau"])
        return loss

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["average"]


def _flip(w: Tensor, m: Tensor, tau: float) -> None:
    signs = sign(w)  # w itself, unless it was overwritten with a float network's weights
    agreeing = signs * m  # |m| where sign(m) = sign(w), else -|m|
    flips = agreeing >= tau if tau > 0 else agreeing > 0  # an average of 0 has no sign
    w.copy_(torch.where(flips, -signs, signs))


def _check(group: dict[str, Any]) -> None:
    gamma, tau = group["gamma"], group["tau"]
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], not {gamma}")
    if not 0 <= tau < float("inf"):
        raise ValueError(f"tau must be 0 or more, and finite, not {tau}")
    for p in group["params"]:
        if p.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Bop takes parameters in float32 or float64, not {p.dtype}, in which averages lose small "
                "gradients: keep the parameters in float32, and compute under torch.autocast"
            )
        if not p.isfinite().all():
            raise ValueError(f"a parameter of shape {tuple(p.shape)} holds NaN or infinity")


@torch.no_grad()
def _make_signs(params: Iterable[Tensor]) -> None:
    for p in params:
        p.copy_(sign(p))
