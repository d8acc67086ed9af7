"""From a frozen PyTorch model to a packed one, and back."""

from bnn.packing.packing import pack as pack
from bnn.packing.unpacking import to_torch as to_torch
from bnn.packing.weights import PackWarning as PackWarning

__all__ = ["PackWarning", "pack", "to_torch"]
