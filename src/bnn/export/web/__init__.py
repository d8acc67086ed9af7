"""One HTML page that runs by itself: the engine as WebAssembly, the packed weights, and paper to draw on."""

from collections.abc import Mapping
from typing import Any

from bnn.errors import printable
from bnn.export import c
from bnn.export.target import Export, ExportError
from bnn.export.web.document import assemble
from bnn.export.web.wasm import Builds, compile_builds, find_tools
from bnn.packed.costs import Summary, packed_summary
from bnn.packed.limits import MAX_MEMORY
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Softmax

__all__ = ["make"]

MNIST_BOX = 20 / 28
"""The share of an image's side that MNIST's digits fill; their centre of mass is in the middle."""


def make(model: PackedModel, max_memory: int | None = MAX_MEMORY) -> Export:
    """The page, in one file.

    max_memory: bytes that the model may ask for, to prepare it and to run a sample; None: any number.

    Raises:
        UserError: it may ask for more.
        ExportError: the model takes no images, or gives no scores of classes; the engine cannot run a node of
            it, which is named; or clang or wasm-ld is missing.
    """
    _check(model)
    tools = find_tools()
    files = c.make(model, max_memory).files
    sources = {name: content for name, content in files.items() if name.endswith((".c", ".h"))}
    del sources["main.c"]  # the self-test
    builds = compile_builds(tools, sources)
    summary = packed_summary(model)
    page = assemble(_about(model, builds), builds, summary)
    return Export({"index.html": page}, _notes(page, builds, summary))


def _check(model: PackedModel) -> None:
    """That a page has something to show to the network, and of what it says."""
    shape, output = model.input.shape, model.shapes[model.output.name]
    if len(shape) != 3:
        raise ExportError(f"a web page shows images to the network; inputs of shape {shape} are none")
    if shape[0] not in (1, 3):
        raise ExportError(
            f"a web page shows images of one channel or three to the network, not of {shape[0]}"
        )
    if not model.input.mean:
        raise ExportError(
            "a web page shows raw pixels to the network; this model was packed without mean and std"
        )
    if len(output) != 1:
        raise ExportError(
            f"a web page shows a score for each class; node {model.output.name!r} gives shape {output}"
        )


def _about(model: PackedModel, builds: Builds) -> Mapping[str, Any]:
    """What the page's scripts know of the model."""
    channels, height, width = model.input.shape
    (outputs,) = model.shapes[model.output.name]
    # scikit-learn's digits fill their frame; whatever else is drawn is framed as MNIST is.
    fills = model.about.get("data") == "digits"
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "box": min(height, width) if fills else round(min(height, width) * MNIST_BOX),
        "centred": "box" if fills else "mass",
        "labels": [printable(label, 100) for label in model.input.labels or range(outputs)],
        "probabilities": isinstance(model.output, Softmax),
        "dark": model.input.mean[0] < 0.5,  # the ground that training images have
        "spans": builds.spans,
    }


def _notes(page: bytes, builds: Builds, summary: Summary) -> tuple[str, ...]:
    return (
        f"{len(page):,} bytes, which need no network: open it in a browser",
        f"constants: {len(builds.constants):,} bytes, once; the network has {summary.bytes:,}, "
        f"in float32 {summary.float_bytes:,}",
        "engine: " + ", ".join(f"{len(code):,} bytes {name}" for name, code in builds.modules.items()),
    )
