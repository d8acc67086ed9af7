"""Binary neural networks: trained in PyTorch, packed to one bit a weight, run on one-bit kernels.

    bnn.binarize(model)                    # weights become ±1
    bnn.clip_latent_weights(optimizer, model)
    ...                                    # train as ever
    frozen = bnn.freeze(model)
    bnn.pack(frozen, example).save("model.bnn")

    net = bnn.load("model.bnn")            # this much needs no PyTorch
    net.predict(images)

`import bnn` is instant: each name is imported when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; a test holds it to the names below
    from bnn.binarization import BinaryConv1d as BinaryConv1d
    from bnn.binarization import BinaryConv2d as BinaryConv2d
    from bnn.binarization import BinaryConv3d as BinaryConv3d
    from bnn.binarization import BinaryLinear as BinaryLinear
    from bnn.binarization import binarize as binarize
    from bnn.binarization import clip_latent_weights as clip_latent_weights
    from bnn.binarization import latent_parameters as latent_parameters
    from bnn.binarization import load_float_state_dict as load_float_state_dict
    from bnn.binarization import scaled_parameter_groups as scaled_parameter_groups
    from bnn.data import load_dataset as load_dataset
    from bnn.freezing import freeze as freeze
    from bnn.freezing import recalibrate as recalibrate
    from bnn.optim import Bop as Bop
    from bnn.packed import FormatError as FormatError
    from bnn.packed import PackedModel as PackedModel
    from bnn.packing import pack as pack
    from bnn.packing import to_torch as to_torch
    from bnn.quantizers import DoReFa as DoReFa
    from bnn.quantizers import MagnitudeAwareSign as MagnitudeAwareSign
    from bnn.quantizers import ProgressiveSign as ProgressiveSign
    from bnn.quantizers import Sign as Sign
    from bnn.quantizers import StochasticSign as StochasticSign
    from bnn.quantizers import Ternary as Ternary
    from bnn.quantizers import set_progress as set_progress
    from bnn.runtime import Runner as Runner
    from bnn.runtime import load as load
    from bnn.summarize import summary as summary

_DEPLOYMENT = {  # numpy
    "bnn.data": ["load_dataset"],
    "bnn.packed": ["FormatError", "PackedModel"],
    "bnn.runtime": ["Runner", "load"],
    "bnn.summarize": ["summary"],
}
_TRAINING = {  # torch
    "bnn.binarization": [
        "BinaryConv1d",
        "BinaryConv2d",
        "BinaryConv3d",
        "BinaryLinear",
        "binarize",
        "clip_latent_weights",
        "latent_parameters",
        "load_float_state_dict",
        "scaled_parameter_groups",
    ],
    "bnn.freezing": ["freeze", "recalibrate"],
    "bnn.optim": ["Bop"],
    "bnn.packing": ["pack", "to_torch"],
    "bnn.quantizers": [
        "DoReFa",
        "MagnitudeAwareSign",
        "ProgressiveSign",
        "Sign",
        "StochasticSign",
        "Ternary",
        "set_progress",
    ],
}
_HOME = {name: home for homes in (_DEPLOYMENT, _TRAINING) for home, names in homes.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnn' has no attribute {name!r}")
    if _HOME[name] in _TRAINING:
        from bnn.errors import require

        require("torch", "train")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _warn_of_namesakes() -> None:
    """Says in one line if another distribution that imports as `bnn` lies in the same folder."""
    site = Path(__file__).parent.parent
    for found in [*site.glob("bnn-*.dist-info"), *site.glob("bnn_lab-*.dist-info")]:
        from bnn.errors import warn

        warn(
            f"{found.name} in {site} has a package `bnn` too, and one replaces files of the other: "
            "pip uninstall bnn bnn-lab, then pip install --force-reinstall binaryconnect",
            RuntimeWarning,
            stacklevel=3,
        )


_warn_of_namesakes()
