"""The parametrization between a latent weight and its layer: one sample for each forward, no silent traps.

`bnn.binarize` registers it, and freezing removes it; nothing else needs to know of it.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Binarized", "forget_flat_weights_before_copying", "sample_once_a_forward"]


class Binarized(nn.Module):
    """The parametrization that `binarize` registers: latent weight in, binarized weight out.

    In training, one forward of a module uses one sample, however often it reads the weight: an LSTM
    reads it four times, and tied layers share it. Forward hooks mark where a forward begins and ends;
    between them the first sample is kept. It is computed with gradient even where it is read under
    `no_grad`, so that later reads have their gradient (with `parametrize.cached()` they would not).
    A module that calls itself starts a new sample.
    """

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self._forget()

    def _forget(self) -> None:
        self._open: list[nn.Module] = []  # whose forwards are under way: the network's, in it the layer's
        self._sample: Tensor | None = None
        self._handed_out: tuple[Tensor, int] | None = None  # a read outside a forward, and its version

    def forward(self, latent: Tensor) -> Tensor:
        if self._open and self.training:
            grad = torch.is_grad_enabled()
            if self._sample is None:
                if grad:
                    self._sample = self.quantizer(latent)
                else:
                    with torch.inference_mode(False), torch.enable_grad():
                        self._sample = self.quantizer(latent)
            assert self._sample is not None
            sample = self._sample if grad else self._sample.detach()
            # A sample made under autocast has its dtype, which must not leak into what autocast leaves out.
            return sample if torch.is_autocast_enabled(latent.device.type) else sample.to(latent.dtype)
        self.check_untouched()
        value: Tensor = self.quantizer(latent)
        if not torch.compiler.is_compiling() and not value.is_inference():
            self._handed_out = (value.detach(), value._version)
        return value

    def right_inverse(self, value: Tensor) -> Tensor:
        """`layer.weight = value` sets the latent weight, to a copy: assigning must not tie two tensors."""
        self._handed_out = None
        return value.clone()

    def check_untouched(self) -> None:
        """Checks that a weight which was read earlier has not been changed in place since.

        Raises:
            RuntimeError: it has, by `nn.init`, `copy_`, `mul_`, ..., and the latent weight has not.
        """
        handed_out = self._handed_out  # read once, as in eval() threads may share a model
        if handed_out is not None and not torch.compiler.is_compiling():
            alias, version = handed_out
            self._handed_out = None
            if alias._version != version:
                raise RuntimeError(
                    "a binarized weight was changed in place (nn.init, copy_, ...), which does not reach its "
                    "latent weight: assign it, layer.weight = value, or change "
                    "layer.parametrizations.weight.original"
                )

    def open_forward(self, module: nn.Module, inputs: Any) -> None:
        """A forward pre-hook."""
        self.check_untouched()
        if module in self._open:  # its last forward was stopped by Ctrl-C, after which no hook is called
            self._forget()
        if self.training:
            self._open.append(module)

    def close_forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook, called after an exception as well."""
        self._handed_out = None
        if module in self._open:
            self._open.remove(module)
        if not self._open:
            self._sample = None
        if isinstance(module, nn.RNNBase):
            _forget_flat_weights(module)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.check_untouched()
        super()._save_to_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        self.check_untouched()
        # A copy starts outside any forward, and has handed nothing out.
        return self.__dict__ | {"_open": [], "_sample": None, "_handed_out": None}


def sample_once_a_forward(module: nn.Module, binarized: Binarized) -> None:
    """Opens the span of one sample with each forward of `module`, and closes it."""
    # Bound methods, because deepcopy binds them to the copied Binarized; a closure would keep the original.
    if binarized.open_forward not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(binarized.open_forward)
        module.register_forward_hook(binarized.close_forward, always_call=True)


def _forget_flat_weights(rnn: nn.RNNBase) -> None:
    # An RNN keeps the weights of its last forward, which belong to a graph: they could not be copied. By dead
    # references it knows that they are out of date, and its next forward reads each weight anew.
    rnn._flat_weights = [None] * len(rnn._flat_weights)
    rnn._flat_weight_refs = [lambda: None] * len(rnn._flat_weights)  # type: ignore[list-item]


def forget_flat_weights_before_copying(rnn: nn.RNNBase) -> None:
    """Makes a binarized RNN one that `copy.deepcopy` can copy at any time."""
    cls: Any = type(rnn)  # made by `parametrize`, for this module and its copies alone
    deepcopy = cls.__deepcopy__

    def forget_and_copy(self: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
        _forget_flat_weights(self)  # `.to(device)` has read them, outside of any forward
        return deepcopy(self, memo)

    cls.__deepcopy__ = forget_and_copy
