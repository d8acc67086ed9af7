"""Pictures: seven formats by their content, nothing else, and none that asks for much."""

import io
import os
import socket
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from bnn import pictures
from bnn.files import read_whole
from bnn.pictures import FORMATS, ImageError, open_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(form: str, pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def refusal(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ImageError) as error:  # a warning would be an error of another kind
        open_picture(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_told_by_its_content(form: str, tmp_path: Path) -> None:
    """Each of the seven is read as Pillow reads it, under a name of another."""
    content = encoded(form)
    path = tmp_path / "picture.eps"
    path.write_bytes(content)
    with Image.open(io.BytesIO(content)) as expected:
        np.testing.assert_array_equal(np.asarray(open_picture(path)), np.asarray(expected))


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "SGI", "PCX", "JPEG2000", "DDS"])
def test_another_format_is_refused(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow could read too, by programs of others even, is not read, and nothing is started."""
    content = encoded(form)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert "none of PNG, JPEG" in refusal(tmp_path, content)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused(form: str, share: float, tmp_path: Path) -> None:
    """Not half read."""
    content = encoded(form, np.tile(PIXELS, (8, 8, 1)))
    refusal(tmp_path, content[: int(share * len(content))])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_where_that_is_asked_for(form: str, orientation: int, tmp_path: Path) -> None:
    """As Pillow turns it; else it comes as it is stored (a TIFF as Pillow's own reader turns it)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture"
    path.write_bytes(encoded(form, exif=exif))
    with Image.open(path) as image:
        np.testing.assert_array_equal(
            np.asarray(open_picture(path, upright=True)), np.asarray(ImageOps.exif_transpose(image))
        )
        np.testing.assert_array_equal(np.asarray(open_picture(path)), np.asarray(image))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"", b"II", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff", b"x" * 99]
)
def test_exif_that_makes_no_sense_is_passed_over(form: str, exif: bytes, tmp_path: Path) -> None:
    """Without a warning."""
    path = tmp_path / "picture"
    path.write_bytes(encoded(form, exif=exif))
    assert open_picture(path, upright=True).size == (40, 24)


def test_a_jpeg_without_its_metadata_is_the_same_picture(tmp_path: Path) -> None:
    """Comments, profiles, previews and restarts change no pixel, nor does what follows the end."""
    thumbnail = b"\xff\xd8\xff\xda\xff\xd9" * 100
    content = encoded(
        "JPEG", progressive=True, comment=b"c", icc_profile=b"p" * 70_000, restart_marker_rows=1
    )
    content = content[:2] + b"\xff\xe3" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + content[2:]
    path = tmp_path / "picture"
    path.write_bytes(content + b"\xff\xda\0\x02" * 100_000)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(open_picture(path)), np.asarray(image))


@pytest.mark.parametrize("form", FORMATS)
def test_pixels_are_counted_before_they_are_decoded(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says both numbers."""
    monkeypatch.setattr(pictures, "MOST_PIXELS", 959)
    assert "40x24 are 960 pixels; at most 959 are read" in refusal(tmp_path, encoded(form))


def test_a_side_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so has a file."""
    monkeypatch.setattr(pictures, "MOST_SIDE", 39)
    assert "40x24 pixels; a side may have 39" in refusal(tmp_path, encoded("PNG"))
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    with pytest.raises(OSError, match="bytes or more; at most 100 are read"):
        open_picture(tmp_path / "picture.png")


def test_scans_of_a_jpeg_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes over all pixels; the usual ten pass."""
    content = encoded("JPEG", progressive=True)
    monkeypatch.setattr(pictures, "MOST_SCANNED", 960 * 20)
    (tmp_path / "sound").write_bytes(content)
    open_picture(tmp_path / "sound")
    last = content.rindex(b"\xff\xda")
    message = refusal(tmp_path, content[:-2] + content[last : last + 10] * 11 + b"\xff\xd9")
    assert "21 scans over 960 pixels; at most 19,200 in all" in message


@pytest.mark.parametrize("junk", [b"\xff\x01", b"\xff\xd8", b"\xff\xff", b"\xff\xd0"])
def test_scans_cannot_be_hidden(junk: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not behind markers that have no length."""
    content = encoded("JPEG", progressive=True)
    monkeypatch.setattr(pictures, "MOST_SCANNED", 960 * 20)
    last = content.rindex(b"\xff\xda")
    scans = (junk + content[last : last + 10]) * 11
    assert "21 scans" in refusal(tmp_path, content[:-2] + scans + b"\xff\xd9")


def test_parts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a PNG and segments of a JPEG."""
    monkeypatch.setattr(pictures, "MOST_READS", 1000)
    png = encoded("PNG")
    chunk = b"\0\0\0\0abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    assert "too many parts" in refusal(tmp_path, png[:33] + chunk * 1000 + png[33:])
    monkeypatch.setattr(pictures, "MOST_SEGMENTS", 100)
    jpeg = encoded("JPEG")
    assert "too many parts" in refusal(tmp_path, jpeg[:2] + b"\xff\xe0\0\x02" * 100 + jpeg[2:])


def test_bytes_that_are_read_again_are_counted(tmp_path: Path) -> None:
    """Tags of a TIFF that share their bytes do not fill the memory."""
    entries = b"".join(struct.pack("<HHII", tag, 7, 1 << 20, 8) for tag in range(1, 1000))
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 999) + entries + bytes(4)
    refusal(tmp_path, content + bytes(1 << 20))


def test_values_in_tags_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would become an object; a BigTIFF is not read at all."""
    content = encoded("TIFF")
    monkeypatch.setattr(pictures, "MOST_VALUES", 10)
    assert "values in its tags; at most 10 are read" in refusal(tmp_path, content)
    assert "a BigTIFF" in refusal(tmp_path, encoded("TIFF", big_tiff=True))


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would be waited for, a device read without end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(tmp_path)
        try:
            opened.bind("socket")
        finally:
            os.chdir(here)
    for name, kind in {
        "pipe": "pipe",
        "link": "pipe",
        "zeros": "device",
        "socket": "socket",
        ".": "folder",
    }.items():
        with pytest.raises(OSError, match=f"a {kind}, not a file") as error:
            open_picture(tmp_path / name)
        assert error.value.filename == str(tmp_path / name)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    """And one byte more is refused, unread."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_whole(path, 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes or more; at most 4 are read"):
        read_whole(path, 4)
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "none", 4)
