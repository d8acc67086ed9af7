"""A packed model: the bit convention, the nodes of its graph, its file. Numpy and safetensors only."""

from bnn.packed.model import PackedModel as PackedModel
from bnn.packed.serialization import FormatError as FormatError

__all__ = ["FormatError", "PackedModel"]
