"""Image files as a model wants them."""

import numpy as np
import pytest
from PIL import Image

from bnn.packed.nodes import InputContract
from bnn.runtime.images import ImageError, read_image

GREY = InputContract((1, 28, 28), (0.13,), (0.31,))
RGB = InputContract((3, 32, 32), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def _save(tmp_path, pixels, mode=None, name="image.png"):
    path = tmp_path / name
    Image.fromarray(pixels, mode).save(path)
    return path


def _stroke(size=28, ground=0, ink=255):
    pixels = np.full((size, size), ground, dtype=np.uint8)
    pixels[size // 4 : -size // 4, size // 2 - size // 14 : size // 2 + size // 14] = ink
    return pixels


def test_fitting_image_is_untouched(tmp_path):
    """An image that fits comes out pixel for pixel, with nothing to say about it."""
    pixels = _stroke()
    got, notes = read_image(_save(tmp_path, pixels), GREY)
    np.testing.assert_array_equal(got, pixels[None])
    assert (got.dtype, notes) == (np.uint8, [])


def test_larger_image_is_scaled_and_said(tmp_path):
    """A larger one is averaged down to the model's size."""
    got, notes = read_image(_save(tmp_path, np.kron(_stroke(), np.ones((4, 4), dtype=np.uint8))), GREY)
    np.testing.assert_array_equal(got, _stroke()[None])
    assert notes == ["scaled from 112x112 to 28x28"]


def test_proportions_are_kept(tmp_path):
    """A wide image gets its own background above and below; it is not stretched."""
    wide = np.full((28, 56), 10, dtype=np.uint8)
    wide[10:18, 24:32] = 200
    got, _ = read_image(_save(tmp_path, wide), GREY)
    assert got.shape == (1, 28, 28)
    assert (got[0, :7] == 10).all()
    assert (got[0, -7:] == 10).all()
    assert (got[0, 12:16, 12:16] == 200).all()


def test_dark_on_light_is_inverted_and_said(tmp_path):
    """Ink on paper is turned into light on dark ground, as MNIST has it."""
    got, notes = read_image(_save(tmp_path, _stroke(ground=255, ink=0)), GREY)
    np.testing.assert_array_equal(got, _stroke()[None])
    assert notes == ["inverted: dark on light ground"]


def test_light_images_are_not_inverted_for_a_light_data_set(tmp_path):
    """Where the training data is light itself, nothing is turned over."""
    light = InputContract((1, 28, 28), (0.8,), (0.2,))
    _, notes = read_image(_save(tmp_path, _stroke(ground=255, ink=0)), light)
    assert notes == []


def test_colour_becomes_grey_and_grey_becomes_colour(tmp_path):
    """Colour is weighed to grey; grey is given to three channels; both are said."""
    colour = np.zeros((28, 28, 3), dtype=np.uint8)
    colour[10:18, 10:18] = (255, 0, 0)
    got, notes = read_image(_save(tmp_path, colour), GREY)
    assert got[0, 12, 12] == 76  # ITU-R 601: 0.299 of red
    assert notes == ["grey from RGB"]
    got, notes = read_image(_save(tmp_path, _stroke(32)), RGB)
    np.testing.assert_array_equal(got, np.stack([_stroke(32)] * 3))
    assert notes == ["RGB from L"]


def test_transparent_parts_are_white_paper(tmp_path):
    """A drawing on transparent ground is a drawing on white."""
    rgba = np.zeros((28, 28, 4), dtype=np.uint8)
    rgba[..., 3] = _stroke()  # opaque black stroke, the rest transparent
    got, notes = read_image(_save(tmp_path, rgba), GREY)
    np.testing.assert_array_equal(got, _stroke()[None])
    assert notes == ["transparent parts on white", "grey from RGB", "inverted: dark on light ground"]


def test_16_bits_become_8(tmp_path):
    """A 16-bit image keeps its upper 8 bits; it does not saturate."""
    got, notes = read_image(_save(tmp_path, _stroke().astype(np.uint16) * 257), GREY)
    np.testing.assert_array_equal(got, _stroke()[None])
    assert notes == ["8 bits from 16"]


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_no_image_is_one_line(tmp_path, content):
    """A file that is no image, or a broken one, is an ImageError of one line that names it."""
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"fake\.png") as caught:
        read_image(path, GREY)
    assert "\n" not in str(caught.value)


def test_truncated_image_is_one_line(tmp_path):
    """An image cut off in the middle is refused, not half read."""
    path = _save(tmp_path, np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ImageError, match="image"):
        read_image(path, GREY)


def test_missing_file_is_an_os_error(tmp_path):
    """A path with nothing there says so."""
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png", GREY)


def test_a_model_of_features_takes_no_images(tmp_path):
    """A model whose input is a vector refuses, naming its shape."""
    with pytest.raises(ImageError, match=r"takes \(784,\), not images"):
        read_image(_save(tmp_path, _stroke()), InputContract((784,), (0.1,), (0.3,)))


@pytest.mark.parametrize("pixels", [np.linspace(0, 1, 784), np.arange(784) * 1000])
def test_32_bit_pixels_are_refused(tmp_path, pixels):
    """Floats and large integers have no range that could be known; they are not clipped in silence."""
    mode = np.float32 if pixels.dtype.kind == "f" else np.int32
    path = _save(tmp_path, pixels.reshape(28, 28).astype(mode), name="image.tiff")
    with pytest.raises(ImageError, match="pixels of 32 bits; 8 or 16 are understood"):
        read_image(path, GREY)
