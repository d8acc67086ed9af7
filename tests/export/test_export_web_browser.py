"""The exported page in Chromium: it predicts as the runtime does, and asks the network for nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver.common.by import By
from support.browser import Page, needs_compiler, page
from support.helpers import random_pixels
from support.web_models import conv_net, drawing, exported, mlp, mlp_of_signs, pictures

from bnn.data import load_dataset
from bnn.packed.model import PackedModel
from bnn.runtime import Runner
from bnn.runtime.images import read_image

__all__ = ["drawing", "page", "pictures"]  # fixtures

pytestmark = needs_compiler

BUILDS = ("simd", "scalar")
SEVEN = ((0.3, 0.25), (0.5, 0.25), (0.7, 0.25), (0.6, 0.5), (0.5, 0.8))
THIN = ((0.3, 0.3), (0.35, 0.5), (0.3, 0.7))


@pytest.fixture(scope="module")
def mnist_net(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedModel, Path]:
    """A network of MNIST's shape, its weights random."""
    model = mlp(784, 1024, 1024, 1024, 10)
    return model, exported(model, tmp_path_factory.mktemp("mnist"))


def patterns(n: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Coarse random images, so that predictions differ."""
    coarse = random_pixels(n, shape[0], 4, 4)
    rows, columns = (np.arange(size) * 4 // size for size in shape[1:])
    return np.ascontiguousarray(coarse[:, :, rows][:, :, :, columns])


# --- predictions ------------------------------------------------------------------------------------------


def assert_equal(page: Page, model: PackedModel, images: Any) -> None:
    """Both builds predict what the runtime does, and have its scores."""
    net = Runner(model)
    expected, truth = net.predict(images), net(images)
    for labels, scores in page.predictions(images, *BUILDS):
        assert labels == expected.tolist()
        assert np.abs(scores - truth).max() <= 1e-4 * np.abs(truth).max()
        assert len(set(labels)) > 1


def test_a_hundred_mnist_images(page: Page, mnist_net: tuple[PackedModel, Path], mnist_dir: str) -> None:
    """100 of 100 of MNIST's test images get the runtime's prediction, from each build."""
    model, path = mnist_net
    images = load_dataset("mnist", data_dir=mnist_dir, download=False).test_inputs[:100]
    assert_equal(page.open(path), model, images)


@pytest.mark.parametrize(
    "model",
    [
        lambda: mlp(784, 256, 10),
        lambda: mlp(81, 37, 97, 5),  # tails of words and of sixteen outputs
        lambda: mlp(9, 16, 20),  # more classes than bars
        lambda: mlp_of_signs(784, 256, 100, 10),  # integer scores
        lambda: mlp_of_signs(49, 70, 65, 7),
        conv_net,  # a residual connection, a softmax
        lambda: conv_net(channels=1, size=28),
    ],
)
def test_random_images(page: Page, model: Any, tmp_path: Path) -> None:
    """The same for random images, of networks that use every kernel."""
    net = model()
    assert_equal(page.open(exported(net, tmp_path)), net, patterns(100, net.input.shape))
    assert page.complaints() == []


def test_the_build_is_chosen(page: Page, drawing: Path) -> None:
    """SIMD where the browser takes it; #scalar leaves it out; where it does not validate, scalar runs."""
    assert page.open(drawing).result_of("network.build") == "simd"
    assert page.text("engine") == "SIMD"
    assert page.open(drawing, "#scalar").result_of("network.build") == "scalar"
    assert page.text("engine") == "scalar"
    without_simd = (
        "const real = WebAssembly.validate; WebAssembly.validate = (b) => b.length < 9000 && real(b);"
    )
    script = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": without_simd})
    try:
        assert page.open(drawing).result_of("network.build") == "scalar"
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_the_wrong_number_of_pixels(page: Page, drawing: Path) -> None:
    """predict() refuses what is no image of the network's, and says so."""
    page.open(drawing)
    message = page.run("try { network.predict(new Uint8Array(783)) } catch (error) { return error.message }")
    assert message == "783 pixels, where the network takes 784"


# --- the network it must not need -------------------------------------------------------------------------


def test_it_asks_the_network_for_nothing(page: Page, drawing: Path) -> None:
    """The page itself is all that is loaded, also when it is used; its policy stops a script that tries."""
    page.open(drawing)
    page.draw(*SEVEN)
    asked = page.requests()
    assert drawing.as_uri() in asked
    assert set(asked) <= {drawing.as_uri(), "data:,"}
    assert page.complaints() == []
    blocked = page.result_of(
        """new Promise((done) => {
             addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
             fetch("http://127.0.0.1:9/").catch(() => 0);
           })"""
    )
    assert blocked == "connect-src"


# --- pictures ---------------------------------------------------------------------------------------------


def test_a_picture_is_read_as_the_command_line_reads_it(
    page: Page, pictures: tuple[PackedModel, Path], tmp_path: Path
) -> None:
    """A PNG of the network's size is its input, pixel by pixel; the label is that of `bnn predict`."""
    model, path = pictures
    pixels = random_pixels(8, 8, 3, seed=5)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    page.open(path).driver.find_element(By.ID, "file").send_keys(str(tmp_path / "picture.png"))
    page.wait("document.getElementById('answer').textContent !== '–'")
    assert np.array_equal(page.seen(), pixels)
    (label,) = Runner(model).predict(pixels.transpose(2, 0, 1)[None])
    assert page.text("answer") == model.input.labels[label]
    assert page.scores()[label].endswith(" %")
    page.driver.find_element(By.ID, "clear").click()
    assert page.text("answer") == "–"


def test_a_picture_of_a_digit(page: Page, drawing: Path, tmp_path: Path) -> None:
    """Where one can draw, a picture takes the drawing's place, made light on dark; then ink takes its."""
    pixels = np.full((28, 28), 250, np.uint8)
    pixels[5:20, 12:16] = 10
    Image.fromarray(pixels).save(tmp_path / "one.png")
    page.open(drawing).draw(*SEVEN)
    page.driver.find_element(By.ID, "file").send_keys(str(tmp_path / "one.png"))
    page.wait("document.getElementById('seen').getContext('2d').getImageData(0, 0, 1, 1).data[0] === 5")
    page.frame()
    assert np.array_equal(page.seen(), np.stack([255 - pixels] * 3, axis=2))
    assert page.text("answer") != "–"
    page.draw(*THIN)
    assert page.seen()[0, 0].tolist() == [0, 0, 0]


SIZES = ((64, 64, "RGB"), (50, 31, "RGB"), (40, 90, "L"), (5, 9, "RGBA"))


@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_of_other_sizes(page: Page, drawing: Path, tmp_path: Path, channels: int) -> None:
    """They are scaled to fit, with their ground around them, as `bnn predict` does but for a few levels."""
    model = conv_net(channels, size=16)
    about = {"channels": channels, "width": 16, "height": 16, "dark": model.input.mean[0] < 0.5}
    page.open(drawing)
    for width, height, mode in SIZES:
        y, x = np.mgrid[:height, :width]
        waves = [128 + 100 * np.sin(x / (11 + k) + y / (18 - k)) for k in range(4)]
        image = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).convert(mode)
        image.save(tmp_path / "picture.png")
        rgba = np.asarray(image.convert("RGBA"))
        picture = {"data": rgba.ravel().tolist(), "width": width, "height": height}
        found = page.result_of("Array.from(network.pictured(args[0], args[1]))", picture, about)
        expected, _ = read_image(tmp_path / "picture.png", model.input)
        difference = np.abs(np.array(found).reshape(expected.shape) - expected.astype(int))
        assert difference.max() <= (6 if height > 16 else 40)  # where it enlarges, Pillow smoothes
        assert np.median(difference) <= 2


@pytest.mark.parametrize(
    "event",
    [
        "new DragEvent('drop', { dataTransfer: given, cancelable: true })",
        "new ClipboardEvent('paste', { clipboardData: given })",
    ],
)
def test_pictures_are_dropped_and_pasted(
    page: Page, pictures: tuple[PackedModel, Path], tmp_path: Path, event: str
) -> None:
    """The same as opening a file."""
    pixels = random_pixels(8, 8, 3, seed=6)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    page.open(pictures[1]).run(
        f"""const given = new DataTransfer();
            given.items.add(new File([new Uint8Array(arguments[0])], "picture.png", {{ type: "image/png" }}));
            document.dispatchEvent({event});""",
        list((tmp_path / "picture.png").read_bytes()),
    )
    page.wait("document.getElementById('answer').textContent !== '–'")
    assert np.array_equal(page.seen(), pixels)
    assert page.run("return document.getElementById('picture').hidden") is False


def test_a_file_that_is_no_picture(page: Page, pictures: tuple[PackedModel, Path], tmp_path: Path) -> None:
    """The page says so, and goes on with the next one."""
    (tmp_path / "notes.txt").write_text("no picture")
    page.open(pictures[1]).driver.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.txt"))
    page.wait("!document.getElementById('trouble').hidden")
    assert page.text("trouble") == "notes.txt is no picture that this browser can read."
    assert page.text("answer") == "–"


# --- its time -------------------------------------------------------------------------------------------


def test_the_time_is_measured_honestly(page: Page, drawing: Path) -> None:
    """A median of blocks, each of which takes many ticks of the clock."""
    page.open(drawing).wait_for_time()
    measured = page.result_of("network.measure()")
    assert measured["blocks"] >= 9
    assert measured["microseconds"] > 0
    assert measured["tick"] > 0
    assert measured["microseconds"] * measured["runs"] > 10 * measured["tick"]
    assert f"{measured['blocks']} blocks of " in page.text("time-how")
    assert page.text("time").endswith(" µs")
