"""Near-duplicates: what a signature survives, what it tells apart, and that pairs stay few."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from emo.duplicates import (
    IMAGE_SIGNATURE,
    NEAR_IMAGE,
    TEXT_SIGNATURE,
    image_signature,
    near_image_pairs,
    near_pairs,
    near_text_pairs,
    text_signature,
)

POST = "honestly the sunset at the beach with anna was the best thing that happened to me since monday"


def signature(data: bytes) -> int | None:
    return image_signature(Image.open(io.BytesIO(data)))


def agreement(one: str, other: str) -> float:
    first, second = (np.frombuffer(text_signature(text) or b"", dtype=np.uint8) for text in (one, other))
    return float((first == second).mean())


def jaccard(one: str, other: str) -> float:
    first, second = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (one, other))
    return len(first & second) / len(first | second)


def random_signatures(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 64), dtype=np.uint8)


def flipped(hashes: np.ndarray, num_bits: int, seed: int = 0) -> np.ndarray:
    """Each hash with exactly ``num_bits`` of its bits turned."""
    rng = np.random.default_rng(seed)
    return np.array([int(h) ^ sum(1 << int(b) for b in rng.choice(64, num_bits, replace=False)) for h in hashes], "u8")


def as_set(pairs: tuple[np.ndarray, np.ndarray]) -> set[tuple[int, int]]:
    return set(zip(*(side.tolist() for side in pairs), strict=True))


def picture(seed: int, side: int = 192) -> Image.Image:
    """A cloudy picture: noise whose low frequencies are the stronger, as in photographs."""
    rng = np.random.default_rng(seed)
    frequencies = np.fft.fftfreq(side)
    radius = np.hypot(*np.meshgrid(frequencies, frequencies))
    radius[0, 0] = 1
    waves = np.fft.ifft2(np.exp(2j * np.pi * rng.random((side, side))) / radius**1.2).real
    grey = 128 + 45 * (waves - waves.mean()) / waves.std()
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def distance(one: bytes, other: bytes) -> int:
    first, second = signature(one), signature(other)
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


# Texts


def test_text_signature_is_64_bytes_and_ignores_case():
    signature = text_signature(POST)
    assert signature is not None
    assert len(signature) == 64
    assert text_signature(POST.upper()) == signature


@pytest.mark.parametrize("text", ["", "so happy", "x" * 28, "ha" * 500])
def test_little_text_has_no_signature(text):
    assert text_signature(text) is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_signed(text):
    signature = text_signature(text)
    assert signature is None or len(signature) == 64
    assert text_signature(text) == signature


def test_signatures_estimate_jaccard():
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    errors = []
    for _ in range(300):
        one = rng.choice(letters, int(rng.integers(60, 250)))
        other = one.copy()
        other[rng.choice(len(one), int(rng.integers(1, 6)), replace=False)] = "#"
        first, second = "".join(one), "".join(other)
        errors.append(agreement(first, second) - jaccard(first, second))
    assert abs(np.mean(errors)) < 0.015
    assert np.std(errors) < 0.07


@pytest.mark.parametrize("copy", [POST + " lol", POST.replace("monday", "Monday!"), POST[:-5] + "…", "so " + POST])
def test_copies_of_a_text_are_near(copy):
    signatures = np.stack([np.frombuffer(text_signature(text) or b"", np.uint8) for text in (POST, copy)])
    assert as_set(near_text_pairs(signatures)) == {(0, 1)}


def test_other_texts_are_not_near():
    words = ["happy", "about", "phone", "train", "coffee", "rain", "match", "dog", "beach", "never", "again", "why"]
    rng = np.random.default_rng(0)
    texts = [text_signature(" ".join(rng.choice(words, 14))) for _ in range(3000)]
    assert not len(near_text_pairs(np.frombuffer(b"".join(filter(None, texts)), np.uint8).reshape(-1, 64))[0])


def test_recall_by_similarity():
    num = 8000
    signatures, rng = random_signatures(num), np.random.default_rng(1)
    half = np.arange(num // 2)
    similarity = np.repeat([0.5, 0.7, 0.85, 0.95], num // 8)
    equal = rng.random((num // 2, 64)) < similarity[:, None]
    signatures[half + num // 2] = np.where(equal, signatures[half], signatures[half + num // 2])
    first, second = near_text_pairs(signatures)
    assert (second - first == num // 2).all()
    recall = np.isin(half, first).reshape(4, -1).mean(axis=1)
    assert recall[0] == 0
    assert recall[1] < 0.08
    assert recall[2] > 0.75
    assert recall[3] > 0.99


# Images


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_an_image_are_near(seed):
    image = picture(seed)
    original = encoded(image, quality=92)
    for copy in (
        encoded(image, "PNG"),
        encoded(image, quality=30),
        encoded(image.resize((96, 96)), quality=85),
        encoded(image.resize((300, 300)), quality=85),
        encoded(ImageEnhance.Brightness(image).enhance(1.08), quality=85),
        encoded(ImageEnhance.Contrast(image).enhance(0.85), quality=85),
    ):
        assert distance(original, copy) <= NEAR_IMAGE


def test_other_images_are_not_near():
    hashes = np.array([signature(encoded(picture(seed, 64))) for seed in range(100)], dtype=np.uint64)
    assert not len(near_image_pairs(hashes)[0])


@pytest.mark.parametrize("colour", ["white", "black", "#1da1f2"])
def test_flat_images_have_no_signature(colour):
    assert signature(encoded(Image.new("RGB", (96, 96), colour))) is None
    noisy = np.asarray(Image.new("RGB", (96, 96), colour), dtype=float)
    noisy = noisy + np.random.default_rng(0).normal(0, 2, noisy.shape)
    assert signature(encoded(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))) is None


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_png_of_any_mode(mode):
    assert signature(encoded(picture(0).convert(mode), "PNG")) is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 17), st.integers(1, 5), st.integers(0, 3), st.integers(0, 100))
def test_image_pairs_are_those_of_brute_force(cluster, num_clusters, num_bits, seed):
    centres = np.random.default_rng(seed).integers(0, 2**64, num_clusters, dtype=np.uint64)
    hashes = np.unique(flipped(np.repeat(centres, cluster), num_bits, seed))
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= NEAR_IMAGE
    expected = {(int(a), int(b)) for a, b in zip(*np.nonzero(near), strict=True) if a < b}
    assert as_set(near_image_pairs(hashes)) == expected


# Both


@pytest.mark.parametrize("num", [0, 1, 2])
def test_few_signatures(num):
    assert not as_set(near_text_pairs(random_signatures(num)))
    assert not as_set(near_image_pairs(np.array([0, 2**64 - 1], dtype=np.uint64)[:num]))


def test_identical_posts_are_a_chain():
    num = 5000
    for first, second in (
        near_text_pairs(np.repeat(random_signatures(1), num, axis=0)),
        near_image_pairs(np.full(num, 12345, dtype=np.uint64)),
    ):
        assert first.tolist() == list(range(num - 1))
        assert second.tolist() == list(range(1, num))


def test_pairs_of_a_template_are_bounded():
    signed = [
        text_signature(f"today i have {n} new followers and {n % 7} have left me, says the app") for n in range(4000)
    ]
    signatures = np.frombuffer(b"".join(filter(None, signed)), np.uint8).reshape(-1, 64)
    first, second = near_text_pairs(signatures)
    assert (first < second).all()
    assert len(as_set((first, second))) == len(first) <= 2 * 12 * len(signatures)


def test_near_pairs_are_rows_of_the_columns():
    other = "what is wrong with the trains in this town, every single day the same twenty minutes of delay"
    signed = [text_signature(text) for text in ("", POST, other, "", POST + "!", "short")]
    images = [2**20 - 1, None, 2**63, 2**63 + 1, None, 2**20 - 1]
    for chunks in (1, 2):
        text_column, image_column = (
            pa.chunked_array([pa.array(part, kind) for part in np.array_split(np.array(values, object), chunks)])
            for values, kind in ((signed, TEXT_SIGNATURE), (images, IMAGE_SIGNATURE))
        )
        assert as_set(near_pairs(text_column, image_column)) == {(1, 4), (2, 3), (0, 5)}
        assert as_set(near_pairs(text_column[1:], image_column[1:])) == {(0, 3), (1, 2)}
    nothing = pa.chunked_array([], TEXT_SIGNATURE), pa.chunked_array([], IMAGE_SIGNATURE)
    assert not as_set(near_pairs(*nothing))
    assert not as_set(
        near_pairs(pa.chunked_array([pa.nulls(3, TEXT_SIGNATURE)]), pa.chunked_array([pa.nulls(3, IMAGE_SIGNATURE)]))
    )
