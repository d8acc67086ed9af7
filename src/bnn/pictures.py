"""Pictures that a stranger made: opened so that they cannot do more than be looked at.

Pillow knows some forty formats, and for some it starts other programs (Ghostscript for PostScript). Here it
gets the bytes of seven that it decodes itself, told by their content and never by a name. A picture that asks
for much is refused before it gets it.
"""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnn.errors import UserError, require
from bnn.files import read_whole

__all__ = ["FORMATS", "ImageError", "open_picture", "to_mode"]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is read, by Pillow's names."""

# Pillow holds up to 4 bytes a pixel, and while it decodes, several copies. A picture for a model is scaled
# down anyway: 2^26 pixels are 8192x8192.
MOST_PIXELS = 1 << 26
MOST_BYTES = 1 << 26
MOST_SIDE = 1 << 16  # a JPEG has no longer ones; Pillow's decoders clear many rows at once
# A progressive JPEG goes over all pixels once a scan, of which ten are usual and a few bytes are enough.
MOST_SCANNED = 16 * MOST_PIXELS
MOST_READS = 1 << 21  # parts of a file that Pillow looks at one by one: chunks, comments, runs
MOST_SEGMENTS = 1 << 16  # of a JPEG
MOST_VALUES = 1 << 19  # numbers in the tags of a TIFF, each of which becomes objects of Python

_ORIENTATION = 0x0112  # the tag
_BIG_TIFF = (b"II+\0", b"MM\0+")
_TURNS = {  # how to turn an image upright, by its EXIF orientation; names of Pillow's
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class ImageError(UserError):
    """A file is no image that can be used. The message is one line that names it."""


def open_picture(path: str | Path, *, upright: bool = False) -> Any:
    """The first frame of a picture, a Pillow image with its pixels.

    upright: turn it as its EXIF data says; else pixels come as they are stored.

    Raises:
        ImageError: it is none of FORMATS, damaged, or too large: more than 2^26 pixels, 2^16 pixels a side,
            or parts beyond number.
        MissingExtraError: Pillow is not installed.
        OSError: it cannot be opened, is no regular file, or has more than 2^26 bytes.
    """
    pillow = require("PIL.Image", "images")
    for plugin in ("PIL.WebPImagePlugin", "PIL.TiffImagePlugin"):  # the others are there from the start
        require(plugin, "images")
    content = read_whole(path, MOST_BYTES)
    with _refusing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that make no sense; pixels are all that is wanted
        exif, scans = b"", 1
        if content.startswith(b"\xff\xd8"):
            content, exif, scans = _bare_jpeg(content)
        if content[:4] in _BIG_TIFF:
            raise ImageError(f"{path}: a BigTIFF; a plain TIFF can be read")
        if content[:2] in (b"II", b"MM"):
            _check_values(path, content)
        image = pillow.open(_Metered(content), formats=FORMATS)
        _check_size(path, image, scans)
        image.load()
        if not upright:
            return image
        if image.format == "TIFF":  # recent versions of Pillow have turned it already, and then say so
            orientation = image.getexif().get(_ORIENTATION, 1)
        else:
            orientation = _orientation(exif or image.info.get("exif", b""))
        turn = _TURNS.get(orientation)
        return image.transpose(pillow.Transpose[turn]) if turn else image


def to_mode(path: str | Path, image: Any, mode: str) -> Any:
    """The image in one of Pillow's modes; ImageError where there is no way to it."""
    with _refusing(path):
        return image.convert(mode)


@contextmanager
def _refusing(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
        unknown = type(error).__name__ == "UnidentifiedImageError"
        reason = f"none of {', '.join(FORMATS)}" if unknown else str(error) or type(error).__name__
        raise ImageError(
            f"{path}: not an image that can be read: {' '.join(reason.split())[:200]}"
        ) from error


class _Metered(io.BytesIO):
    """A file that refuses to be read without end: how often, and how many bytes over and over."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads = MOST_READS
        self.bytes = 4 * len(content) + (1 << 20)

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.reads -= 1
        self.bytes -= len(found)
        if self.reads < 0 or self.bytes < 0:
            raise RuntimeError("it has too many parts")
        return found


def _check_size(path: str | Path, image: Any, scans: int) -> None:
    width, height = image.size
    pixels = width * height
    if pixels > MOST_PIXELS:
        raise ImageError(f"{path}: {width}x{height} are {pixels:,} pixels; at most {MOST_PIXELS:,} are read")
    if max(width, height) > MOST_SIDE:
        raise ImageError(f"{path}: {width}x{height} pixels; a side may have {MOST_SIDE:,}")
    if scans * pixels > MOST_SCANNED:
        raise ImageError(f"{path}: {scans:,} scans over {pixels:,} pixels; at most {MOST_SCANNED:,} in all")


def _bare_jpeg(content: bytes) -> tuple[bytes, bytes, int]:
    """A JPEG without what its pixels do not need, its EXIF data, and how many scans it has.

    What is left out (EXIF, ICC, XMP, previews, comments) would be read by parsers of their own.
    """
    kept, exif, scans, at = [content[:2]], b"", 0, 2
    while marker := _MARKER.search(content, at):
        kept.append(content[at : marker.start()])
        kind, start = marker[0][-1], marker.start()
        if kind == 0xD9:
            break
        if len(kept) > MOST_SEGMENTS:
            raise RuntimeError("it has too many parts")
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        segment = content[start:at]
        if kind in _NEEDLESS:
            if segment[4:10] == b"Exif\0\0" and not exif:
                exif = segment[4:]
        else:
            kept.append(segment)
            scans += kind == 0xDA
    kept.append(b"\xff\xd9" if marker else content[at:])
    return b"".join(kept), exif, scans


# A segment with a length, or the end; not 0 (in data), 1 (reserved), D0 to D7 (restarts) and D8 (the start).
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_NEEDLESS = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # applications' segments but JFIF's and Adobe's, and comments


def _tags(tiff: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, number of values and first short value of each entry in a TIFF's first directory."""
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for k in range(count):
            yield struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * k)
    except struct.error:
        return  # cut off


def _check_values(path: str | Path, tiff: bytes) -> None:
    numbers = sum(count for _, kind, count, _ in _tags(tiff) if kind not in (1, 2, 6, 7))  # bytes and text
    if numbers > MOST_VALUES:
        raise ImageError(
            f"{path}: a TIFF with {numbers:,} values in its tags; at most {MOST_VALUES:,} are read"
        )


def _orientation(exif: bytes) -> int:
    """How the camera was held, 1 to 8; 1 where nothing says so. EXIF data are those of a TIFF."""
    tiff = exif.removeprefix(b"Exif\0\0")
    return next((value for tag, _, _, value in _tags(tiff) if tag == _ORIENTATION), 1)
