"""Draws the diagrams of these pages, each from what it shows: figures from the pages' tables, a file from its
dump, a table of sums from the sums, the rooms of the package from its imports.

python docs/diagrams.py [FOLDER]

Each is an SVG without a background, in colours for light pages and dark ones. Its description is what it was
drawn from, by which a test tells whether it has aged.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from bnn.studies.figures import PALETTE

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests"))
from support.structure import floors, imported, module_files, room, rooms  # noqa: E402

BLUE, RED, GREEN, YELLOW = PALETTE[:4]
TEXT = "#797979"  # 4.4 : 1 on white and on GitHub's dark page
INK = "#1c2733"  # in boxes
PALE = {BLUE: "#c9daea", RED: "#f9d3d8", GREEN: "#bfe0c6", YELLOW: "#efe8c2", TEXT: "#dcdcdc"}


@contextmanager
def diagram(path: Path, size: tuple[float, float], drawn_from: object) -> Iterator[Any]:
    """Axes of `size` in tenths of an inch, without a frame; then an SVG that is the same every time."""
    style = {"svg.hashsalt": path.name, "text.color": TEXT, "font.size": 9}
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=size)
        axes = drawing.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 10 * size[0]), ylim=(0, 10 * size[1]))
        axes.set_axis_off()
        yield axes
        description = {"Description": str(drawn_from), "Date": None, "Creator": None}
        drawing.savefig(path, format="svg", transparent=True, metadata=description)


def box(
    axes: Any, at: tuple[float, float], size: tuple[float, float], text: str, color: str = BLUE, **font: Any
) -> None:
    """A rounded box with its lower left corner at `at`."""
    (x, y), (width, height) = at, size
    style = f"round,pad=0,rounding_size={min(0.8, height / 3)}"
    axes.add_patch(
        FancyBboxPatch(at, width, height, style, facecolor=PALE[color], edgecolor=color, linewidth=1)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, **font)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": TEXT, "linewidth": 1.1, **style}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))


def cells(
    axes: Any, at: tuple[float, float], size: float, values: Any, text: Callable[[Any], str], paint: Any
) -> None:
    """A matrix, a square for each entry."""
    for i, row in enumerate(np.atleast_2d(values)):
        for j, value in enumerate(row):
            corner = (at[0] + size * j, at[1] - size * (i + 1))
            axes.add_patch(
                Rectangle(corner, size, size, facecolor=paint(value), edgecolor="white", linewidth=0.8)
            )
            ink = "white" if sum(matplotlib.colors.to_rgb(paint(value))) < 1.5 else INK
            middle = (corner[0] + size / 2, corner[1] + size / 2)
            axes.text(*middle, text(value), ha="center", va="center", color=ink, fontsize=7)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# --- the diagrams -----------------------------------------------------------------------------------------


def speed_and_size(folder: Path) -> None:
    """The MNIST network: bytes from results.md, times from runtime.md."""
    ours, theirs = re.search(r"\| ([\d,]+); float ([\d,]+), ", page("results.md")).groups()
    rows = {
        line.split(" | ")[0]: line.split(" | ")[1:]
        for line in page("runtime.md").splitlines()
        if "µs" in line
    }
    exact = rows["| MNIST network 784-3x1024-10, 1 image"]
    rounded = rows["| the same with int8 activations"]
    time, *times = (float(re.match(r"[\d.]+", exact[i])[0]) for i in (0, 2, 3, 4))
    bars = {
        "File, MB": [
            ("float32", int(theirs.replace(",", "")) / 1e6, TEXT),
            ("one bit a weight", int(ours.replace(",", "")) / 1e6, BLUE),
        ],
        "Time of one image on one core, µs": [
            ("PyTorch, float32", time * times[0], TEXT),
            ("ONNX Runtime, float32", time * times[1], TEXT),
            ("ONNX Runtime, int8", time * times[2], TEXT),
            ("one bit a weight", time, BLUE),
            ("one bit, int8 activations", float(rounded[0].split()[0]), BLUE),
        ],
    }
    with diagram(folder / "speed-and-size.svg", (9, 2.1), bars) as axes:
        for (title, rows_), left, room_ in zip(bars.items(), (12, 56), (17, 26), strict=True):
            axes.text(left, 19.6, title, va="top", fontsize=10, fontweight="bold")
            longest = max(value for _, value, _ in rows_)
            for i, (label, value, color) in enumerate(rows_):
                y = 14.6 - 3.1 * i
                axes.add_patch(Rectangle((left, y - 1.05), room_ * value / longest, 2.1, color=color))
                axes.text(left - 0.8, y, label, ha="right", va="center")
                number = f"{value:.2f}" if value < 1 else f"{value:.3g}"
                axes.text(left + room_ * value / longest + 0.6, y, number, va="center", fontweight="bold")
        factor = int(theirs.replace(",", "")) / int(ours.replace(",", ""))
        axes.text(12, 6.6, f"{factor:.1f} times smaller", va="center")


def pipeline(folder: Path) -> None:
    """Four forms of a weight, drawn of one 4 x 4 matrix, and where it goes."""
    draw = np.random.default_rng(11)
    latent = draw.integers(1, 10, (4, 4)) / 10 * draw.choice([-1, 1], (4, 4))
    signs = np.where(latent >= 0, 1, -1)
    steps = [
        (
            "latent",
            "32 bits, in training",
            latent,
            "{:+.1f}",
            lambda v: matplotlib.colormaps["PuOr"](0.5 + 0.42 * v),
        ),
        ("binary", "signs, made each time", signs, "{:+d}", lambda v: PALE[BLUE] if v > 0 else BLUE),
        ("frozen", "±1 in stock PyTorch", signs, "{:+d}", lambda v: PALE[BLUE] if v > 0 else BLUE),
        ("packed", "1 bit, without PyTorch", signs < 0, "{:d}", lambda v: INK if v else PALE[TEXT]),
    ]
    targets = ["bnn.load: x86, ARM", "C: microcontrollers", "ONNX Runtime", "web page", "folder for a hub"]
    with diagram(folder / "pipeline.svg", (9, 2.7), (latent.tolist(), targets)) as axes:
        for i, (name, text, matrix, form, paint) in enumerate(steps):
            left = 2.5 + 18.5 * i
            cells(axes, (left, 19), 2.7, matrix, lambda v, form=form: form.format(v), paint)
            axes.text(left + 5.4, 21.4, name, ha="center", fontsize=11, fontweight="bold")
            axes.text(left + 5.4, 6.6, text, ha="center", va="top", fontsize=8)
        for i, call in enumerate(("binarize", "freeze", "pack", "")):
            right = 2.5 + 18.5 * i + 10.8
            if call:
                arrow(axes, (right + 0.8, 13.6), (right + 6.9, 13.6))
                axes.text(right + 3.8, 14.3, call, ha="center", fontsize=8.5, family="monospace")
        arrow(axes, (26.4, 5), (7.9, 5), connectionstyle="arc3,rad=-0.16")
        axes.text(17.2, 1.6, "gradients", ha="center", fontsize=8.5)
        for i, target in enumerate(targets):
            y = 19.2 - 3.4 * i
            arrow(axes, (69.4, 13.6), (73.2, y + 1.2), color=TEXT)
            box(axes, (73.6, y), (15.6, 2.5), target, GREEN, fontsize=8)


def file_bytes(folder: Path) -> None:
    """The file that file-format.md has as a dump, and the bits of its first row of weights."""
    dump = re.search(r"```hexdump\n(.*?)```", page("file-format.md"), re.DOTALL)[1]
    content = bytes.fromhex("".join(line[10:57] for line in dump.splitlines()))
    start = 8 + int.from_bytes(content[:8], "little")
    header = ast.literal_eval(content[8:start].decode().strip())
    arrays = {name: info for name, info in header.items() if name != "__metadata__"}
    parts = [(0, 8, "N", "length of the header", YELLOW), (8, start, "header", "JSON: arrays, graph", RED)]
    for name, info in arrays.items():
        first, end = (start + offset for offset in info["data_offsets"])
        shape = "x".join(map(str, info["shape"]))
        parts.append(
            (first, end, name, f"{info['dtype']}, {shape}", BLUE if info["dtype"] == "U64" else GREEN)
        )
    widths = [11, 26, 20, 14, 14]
    with diagram(folder / "file-bytes.svg", (9, 2.7), content.hex()) as axes:
        x = 2.0
        for (first, end, name, text, color), width in zip(parts, widths, strict=True):
            box(axes, (x, 18), (width - 0.4, 4.6), name, color, fontsize=10, fontweight="bold")
            axes.text(x, 23.2, f"{first:#05x}", fontsize=8, family="monospace")
            axes.text(x + width / 2, 17.3, text, ha="center", va="top", fontsize=8)
            axes.text(x + width / 2, 15.4, f"{end - first} bytes", ha="center", va="top", fontsize=8)
            if name == "fc.weight":
                weight = x
            x += width
        axes.text(x, 23.2, f"{len(content):#05x}", fontsize=8, family="monospace", ha="right")
        word = int.from_bytes(content[start : start + 8], "little")
        bits = [word >> j & 1 for j in range(64)]
        axes.plot([weight, 3], [13.4, 9.6], color=TEXT, linewidth=0.7)
        axes.plot([weight + widths[2] - 0.4, 86], [13.4, 9.6], color=TEXT, linewidth=0.7)
        used = 5
        for j, bit in enumerate(bits[:29]):
            at = (3 + 2.6 * j, 9)
            color = (INK if bit else PALE[BLUE]) if j < used else PALE[TEXT]
            cells(axes, at, 2.6, [[bit]], str, lambda _, color=color: color)
            if j < used:
                axes.text(
                    at[0] + 1.3, 5.7, f"{1 - 2 * bit:+d}", ha="center", va="top", fontsize=9, color=TEXT
                )
        axes.text(3 + 2.6 * 29 + 0.8, 7.7, "... 64 bits", va="center", fontsize=8)
        axes.text(3, 2.9, "row 0, bit 0 first: bit 1 means -1", va="top", fontsize=8)
        axes.text(18, 5.7, "padding is 0", va="top", fontsize=8)


def look_up_table(folder: Path) -> None:
    """One vpermps of native/avx512.c: sixteen sums of four inputs, and which of them each output takes."""
    inputs = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
    index = np.arange(16)
    signs = 1 - 2 * (index[:, None] >> np.arange(4) & 1)
    table = signs @ inputs
    weights = np.random.default_rng(1).integers(0, 16, 16)
    results = table[weights]
    assert np.array_equal(
        results, [sum(x if not w >> i & 1 else -x for i, x in enumerate(inputs)) for w in weights]
    )
    with diagram(folder / "look-up-table.svg", (9, 3.5), (table.tolist(), weights.tolist())) as axes:
        left, size = 14, 4.6

        def row(top: float, label: str, values: Any, text: Callable[[Any], str], color: str) -> None:
            axes.text(left - 0.8, top - size / 2, label, ha="right", va="center", fontsize=8)
            cells(axes, (left, top), size, [values], text, lambda _: color)

        axes.text(
            left,
            33.4,
            "inputs: a = 0.5   b = -1   c = 2   d = 0.25",
            va="center",
            fontsize=9,
            fontweight="bold",
        )
        for i in index:
            axes.text(
                left + size * (i + 0.5),
                30.9,
                f"{i:04b}",
                ha="center",
                va="center",
                fontsize=7,
                family="monospace",
            )
        axes.text(left - 0.8, 30.9, "signs of d c b a", ha="right", va="center", fontsize=8)
        row(29.8, "table:\n±a ±b ±c ±d", table, lambda v: f"{v:g}", PALE[BLUE])
        for i, w in enumerate(weights):
            start, end = (left + size * (w + 0.5), 25.0), (left + size * (i + 0.5), 17.2)
            chosen = i in (2, 9)
            style = (
                {"color": RED, "linewidth": 1.6}
                if chosen
                else {"color": TEXT, "linewidth": 0.6, "alpha": 0.7}
            )
            arrow(axes, start, end, mutation_scale=6, **style)
        row(17, "weights:\n4 bits of each", weights, lambda w: f"{w:04b}", PALE[YELLOW])
        row(12.2, "sum of each\noutput", results, lambda v: f"{v:g}", PALE[GREEN])
        for i in index:
            axes.text(left + size * (i + 0.5), 6.6, f"{i}", ha="center", va="center", fontsize=7)
        axes.text(left - 0.8, 6.6, "output", ha="right", va="center", fontsize=8)
        axes.text(
            left,
            3.2,
            "One instruction looks up sixteen sums, one more adds them up. The table serves every output.",
            va="center",
            fontsize=8,
        )


def layers(folder: Path) -> None:
    """The rooms of src/bnn, NumPy's to the left, PyTorch's to the right, each above all that it imports."""
    levels = floors(rooms())
    files = module_files().items()
    torch = {room(name) for name, path in files if any(n.split(".")[0] == "torch" for n in imported(path))}
    faces = {"__init__", "cli", "summarize"}
    with diagram(
        folder / "layers.svg", (9, 0.48 * len(levels) + 0.7), [sorted(level) for level in levels]
    ) as axes:
        for i, level in enumerate(levels):
            y = 1.5 + 4.8 * i
            sides = (
                (sorted(level - torch - faces), 6, BLUE),
                (sorted(level & torch), 49, RED),
                (sorted(level & faces), 6, TEXT),
            )
            for names, left, color in sides:
                for j, name in enumerate(names):
                    label = "bnn" if name == "__init__" else name.replace("binary_connect_fc_", "")
                    x, width = (
                        (left + 10.2 * j, 9.6) if color != TEXT else (6, 83.4 if level == {name} else 40)
                    )
                    box(axes, (x, y), (width, 3.4), label, color, fontsize=7.5)
        top = 4.8 * len(levels) + 2.3
        arrow(axes, (2.6, top - 3), (2.6, 2))
        axes.text(1.6, top / 2, "imports only from below", rotation=90, ha="center", va="center", fontsize=8)
        axes.text(6, top + 1.6, "needs NumPy", va="center", fontweight="bold")
        axes.text(49, top + 1.6, "needs PyTorch", va="center", fontweight="bold")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for draw in (speed_and_size, pipeline, file_bytes, look_up_table, layers):
        draw(out)
