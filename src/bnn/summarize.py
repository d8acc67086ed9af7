"""summary(): parameters, bytes and multiply-accumulates of any model, PyTorch's or packed."""

from typing import Any

from bnn.errors import require
from bnn.packed.costs import Summary, packed_summary
from bnn.packed.model import PackedModel
from bnn.runtime import Runner

__all__ = ["summary"]


def summary(model: Any, x: Any = None, *, batch_axis: int | None = 0) -> Summary:
    """Parameters, bytes and multiply-accumulates of each layer of a model.

    A PyTorch model is run once on `x`: a copy of it, frozen and in eval mode, so that the model stays as it
    is. Every product of that forward is counted, in layers and between them, and the sum divided by the
    length of the batch. Weights that `pack` would pack count as one-bit, in layers that it does not know yet
    as well. Inputs of a layer are ±1 if the values that arrive are: `x` should be a batch of real ones.

    Args:
        model: any nn.Module; or a PackedModel or Runner, whose graph has all that is asked.
        x: what the module takes: a tensor, or a tuple of tensors, on its device.
        batch_axis: of the first tensor. None: x is one sample.

    Raises:
        ValueError: the model is neither; the module does not take x; its layers see another batch than x
            has; there is nothing to count.
    """
    if isinstance(model, Runner):
        model = model.model
    if isinstance(model, PackedModel):
        return packed_summary(model)
    require("torch", "train")
    from bnn.counting import module_summary  # here, as it imports torch

    return module_summary(model, x, batch_axis)
