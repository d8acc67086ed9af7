"""The page's parts, put into one file: templates, scripts, WebAssembly and weights."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from bnn.export.web.wasm import Builds
from bnn.packed.costs import Summary

__all__ = ["assemble"]

SCRIPTS = ("engine.js", "pixels.js", "paper.js", "page.js")


def assemble(about: Mapping[str, Any], builds: Builds, summary: Summary) -> bytes:
    """The page.

    Args:
        about: what its scripts know of the model, as JSON.
        builds: the engine and the constants.
        summary: of the model, for its facts.
    """
    style = _template("page.css")
    script = "\n".join(map(_template, SCRIPTS))
    binaries = {**builds.modules, "constants": builds.constants}
    draws = about["channels"] == 1
    text = Template(_template("page.html")).substitute(
        policy=_policy(script, style),
        style=style,
        script=script,
        title="A one-bit network",
        heading=html.escape(_heading(about)),
        summary=_summary(summary),
        verb="draw" if draws else "show it",
        input_title="Paper" if draws else "Picture",
        width=about["width"],
        height=about["height"],
        pixels=f"{about['height']} × {about['width']} pixels",
        scores_title="Probabilities" if about["probabilities"] else "Scores",
        size=_rounded(summary.bytes),
        parameters=f"{summary.bytes:,} bytes: {_parameters(summary)}",
        float_size=_rounded(summary.float_bytes),
        ratio=f"{summary.float_bytes / summary.bytes:.1f} times as much",
        about=_json(about),
        binaries="\n".join(_binary(name, content) for name, content in binaries.items()),
    )
    return text.encode()


def _template(name: str) -> str:
    return files("bnn.export.web").joinpath("page", name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """The content security policy: this script and this style, WebAssembly, and no connection to anywhere."""
    directives = {
        "default-src": "'none'",
        "script-src": f"'{_hash(script)}' 'wasm-unsafe-eval'",
        "style-src": f"'{_hash(style)}'",
        "img-src": "data:",  # the icon, which is empty, so that no browser asks for one
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _binary(name: str, content: bytes) -> str:
    encoded = base64.b64encode(content).decode()
    return f'<script type="application/octet-stream;base64" id="{name}">{encoded}</script>'


def _json(value: Any) -> str:
    """JSON that ends no element: a class may be named anything."""
    return json.dumps(value, sort_keys=True).replace("<", "\\u003c")


def _heading(about: Mapping[str, Any]) -> str:
    if about["channels"] > 1:
        return "Show it a picture"
    return "Draw a digit" if about["labels"] == list("0123456789") else "Draw something"


def _summary(summary: Summary) -> str:
    """A sentence; nothing in it needs to be escaped."""
    if not summary.one_bit_weights:
        return f"A neural network of {summary.float_parameters:,} floats reads it, in your browser."
    return (
        f"A neural network of {summary.one_bit_weights:,} one-bit weights, each of them +1 or −1, "
        "reads it, in your browser."
    )


def _rounded(size: int) -> str:
    """Bytes, by thousands: 395 kB."""
    value, unit = next(
        (size / k, unit)
        for k, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
        if size >= k or k == 1
    )
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def _parameters(summary: Summary) -> str:
    parts = [
        (summary.one_bit_weights, "weights of one bit"),
        (summary.float_parameters, "floats"),
    ]
    return " and ".join(f"{n:,} {kind}" for n, kind in parts if n)
