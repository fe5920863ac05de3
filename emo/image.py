"""Images from strangers' files: checked before they are decoded, then made small, square and RGB."""

import io

from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
MIN_SIDE = 4
"""A smaller image (a tracking pixel, say) shows nothing."""
QUALITY = 95

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def prepare_image(data: bytes, size: int, max_pixels: int) -> tuple[bytes, Image.Image]:
    """The central square as RGB JPEG of at most ``size`` pixels a side, never enlarged; and its pixels.

    A square RGB JPEG or PNG that is small enough comes back byte for byte. A ValueError says in a
    few words why an image is refused.
    """
    image = _open(data)
    if image.width * image.height > max_pixels:
        raise ValueError(f"image has more than {max_pixels} pixels")
    if min(image.size) < MIN_SIDE:
        raise ValueError(f"image has a side under {MIN_SIDE} pixels")
    try:
        if _is_ready(image, size):
            image.load()
            return data, image
        square = _square(image, size)
        return _encode(square), square
    except Exception:  # Pillow's decoders raise nearly anything on corrupt bytes
        raise ValueError("image is truncated or corrupt") from None


def _open(data: bytes) -> Image.Image:
    """The image's header, not yet its pixels."""
    Image.MAX_IMAGE_PIXELS = None  # prepare_image has its own limit, which may be higher
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:
        raise ValueError(f"image is none of {', '.join(FORMATS)}") from None


def _is_ready(image: Image.Image, size: int) -> bool:
    return (
        image.format in ("JPEG", "PNG")
        and image.mode == "RGB"
        and image.width == image.height <= size
        and getattr(image, "n_frames", 1) == 1
        and "transparency" not in image.info
        and _orientation(image) not in _UPRIGHT
    )


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF does not spoil the picture
        return None


def _square(image: Image.Image, size: int) -> Image.Image:
    """The upright central square, at most ``size`` pixels a side."""
    upright = _UPRIGHT.get(_orientation(image))  # type: ignore[call-overload]
    image.draft("RGB", (size, size))  # JPEG only: decode at 1/2, 1/4 or 1/8 of the size where that is enough
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side <= size:
        image = _rgb(image.crop(box))
    elif image.mode == "RGB" and "transparency" not in image.info:
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    else:
        image = _rgb(image.crop(box)).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image if upright is None else image.transpose(upright)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
