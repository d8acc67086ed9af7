"""The site that `make docs` builds of these pages, of the tutorial, and of the docstrings.

Two things are unusual. Formulas become MathML, which browsers draw by themselves, so that a page fetches
nothing from elsewhere. And docstrings are plain text with Google's sections, not reStructuredText.
"""

import re
from dataclasses import fields

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

import bnn
from bnn.config import TrainConfig

logger = logging.getLogger(__name__)

project = "binaryconnect"
author = "The binaryconnect developers"
version = release = bnn.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md"]  # index.md includes it
default_role = "py:obj"  # `name` in a docstring is a link where there is such a name, else code

# pages
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tutorial shows what was committed, which a test holds to the code

# docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88  # longer ones have a line for each argument
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# looks
html_theme = "furo"
html_title = "binaryconnect"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = html_show_sphinx = html_copy_source = False


def as_restructured_text(
    app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]
) -> None:
    """Our docstrings: what is indented after an empty line is code, and | * _ mean themselves."""
    if what == "data" and lines[:1] == (type(item).__doc__ or "").splitlines()[:1]:
        lines.clear()  # it has no text of its own, only its type's
    # Of "Bytes: all of them", napoleon would take what stands before the colon for a type; `..` hides it.
    result = ["..", ""] if what in ("attribute", "data", "property") else []
    in_code = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not in_code and result and not result[-1]:
            in_code = True
            result += ["::", ""]
        elif line and not indented:
            in_code = False
        if not in_code:
            parts = line.split("`")
            parts[::2] = [re.sub(r"([|*\\]|_\b)", r"\\\1", part) for part in parts[::2]]
            parts[1::2] = [part if re.fullmatch(r"\w[\w.]*", part) else f"`{part}`" for part in parts[1::2]]
            line = "`".join(parts)
        result.append(line)
    lines[:] = result


def one_by_one(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Fields that share a description, `mean, std: of ...`, which napoleon takes for a name and a type."""
    for i in range(len(lines) - 1, -1, -1):
        if shared := re.match(r"    (\w+(?:, \w+)+): ", lines[i]):
            end = next((j for j in range(i + 1, len(lines)) if not lines[j].startswith("      ")), len(lines))
            rest = [lines[i][shared.end(1) :], *lines[i + 1 : end]]
            lines[i:end] = [line for n in shared[1].split(", ") for line in (f"    {n}{rest[0]}", *rest[1:])]


INCLUDED = {"native/README.md": "engine", "SECURITY.md": "security"}


def links_of_included_pages(app: Sphinx, doctree: nodes.document) -> None:
    """To another page that is included here too; plain text where there is none."""
    for link in list(doctree.findall(pending_xref)):
        if link["reftarget"] in INCLUDED:
            link["refdomain"], link["reftargetid"] = "doc", None
            link["reftarget"] = INCLUDED[link["reftarget"]]
        elif link["reftarget"] == "bnn.h":
            link.replace_self(link.children)


def mathml(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """The formula, with thin spaces about functions and none within bars, as TeX sets it."""
    thin = '<mspace width="0.17em"/>'
    try:
        text = tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
        text = re.sub(r"(<mi[^>]*>\w{3,}</mi>)", rf"<mrow>{thin}\1</mrow>", text)
        text = re.sub(r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>\()", thin, text)
        text = re.sub(r"<mo[^>]*>\|</mo>", '<mo lspace="0" rspace="0">|</mo>', text)
        self.body.append(text)
    except MathError as error:
        logger.warning("%s: %s", error, node.astext(), location=node)
    raise nodes.SkipNode


def anchors_of_the_tutorial(app: Sphinx, name: str, source: list[str]) -> None:
    """Jupyter's anchors keep capitals and dots, `#1.-The-task`; here they are as on the other pages."""
    if name == "tutorial":
        source[0] = re.sub(r"\(#(\d)\.([^)]+)\)", lambda part: f"(#{part[1]}{part[2].lower()})", source[0])


def without_factories(
    app: Sphinx,
    what: str,
    name: str,
    item: object,
    options: object,
    signature: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """A default that a dataclass makes anew has no text that Sphinx could parse."""
    return (signature and signature.replace("<factory>", "..."), result)


def fields_of_the_configuration(
    app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]
) -> None:
    """What `bnn train --help` says of each field."""
    if item is TrainConfig:
        lines += ["Attributes:", *(f"    {f.name}: {f.metadata['help']}" for f in fields(TrainConfig)), ""]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", fields_of_the_configuration, priority=300)
    app.connect("autodoc-process-docstring", one_by_one, priority=300)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", without_factories)
    app.connect("doctree-read", links_of_included_pages)
    app.connect("source-read", anchors_of_the_tutorial)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
