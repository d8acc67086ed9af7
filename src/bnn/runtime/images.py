"""Reading an image file the way a model wants it, and saying what was changed for that."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import require
from bnn.packed.nodes import InputContract
from bnn.pictures import ImageError, open_picture, to_mode

__all__ = ["ImageError", "check_takes_images", "read_image"]


def check_takes_images(contract: InputContract, model: str | Path) -> None:
    """Raises ImageError, which names the model, unless its samples are grey or RGB images."""
    if len(contract.shape) != 3 or contract.shape[0] not in (1, 3) or not contract.mean:
        raise ImageError(f"{model}: this model takes {contract.shape}, not images")


def read_image(path: str | Path, contract: InputContract) -> tuple[NDArray[np.uint8], list[str]]:
    """An image file as raw pixels of the model's shape, and a note on each conversion.

    Colours become grey, or grey three equal channels; the image is scaled to fit, its proportions kept and
    its own background around it; a dark drawing on light ground is inverted for a model of one channel
    whose training data lay on dark ground, as MNIST does.

    Returns:
        uint8 (channels, height, width), and the notes, such as "grey from RGB".

    Raises:
        ImageError: the file is no image (see `bnn.pictures.open_picture`), or the model does not take images.
        MissingExtraError: Pillow is not installed.
        OSError: the file cannot be opened, or is no regular file.
    """
    check_takes_images(contract, path)
    channels, height, width = contract.shape
    image, notes = _open(path)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        notes.append(f"{'grey' if channels == 1 else 'RGB'} from {image.mode}")
        image = to_mode(path, image, mode)
    border = _border(np.asarray(image).reshape(image.height, image.width, channels))
    background = np.median(border, axis=0).astype(np.uint8)
    if image.size != (width, height):
        notes.append(f"scaled from {image.width}x{image.height} to {width}x{height}")
        image = _fit(image, (width, height), tuple(int(v) for v in background))
    pixels = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    if channels == 1 and contract.mean[0] < 0.5 and background[0] > 127:
        notes.append("inverted: dark on light ground")
        pixels = 255 - pixels
    return np.ascontiguousarray(pixels), notes


def _open(path: str | Path) -> tuple[Any, list[str]]:
    pillow = require("PIL.Image", "images")
    image = open_picture(path, upright=True)
    notes = []
    if image.mode == "F" or (image.mode == "I" and not 0 <= np.min(image) <= np.max(image) < 2**16):
        raise ImageError(f"{path}: pixels of 32 bits; 8 or 16 are understood")
    if image.mode.startswith("I"):
        notes.append("8 bits from 16")
        image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        notes.append("transparent parts on white")
        image = to_mode(path, image, "RGBA")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    return image, notes


def _border(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels at the edge, (n, channels)."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return np.concatenate(edges)


def _fit(image: Any, size: tuple[int, int], background: tuple[int, ...]) -> Any:
    pillow = require("PIL.Image", "images")
    factor = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    canvas = pillow.new(image.mode, size, background if len(background) > 1 else background[0])
    scaled = image.resize(inner, pillow.Resampling.BOX if factor < 1 else pillow.Resampling.BILINEAR)
    canvas.paste(scaled, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas
