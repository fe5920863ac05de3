"""Images from strangers: what is refused, and what the rest becomes."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emo.image import prepare_image as prepared

LIMIT = 1_000_000


def prepare_image(*arguments) -> bytes:
    return prepared(*arguments)[0]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def stripes(width: int, height: int) -> Image.Image:
    """Red on the left, green in the middle square, blue on the right (or from top to bottom)."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    side = min(width, height)
    pixels[..., 1] = 255
    if width > height:
        pixels[:, : (width - side) // 2] = (255, 0, 0)
        pixels[:, (width + side) // 2 :] = (0, 0, 255)
    else:
        pixels[: (height - side) // 2] = (255, 0, 0)
        pixels[(height + side) // 2 :] = (0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (90, 30), (1600, 400)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_central_square_never_enlarged(shape, kind):
    image = decoded(prepare_image(encoded(stripes(*shape), kind), 64, LIMIT))
    side = min(64, *shape)
    assert (image.mode, image.size, image.format) == ("RGB", (side, side), "JPEG")
    middle = np.asarray(image)[side // 4 : -side // 4, side // 4 : -side // 4].mean(axis=(0, 1))
    assert middle[1] > 240
    assert max(middle[0], middle[2]) < 15


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("CMYK", (20, 30), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("L", (20, 30), 100), (100, 100, 100)),
        (Image.new("RGBA", (20, 30), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (20, 30), (0, 0)), (255, 255, 255)),
        (Image.new("P", (20, 30), 0), (0, 0, 0)),
        (Image.new("1", (20, 30), 1), (255, 255, 255)),
        (Image.fromarray(np.full((30, 20), 32768, dtype=np.uint16)), (128, 128, 128)),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_every_mode_becomes_rgb(image, expected):
    result = decoded(prepare_image(encoded(image, "JPEG" if image.mode == "CMYK" else "PNG"), 16, LIMIT))
    assert result.mode == "RGB"
    assert np.asarray(result).mean(axis=(0, 1)) == pytest.approx(expected, abs=4)


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 0)), (5, (0, 0)), (6, (0, 1)), (7, (1, 1)), (8, (1, 0))],
)
def test_exif_orientation(orientation, corner):
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:32, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = np.asarray(
        decoded(prepare_image(encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95), 64, LIMIT))
    )
    quarters = result.reshape(2, 32, 2, 32, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_ready_image_keeps_its_bytes(kind):
    data = encoded(Image.new("RGB", (32, 32), "teal"), kind)
    assert prepare_image(data, 32, LIMIT) == data
    assert prepare_image(data, 31, LIMIT) != data


def test_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        result = decoded(
            prepare_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50), 16, LIMIT)
        )
        assert np.asarray(result).mean(axis=(0, 1)) == pytest.approx((255, 0, 0), abs=6)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    with pytest.raises(ValueError, match="more than 1000000 pixels"):
        prepare_image(bomb, 64, LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_truncated_images_are_refused(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, kind)
    for size in (64, 32):
        with pytest.raises(ValueError, match="truncated or corrupt"):
            prepare_image(whole[: len(whole) // 2], size, LIMIT)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg/>", b"\x89PNG\r\n\x1a\n", encoded(Image.new("RGB", (8, 8)), "PPM")]
)
def test_other_files_are_refused(data):
    with pytest.raises(ValueError, match="image is"):
        prepare_image(data, 64, LIMIT)


@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (100, 3)])
def test_tracking_pixels_are_refused(shape):
    with pytest.raises(ValueError, match="side under 4"):
        prepare_image(encoded(Image.new("RGB", shape)), 64, LIMIT)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_corrupt_bytes_raise_nothing_but_value_error(kind, data):
    content = bytearray(encoded(stripes(24, 16), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = decoded(prepare_image(bytes(content), 16, LIMIT))
    except ValueError:
        return
    assert result.mode == "RGB"
    assert result.width == result.height <= 16
