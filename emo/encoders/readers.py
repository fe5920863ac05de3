"""Readers of texts and images: from what posts have to the tensors that a tower reads."""

import io
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

MAX_TURN = 15.0
"""Degrees by which images are turned at most, to either side, where they are augmented."""


class TextReader:
    """Token ids (B, T) and their mask, by a tokenizer of transformers; longer texts lose their end.

    SigLIP (``pads_fully``) was trained to see its padding: all texts have full length, and there is no mask, which
    would change its last token. SigLIP 2 saw texts in lower case only, which its tokenizer leaves to others.
    """

    modality = "text"
    blank = ""

    def __init__(self, tokenizer: Any, max_tokens: int, *, pads_fully: bool = False, lowercase: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = min(max_tokens, tokenizer.model_max_length)
        self.pads_fully = pads_fully
        self.lowercase = lowercase
        self.tokenizer.padding_side = "right"
        self.padding = {} if pads_fully else {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0}

    def __call__(self, values: list[str], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            self._cased(values),
            padding="max_length" if self.pads_fully else "longest",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return {name: encoded[name] for name in (["input_ids"] if self.pads_fully else self.padding)}

    def is_cut(self, values: list[str]) -> list[bool]:
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add() - 1  # it may put a space in front
        values = self._cased(values)
        cut = np.array([_num_bytes(text) > room for text in values], bool)
        if long := [text for text, is_long in zip(values, cut, strict=True) if is_long]:
            cut[cut] = [len(ids) > self.max_tokens for ids in self.tokenizer(long, verbose=False)["input_ids"]]
        return cut.tolist()

    def _cased(self, values: list[str]) -> list[str]:
        return [text.lower() for text in values] if self.lowercase else values

    def save(self, folder: str) -> None:
        self.tokenizer.save_pretrained(folder)


def _num_bytes(text: str) -> int:
    """No fewer than the tokens of a text, whatever the tokenizer's normalisation: in UTF-8, taken apart in full."""
    return len(text if text.isascii() else unicodedata.normalize("NFKD", text).encode())


class ImageReader:
    """Pixels (B, 3, H, W) in uint8, resized and cropped by an image processor of transformers; the tower does the rest,
    since bytes are a quarter as much to move as floats."""

    modality = "image"

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.padding: dict[str, int] = {}
        self.blank = _gray_square()

    def __call__(self, values: list[bytes], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        images = [open_image(data) for data in values]
        if rng is not None:
            images = [augmented(image, rng) for image in images]
        found = self.processor(images=images, return_tensors="pt", do_rescale=False, do_normalize=False)
        return {"pixel_values": found["pixel_values"]}

    def is_cut(self, values: list[bytes]) -> list[bool]:
        return [False] * len(values)

    def save(self, folder: str) -> None:
        self.processor.save_pretrained(folder)


class Normalise(nn.Module):
    """Pixels in uint8 as an image processor would hand them over: rescaled, then with its mean and deviation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, processor: Any) -> None:
        super().__init__()
        factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        deviation = torch.tensor(std).expand(3)
        self.register_buffer("scale", (factor / deviation).reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", (torch.tensor(mean) / deviation).reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float() * self.scale - self.shift


def model_inputs(inputs: Mapping[str, Tensor], normalise: Normalise | None) -> dict[str, Tensor]:
    """What a model of transformers reads: images are no longer bytes."""
    return dict(inputs) if normalise is None else {"pixel_values": normalise(inputs["pixel_values"])}


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def pixels(processor: Any, images: list[bytes]) -> Tensor:
    """Encoded images as an image processor's tensor (B, 3, H, W)."""
    return processor(images=[open_image(data) for data in images], return_tensors="pt")["pixel_values"]


def augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image turned a little, and mirrored or not (Khuzairi, section 3.3.1); gray comes in at the corners."""
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = float(rng.uniform(-MAX_TURN, MAX_TURN))
    return image.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))


def _gray_square() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()
