"""Binary neural networks: trained in PyTorch, packed to one bit a weight, run on one-bit kernels.

    bnn.binarize(model)                    # weights become ±1
    bnn.clip_latent_weights(optimizer, model)
    ...                                    # train as ever
    frozen = bnn.freeze(model)
    bnn.pack(frozen, example).save("model.bnn")

    net = bnn.load("model.bnn")            # this much needs no PyTorch
    net.predict(images)

`import bnn` loads numpy only; each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bnn.binarize import (
        BinaryConv1d,
        BinaryConv2d,
        BinaryConv3d,
        BinaryLinear,
        binarize,
        clip_latent_weights,
        latent_parameters,
        load_float_state_dict,
        scaled_parameter_groups,
    )
    from bnn.data import load_dataset
    from bnn.freezing import freeze, recalibrate
    from bnn.optim import Bop
    from bnn.packed.model import PackedModel
    from bnn.packed.serialization import FormatError
    from bnn.packing.pack import pack
    from bnn.packing.unpacking import to_torch
    from bnn.quantizers import (
        DoReFa,
        MagnitudeAwareSign,
        ProgressiveSign,
        Sign,
        StochasticSign,
        Ternary,
        set_progress,
    )
    from bnn.runtime import Runner, load
    from bnn.summary import summary

_HOME = {
    # deployment: numpy
    "FormatError": "bnn.packed.serialization",
    "PackedModel": "bnn.packed.model",
    "Runner": "bnn.runtime",
    "load": "bnn.runtime",
    "load_dataset": "bnn.data",
    "summary": "bnn.summary",
    # training: torch
    "BinaryConv1d": "bnn.binarize",
    "BinaryConv2d": "bnn.binarize",
    "BinaryConv3d": "bnn.binarize",
    "BinaryLinear": "bnn.binarize",
    "Bop": "bnn.optim",
    "DoReFa": "bnn.quantizers",
    "MagnitudeAwareSign": "bnn.quantizers",
    "ProgressiveSign": "bnn.quantizers",
    "Sign": "bnn.quantizers",
    "StochasticSign": "bnn.quantizers",
    "Ternary": "bnn.quantizers",
    "binarize": "bnn.binarize",
    "clip_latent_weights": "bnn.binarize",
    "freeze": "bnn.freezing",
    "latent_parameters": "bnn.binarize",
    "load_float_state_dict": "bnn.binarize",
    "pack": "bnn.packing",
    "recalibrate": "bnn.freezing",
    "scaled_parameter_groups": "bnn.binarize",
    "set_progress": "bnn.quantizers",
    "to_torch": "bnn.packing",
}

__all__ = [
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv3d",
    "BinaryLinear",
    "Bop",
    "DoReFa",
    "FormatError",
    "MagnitudeAwareSign",
    "PackedModel",
    "ProgressiveSign",
    "Runner",
    "Sign",
    "StochasticSign",
    "Ternary",
    "binarize",
    "clip_latent_weights",
    "freeze",
    "latent_parameters",
    "load",
    "load_dataset",
    "load_float_state_dict",
    "pack",
    "recalibrate",
    "scaled_parameter_groups",
    "set_progress",
    "summary",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnn' has no attribute {name!r}")
    home = _HOME[name]
    if home in _TORCH_SIDE:
        from bnn.errors import require

        require("torch", "train")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


_TORCH_SIDE = {
    "bnn.binarize",
    "bnn.freezing",
    "bnn.optim",
    "bnn.packing",
    "bnn.quantizers",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
