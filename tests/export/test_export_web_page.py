"""The exported page in Chromium: it can be used by mouse, finger, keys and screen readers."""

from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.browser import Page, needs_compiler, page
from support.web_models import drawing, pictures

from bnn.data import load_dataset
from bnn.packed.model import PackedModel

__all__ = ["drawing", "page", "pictures"]  # fixtures

pytestmark = needs_compiler

SEVEN = ((0.3, 0.25), (0.5, 0.25), (0.7, 0.25), (0.6, 0.5), (0.5, 0.8))
THIN = ((0.3, 0.3), (0.35, 0.5), (0.3, 0.7))


# --- drawing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["mouse", "finger"])
def test_a_stroke_changes_the_scores(page: Page, drawing: Path, device: str) -> None:
    """Before it there are none; then the bars have what predict() gives for the pixels shown; then others."""
    page.open(drawing)
    assert page.scores() == [f"{k}: no score" for k in range(10)]
    assert page.text("answer") == "–"
    page.draw(*SEVEN, device=device)
    first = page.scores()
    expected = page.result_of("network.predict(args[0])", page.seen()[:, :, 0].ravel().tolist())
    assert first == [f"{k}: {score:.2f}".replace("-", "−") for k, score in enumerate(expected["scores"])]
    assert page.text("answer") == expected["name"]
    page.draw(*THIN, device=device)
    assert page.scores() != first
    page.driver.find_element(By.ID, "undo").click()
    page.frame()
    assert page.scores() == first
    page.driver.find_element(By.ID, "clear").click()
    page.frame()
    assert page.text("answer") == "–"
    assert not page.seen().any()


def test_a_stroke_is_framed_as_mnist_is(page: Page, drawing: Path) -> None:
    """Wherever and however large it is drawn: at most 20 pixels wide and high, its mass in the middle."""
    for scale, x, y in ((1, 0, 0), (0.4, 0.55, 0.1), (0.5, 0.05, 0.45)):
        page.open(drawing)
        page.draw(*((scale * a + x, scale * b + y) for a, b in SEVEN))
        ink = page.seen()[:, :, 0].astype(float)
        rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        centre = [(np.indices(ink.shape)[axis] * ink).sum() / ink.sum() for axis in (0, 1)]
        assert np.abs(np.array(centre) - 14).max() <= 0.51
        assert len(np.unique(ink)) > 20  # its edges are smooth


def test_framing_leaves_mnist_as_it_is(page: Page, drawing: Path, mnist_dir: str) -> None:
    """A digit of MNIST, enlarged ten times and moved to a corner, comes back nearly as it was."""
    images = load_dataset("mnist", data_dir=mnist_dir, download=False).test_inputs[:20, 0]
    page.open(drawing)
    differences = []
    for image in images:
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        ink = np.zeros((280, 280), np.uint8)
        ink[: 10 * digit.shape[0], 80 : 80 + 10 * digit.shape[1]] = digit.repeat(10, axis=0).repeat(
            10, axis=1
        )
        plane = {"data": ink.ravel().tolist(), "width": 280, "height": 280}
        framing = {"width": 28, "height": 28, "box": 20, "centred": "mass"}
        pixels = page.result_of("Array.from(network.framed(args[0], args[1]))", plane, framing)
        differences.append(np.abs(np.reshape(pixels, (28, 28)) - image.astype(float)).max())
    assert np.mean(np.array(differences) == 0) >= 0.9  # the others are off by a pixel


# --- keys and screen readers ------------------------------------------------------------------------------


def test_keys_draw(page: Page, drawing: Path) -> None:
    """From the page's start: Tab to the paper, arrows, space; then undo and clear, all without a pointer."""
    page.open(drawing)
    page.keys(Keys.TAB)
    assert page.run("return document.activeElement.id") == "paper"
    page.keys(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert page.text("answer") == "–"  # the pen is up
    page.keys(" ", *[Keys.ARROW_RIGHT] * 5)
    first = page.scores()
    assert "no score" not in first[0]
    page.keys(*[Keys.ARROW_DOWN] * 12)
    second = page.scores()
    assert second != first
    assert page.text("answer") != "–"
    page.keys(" ", Keys.ARROW_LEFT)
    assert page.scores() == second  # lifted
    page.keys(" ", Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.scores() != second
    page.keys(Keys.BACKSPACE)
    assert page.scores() == second
    page.keys(Keys.DELETE)
    assert page.text("answer") == "–"


def test_keys_reach_everything(page: Page, drawing: Path) -> None:
    """Tab goes to the paper and all buttons in reading order, each with a name and a focus ring."""
    page.open(drawing).wait_for_time()  # until then a button is disabled
    seen = []
    for _ in range(5):
        page.keys(Keys.TAB)
        seen.append(page.run("return document.activeElement.id"))
        width = page.run(
            "const e = document.activeElement, shown = e.type === 'file' ? e.parentNode : e;"
            "return getComputedStyle(shown).outlineWidth"
        )
        assert width == "3px"
        assert page.driver.switch_to.active_element.accessible_name
    assert seen == ["paper", "undo", "clear", "file", "measure"]
    page.draw(*SEVEN)
    page.keys(Keys.TAB, Keys.TAB, " ")
    assert page.run("return document.activeElement.id") == "clear"
    assert page.text("answer") == "–"


def test_screen_readers(page: Page, drawing: Path) -> None:
    """The prediction is said in a live region once the drawing rests; bars, paper and image have names."""
    page.open(drawing)
    said = page.driver.find_element(By.ID, "said")
    assert said.get_attribute("aria-live") == "polite"
    page.draw(*SEVEN)
    page.wait("document.getElementById('said').textContent !== ''")
    assert page.text("said").startswith(f"The network says {page.text('answer')}, with ")
    bars = page.driver.find_elements(By.CSS_SELECTOR, ".bar")
    assert [bar.aria_role for bar in bars] == ["image"] * 10  # as Chromium calls "img"
    assert [bar.accessible_name for bar in bars] == page.scores()
    paper = page.driver.find_element(By.ID, "paper")
    assert paper.accessible_name == "Paper to draw on"
    described = page.driver.find_element(By.ID, paper.get_attribute("aria-describedby") or "")
    assert "Space" in described.text
    assert page.driver.find_element(By.ID, "seen").accessible_name


# --- how it looks -----------------------------------------------------------------------------------------


TEXTS = [
    *("h1", "header p", "h2", "#answer", ".label", ".score", ".best .score", "dt", "dd strong", "small"),
    *("button", "kbd", "footer", "figcaption"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page: Page, drawing: Path, scheme: str) -> None:
    """Text has a contrast of at least 4.5 with its ground, in both colour schemes."""
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.open(drawing)
    page.draw(*SEVEN)
    grounds = page.run(
        """const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
           const ground = (e) => { for (; e; e = e.parentElement) {
               const c = parse(getComputedStyle(e).backgroundColor);
               if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } };
           return arguments[0].map((s) => {
             const e = document.querySelector(s);
             return [s, parse(getComputedStyle(e).color).slice(0, 3), ground(e)]; });""",
        TEXTS,
    )

    def luminance(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour) / 255]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for selector, text, ground in grounds:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    assert (luminance(grounds[0][1]) < luminance(grounds[0][2])) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 360, 768])
def test_it_fits_a_phone(page: Page, drawing: Path, pictures: tuple[PackedModel, Path], width: int) -> None:
    """Nothing is wider than a narrow screen, also with long names of classes."""
    metrics = {"width": width, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for path in (drawing, pictures[1]):
            page.open(path)
            assert page.run("return document.documentElement.scrollWidth") <= width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
