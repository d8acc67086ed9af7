"""Hostile pictures, through `bnn predict` and through a folder of images: each is one line, and nothing more.

    python tests/attack/pictures.py [--count N] [--only NAME] [--verbose]

Among them are programs for Ghostscript, other formats under the name of a picture, bombs, truncated files,
files that are none. Each goes to a process of its own that is watched: what it starts (a `gs` that leaves a
mark is first on PATH), which files it writes or removes, how long it takes, how much memory. A finding is
anything but one line with the file's name and exit status 2, and a folder's loader that does not leave just
that picture out; of large sound pictures, one that costs too much. Then the exit status is 1. POSIX only.
"""

import argparse
import io
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MOST_SECONDS = 60
MOST_MEMORY = 2 << 30

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 28 28
%%EndComments
(%pipe%touch MARK) (w) file closefile
(ran) print (MARK) (w) file dup (x) writestring closefile
{ } loop
showpage
%%EOF
"""


# ---- pictures ------------------------------------------------------------------------------------------


def _good(form: str, size: tuple[int, int] = (28, 28), mode: str = "L", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], len(mode)), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, form, **options)
    return buffer.getvalue()


def _large(form: str, mode: str, **options: Any) -> bytes:
    """8192x8192 pixels of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (8192, 8192)).save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _zeros(size: int) -> bytes:
    """`size` zero bytes, compressed without having them all in memory."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block[: min(1 << 20, size - at)]) for at in range(0, size, 1 << 20)]
    return b"".join([*parts, packer.flush()])


def _png(width: int, height: int, *before: bytes, data: bytes | None = None, after: bytes = b"") -> bytes:
    """A grey PNG of 8 bits (black, unless there are data), with chunks before and after its pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _zeros((width + 1) * height) if data is None else data
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + _chunk(b"IDAT", data) + after + _chunk(b"IEND", b"")
    )


def _png_of_one_bit(width: int, height: int) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    data = _chunk(b"IDAT", _zeros(((width + 7) // 8 + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + head + data + _chunk(b"IEND", b"")


def _tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of these entries (tag, type, count, value or offset); `tail` lies behind the directory."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + tail


def _grey_tiff(
    width: int, height: int, *more: tuple[int, int, int, int], compression: int = 1, **rest: Any
) -> bytes:
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
    ]
    return _tiff(sorted([*entries, *more]), **rest)


def _gif(screen: tuple[int, int], frame: tuple[int, int], before: bytes = b"") -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\0"
    return head + before + image + b";"


def _bmp(width: int, height: int, data: bytes, compression: int = 1, bits: int = 8) -> bytes:
    palette = b"".join(bytes((k, 255 - k, k, 0)) for k in range(256)) if bits == 8 else b""
    offset = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return head + info + palette + data


def _jpeg_with(*segments: bytes, size: tuple[int, int] = (28, 28)) -> bytes:
    good = _good("JPEG", size)
    return good[:2] + b"".join(segments) + good[2:]


def _segment(kind: int, content: bytes) -> bytes:
    return bytes((0xFF, kind)) + struct.pack(">H", len(content) + 2) + content


def _many_scans(count: int, size: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again, empty."""
    good = _good("JPEG", (size, size), progressive=True)
    last = good.rindex(b"\xff\xda")
    header = good[last : last + 2 + int.from_bytes(good[last + 2 : last + 4], "big")]
    return good[:-2] + header * count + b"\xff\xd9"


def _webp_animation() -> bytes:
    frames = [Image.new("RGB", (400, 400), (k, 0, 255 - k)) for k in range(200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def _exif_bomb() -> bytes:
    """EXIF of 5,000 tags that each have all of it as their value, in many segments."""
    count = 5000
    size = 65000
    entries = b"".join(struct.pack("<HHII", tag, 7, size, 0) for tag in range(1, count + 1))
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries
    return b"Exif\0\0" + block[:size].ljust(size, b"\0")


def _big_exif(parts: int) -> bytes:
    return _segment(0xE1, b"Exif\0\0" + bytes(1000)) * parts


# Formats that are not read, under the name of a picture, by their first bytes.
OTHERS: dict[str, bytes] = {
    "postscript": POSTSCRIPT,
    "postscript.jpg": POSTSCRIPT,
    "postscript-of-dos.png": b"\xc5\xd0\xd3\xc6"
    + struct.pack("<II", 32, len(POSTSCRIPT))
    + bytes(20)
    + POSTSCRIPT,
    "postscript-with-preview": POSTSCRIPT.replace(
        b"%%EndComments", b"%%Page: 1 1\n%%BeginPreview: 8 8 1 8\n%%EndComments"
    ),
    "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/Launch/F(touch MARK)>>>>endobj\ntrailer<<>>",
    "metafile": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 28, 28, 96) + bytes(100),
    "enhanced-metafile": b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(60),
    "photoshop": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 1, 28, 28, 8, 1) + bytes(900),
    "flashpix": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000),
    "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "avif": b"\0\0\0\x1cftypavif" + bytes(100),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "imagemagick": b"push graphic-context\nfill 'url(https://127.0.0.1/\"|touch MARK\")'\n",
    "icon": b"\0\0\x01\0\x01\0\x1c\x1c\0\0\x01\0\x20\0\xff\xff\xff\x7f\x16\0\0\0",
    "text": b"not a picture",
    "empty": b"",
    "shell": b"#!/bin/sh\ntouch MARK\n",
}

BOMBS: dict[str, Callable[[], bytes]] = {
    "png-60000x60000": lambda: _png_of_one_bit(60_000, 60_000),
    "png-header": lambda: _png(2**31 - 1, 2**31 - 1, data=b"x"),
    "png-text-bomb": lambda: _png(
        28, 28, *[_chunk(b"zTXt", b"k%d\0\0" % k + _zeros(1 << 27)) for k in range(100)]
    ),
    "png-profile-bomb": lambda: _png(28, 28, _chunk(b"iCCP", b"k\0\0" + _zeros(1 << 30))),
    "png-chunks": lambda: _png(28, 28, b"".join(_chunk(b"tEXt", b"%d\0" % k) for k in range(1_500_000))),
    "png-late-chunks": lambda: _png(28, 28, after=_chunk(b"tEXt", b"k\0v") * 3_000_000),
    "png-wide": lambda: _png(1 << 26, 1),
    "png-wrong-sum": lambda: _png(28, 28).replace(b"IHDR\0", b"IHDR\1"),
    "gif-screen": lambda: _gif((65535, 65535), (1, 1)),
    "gif-frame": lambda: _gif((1, 1), (65535, 65535)),
    "gif-comments": lambda: _gif((28, 28), (28, 28), b"!\xfe" + (b"\xff" + b"c" * 255) * 240_000 + b"\0"),
    "gif-short-comments": lambda: _gif((28, 28), (28, 28), b"!\xfe\x01c\0" * 10_000_000),
    "tiff-strips": lambda: _grey_tiff(
        28, 28, (273, 4, 12_000_000, 8), (278, 3, 1, 1), tail=bytes(48_000_000)
    ),
    "tiff-overlap": lambda: _tiff([(tag, 7, 6_000_000, 8) for tag in range(1, 60_000)], bytes(6_000_000)),
    "tiff-values": lambda: _grey_tiff(28, 28, (320, 3, 30_000_000, 8), tail=bytes(60_000_000)),
    "tiff-big": lambda: b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + struct.pack("<Q", 2**63),
    "tiff-loop": lambda: _grey_tiff(60000, 60000, (273, 4, 1, 8), compression=8, following=8),
    "tiff-deflate": lambda: _grey_tiff(
        30000,
        30000,
        (273, 4, 1, 150),
        (278, 4, 1, 30000),
        (279, 4, 1, 900_000),
        compression=8,
        tail=_zeros(900_000_000),
    ),
    "tiff-odd-compression": lambda: _grey_tiff(28, 28, (273, 4, 1, 8), compression=34712),
    "jpeg-scans": lambda: _many_scans(100_000, 2000),
    "jpeg-header": lambda: _good("JPEG").replace(b"\x00\x1c\x00\x1c", b"\xff\xff\xff\xff"),
    "jpeg-segments": lambda: _jpeg_with(_segment(0xE0, b"") * 10_000_000),
    "webp-header": lambda: (
        b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff" + b"VP8 " + bytes(12)
    ),
    "ppm-numbers": lambda: b"P6\n" + b"9" * 30 + b" 99999\n255\n",
    "ppm-large": lambda: b"P6\n100000 100000\n255\n",
    "ppm-comment": lambda: b"P6\n#" + b"c" * 60_000_000,
    "ppm-zero": lambda: b"P5 28 28 0\n" + bytes(784),
    "ppm-text": lambda: b"P2 8000 8000 255\n" + b"1" * 60_000_000,
    "bmp-delta": lambda: _bmp(1 << 26, 1, b"\0\x02\0\xff" * 1000),
    "bmp-runs": lambda: _bmp(8000, 8000, b"\x01\x05" * 30_000_000),
    "bmp-large": lambda: _bmp(2**31 - 1, 2**31 - 1, b"", 0),
    "bmp-negative": lambda: _bmp(28, -(2**31), b"", 0),
    "bmp-palette": lambda: _bmp(28, 28, b"", 0).replace(
        struct.pack("<II", 0, 0), struct.pack("<II", 2**32 - 1, 0), 1
    ),
}

# Sound, as large as they may be: what counts is what they cost.
HEAVY: dict[str, Callable[[], bytes]] = {
    "jpeg-exif": lambda: _jpeg_with(
        _segment(0xE1, _exif_bomb()), *[_segment(0xE1, b"Exif\0\0" + bytes(65000))] * 900
    ),
    "jpeg-exif-parts": lambda: _jpeg_with(_big_exif(60_000)),
    "jpeg-8192": lambda: _good("JPEG", (8192, 8192), "RGB", progressive=True),
    "jpeg-1000-scans": lambda: _many_scans(1000, 1024),
    "jpeg-60000-scans": lambda: _many_scans(60_000, 64),
    "png-8192": lambda: _large("PNG", "RGBA"),
    "webp-8192": lambda: _large("WEBP", "RGBA", lossless=True, method=0),
    "webp-animation": _webp_animation,
    "gif-8192": lambda: _large("GIF", "P"),
    "tiff-8192": lambda: _large("TIFF", "RGBA", compression="tiff_deflate"),
    "tiff-16-bits": lambda: _large("TIFF", "I;16", compression="tiff_deflate"),
    "bmp-16-million": lambda: _good("BMP", (4096, 4096)),
    "bmp-million-runs": lambda: _bmp(1000, 1000, b"\x01\x05" * 999_000 + b"\0\1"),
    "ppm-text-sound": lambda: b"P2 5000 5000 255\n" + b"1 " * 25_000_000,
    "ppm-odd-maximum": lambda: b"P5 8000 8000 254\n" + bytes(64_000_000),
    "tiff-many-strips": lambda: _grey_tiff(
        200,
        60_000,
        (273, 4, 60_000, 200),
        (278, 3, 1, 1),
        (279, 4, 60_000, 200),
        tail=b"\xc8\0\0\0" * 3_000_000,
    ),
}

CUT: dict[str, Callable[[], bytes]] = {
    f"cut-{form.lower()}": lambda form=form, options=options: _good(form, (200, 200), **options)[:900]
    for form, options in {
        "PNG": {},
        "JPEG": {},
        "BMP": {},
        "GIF": {},
        "WEBP": {"lossless": True},
        "TIFF": {"compression": "tiff_lzw"},
        "PPM": {},
    }.items()
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have 108 bytes
        opened.bind(path.name)
        os.chdir(here)


ODD: dict[str, Callable[[Path], None]] = {
    "fifo": _fifo,
    "link-to-fifo": lambda path: (os.mkfifo(path.parent / ".fifo"), path.symlink_to(".fifo"))[1],
    "socket": _socket,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "link-to-itself": lambda path: path.symlink_to(path.name),
    "link-to-nothing": lambda path: path.symlink_to("nothing"),
    "sparse": lambda path: (path.touch(), os.truncate(path, 1 << 40))[1],
    "long-name-" + "n" * 230: lambda path: path.write_bytes(b"x") and None,
}


def all_pictures() -> dict[str, Callable[[Path], None]]:
    """What makes each picture, by its name."""

    def writer(content: Callable[[], bytes]) -> Callable[[Path], None]:
        return lambda path: path.write_bytes(content()) and None

    made = {name: writer(lambda content=content: content) for name, content in OTHERS.items()}
    made |= {name: writer(content) for name, content in (BOMBS | CUT | HEAVY).items()}
    return made | ODD


# ---- the process that is watched -----------------------------------------------------------------------

CHILD = """
import sys, json, warnings, os, resource
model, picture, folder = sys.argv[1:4]
events = []
STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty"}
CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink",
           "os.chmod", "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp"}
watching = False
def hook(event, args):
    if not watching:
        return
    if event in STARTS or event == "ctypes.dlopen":
        events.append([event, repr(args)[:200]])
    elif event in CHANGES or event in ("os.listdir", "os.scandir") and os.environ["TMPDIR"] in repr(args):
        events.append([event, repr(args)[:200]])
    elif event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        events.append([event, repr(args)[:200]])
sys.addaudithook(hook)
from bnn.cli import main
import bnn.pictures, PIL.Image, PIL.WebPImagePlugin, PIL.TiffImagePlugin, bnn.cli.options
from bnn.data import load_dataset
watching = True
status = main(["predict", model, picture])
watching = False
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    watching = True
    try:
        data = load_dataset(folder)
        loaded = len(data.train_targets) + len(data.test_targets)
    except Exception as error:
        loaded = repr(error)
    watching = False
said = [str(w.message) for w in caught]
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps({"status": status, "loaded": loaded, "events": events, "said": said, "memory": memory}))
"""


class Trial:
    """A folder with a model, a fake Ghostscript, and a canary in the temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "m.bnn"
        _save_model(self.model)
        self.mark = folder / "MARK"
        programs = folder / "programs"
        programs.mkdir()
        for name in ("gs", "gswin32c", "gswin64c", "djpeg", "convert", "sh"):
            fake = programs / name
            fake.write_text(f"#!/bin/bash\ntouch {self.mark}\n")
            fake.chmod(0o755)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        (self.temporary / "canary.txt").write_text("not yours")
        self.environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
        }

    def __call__(self, name: str, make: Callable[[Path], None]) -> tuple[list[str], float, int, str]:
        """What was wrong, the seconds and bytes it took, and the line that was said."""
        folder = self.folder / "picture"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "a").mkdir(parents=True)
        for k in range(2):
            (folder / "a" / f"good{k}.png").write_bytes(_good("PNG"))
        path = folder / "a" / (name if "." in name else f"{name}.png")
        make(path)
        before = _listing(self.temporary), _listing(folder)
        start = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.model), str(path), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            cwd=self.folder,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
        ) as process:
            try:
                output, errors = process.communicate(timeout=MOST_SECONDS * 4)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
        seconds = time.monotonic() - start
        after = _listing(self.temporary), _listing(folder)
        wrong, memory = _judge(path, process.returncode, output, errors)
        wrong += ["a file was touched"] * (before != after) + ["a program ran"] * self.mark.exists()
        wrong += [f"{seconds:.0f} s"] * (seconds > MOST_SECONDS)
        self.mark.unlink(missing_ok=True)
        return wrong, seconds, memory, errors.strip()


def _save_model(path: Path) -> None:
    from bnn.packed.model import PackedModel
    from bnn.packed.nodes import Flatten, InputContract, Linear, PackedWeight, Sign

    signs = np.sign(np.random.default_rng(0).standard_normal((10, 784))).astype(np.int8)
    nodes = (
        Flatten(name="flat", inputs=("input",)),
        Sign(name="sign", inputs=("flat",)),
        Linear(name="fc", inputs=("sign",), weight=PackedWeight.from_signs(signs)),
    )
    PackedModel(InputContract((1, 28, 28), (0.5,), (0.25,), tuple("0123456789")), nodes, {}).save(path)


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of all that is below a folder."""
    found = ((path, path.lstat()) for path in sorted(folder.rglob("*")))
    return [(str(path), status.st_size, status.st_mtime_ns) for path, status in found]


def _judge(path: Path, status: int | None, output: str, errors: str) -> tuple[list[str], int]:
    """What is wrong with how the process behaved, and its memory in bytes."""
    try:
        said = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return [f"ended with {status}: {errors[-300:]}"], 0
    if path.stem in HEAVY:
        wrong = [f"exit status {said['status']}: {errors[:300]}"] * (said["status"] not in (0, 2))
    else:
        wrong = _judge_refusal(path, said, errors.splitlines())
    wrong += [f"did {event}" for event in said["events"]]
    wrong += [f"{said['memory'] >> 20} MB"] * (said["memory"] > MOST_MEMORY)
    return wrong, said["memory"]


def _judge_refusal(path: Path, said: dict[str, Any], lines: list[str]) -> list[str]:
    wrong = [f"exit status {said['status']}"] * (said["status"] != 2)
    wrong += [f"{len(lines)} lines on standard error: {lines[:3]}"] * (len(lines) != 1)
    wrong += [f"does not name the file: {lines[:3]}"] * (not any(path.name in line for line in lines))
    wrong += [f"the folder gave {said['loaded']}"] * (said["loaded"] != 2)
    named = [line for line in said["said"] if path.name in line]
    return wrong + [f"the folder said {said['said']}"] * (len(named) != 1 or len(said["said"]) != 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Hostile pictures through bnn predict and a folder's loader."
    )
    parser.add_argument("--count", type=int, help="so many of them, evenly chosen (default: all)")
    parser.add_argument("--only", default="", help="those that have it in their name")
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    options = parser.parse_args()
    pictures = {name: make for name, make in all_pictures().items() if options.only in name}
    if options.count:
        chosen = list(pictures)[:: max(1, len(pictures) // options.count)][: options.count]
        pictures = {name: pictures[name] for name in chosen}
    findings, most_seconds, most_memory = 0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        for name, make in pictures.items():
            wrong, seconds, memory, line = trial(name, make)
            most_seconds, most_memory = max(most_seconds, seconds), max(most_memory, memory)
            if options.verbose or wrong:
                print(f"{name[:30]:30} {seconds:5.1f} s {memory >> 20:5d} MB  {line[:200]}", flush=True)
            for text in wrong:
                print(f"  FINDING: {text}", flush=True)
                findings += 1
    ghostscript = shutil.which("gs") or "not installed"
    print(
        f"{len(pictures)} pictures, Ghostscript {ghostscript}: {findings} findings; at most "
        f" {most_seconds:.1f} s and {most_memory >> 20} MB"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
