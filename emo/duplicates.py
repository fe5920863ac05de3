"""Near-duplicates among a million posts: a small signature for each text and image, and the pairs that are alike.

Workers make the signatures; one process then pairs them in time and memory about linear in the posts.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
from PIL import Image

NEAR_TEXT = 0.8
"""The estimated Jaccard similarity from which on two texts are alike."""
NEAR_IMAGE = 4
"""The bits, of 64, by which two images that are alike may differ."""
SHINGLE = 5
NUM_PERMUTATIONS = 64
ROWS, BANDS = 5, 12
MIN_SHINGLES = 25
MIN_CONTRAST = 2.0
WINDOW = 16
"""How many of the next posts in its bucket each post is compared with."""
CHUNK = 2**16
"""How many pairs are compared at once."""
TEXT_SIGNATURE = pa.binary(NUM_PERMUTATIONS)
IMAGE_SIGNATURE = pa.uint64()

Pairs = tuple[np.ndarray, np.ndarray]
"""Two int64 arrays (P,): the first posts and the second ones, each pair once."""
Alike = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Which (M,) of the posts of one array are alike those of another."""


# One post


def text_signature(text: str) -> bytes | None:
    """64 bytes of which two texts share about the share of character 5-shingles that they share (Jaccard).

    MinHash (Broder, 1997) over the casefolded text, one byte of each minimum kept (Li and König,
    2010): as large as 32 minima of two bytes, with half the variance. None where the text has under
    25 different shingles, about 30 characters, which would say little.
    """
    points = np.frombuffer(text.casefold().encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if len(points) < MIN_SHINGLES + SHINGLE - 1:
        return None
    weights, masks, factors = _constants()
    shingles = np.unique(_mixed(np.correlate(points, weights)))
    if len(shingles) < MIN_SHINGLES:
        return None
    return (((shingles ^ masks) * factors).min(axis=1) >> 8).astype(np.uint8).tobytes()


def image_signature(image: Image.Image) -> int | None:
    """The 64-bit perceptual hash of an image: which low frequencies of its grey levels exceed their median.

    It hardly changes with size, compression and brightness (Zauner, 2010). None where a single
    colour, or nearly, leaves only noise to compare. The library imagehash computes the same from
    SciPy and PyWavelets, which every worker would have to import for these few lines.
    """
    image.draft("L", (64, 64))  # a JPEG that is still to be decoded is, at 1/2, 1/4 or 1/8 of its size
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    if grey.std() < MIN_CONTRAST:
        return None
    cosines = _cosines()
    waves = cosines @ grey @ cosines.T
    waves[0, 0] = 0  # the mean, which is brightness
    return int.from_bytes(np.packbits(waves > np.median(waves)).tobytes())


@cache
def _constants() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of a shingle's characters (5,); masks (64, 1) and odd factors (64, 1) that permute uint32."""
    rng = np.random.default_rng(0)
    weights, masks, factors = (
        rng.integers(2**32, size=size, dtype=np.uint32) for size in (SHINGLE, NUM_PERMUTATIONS, NUM_PERMUTATIONS)
    )
    return weights | 1, masks[:, None], factors[:, None] | 1


def _mixed(values: np.ndarray) -> np.ndarray:
    """uint32 values whose every bit depends on all bits of the given ones (lowbias32, Wellons, 2018)."""
    values = (values ^ (values >> 16)) * np.uint32(0x7FEB352D)
    values = (values ^ (values >> 15)) * np.uint32(0x846CA68B)
    return values ^ (values >> 16)


@cache
def _cosines() -> np.ndarray:
    """The 8 lowest of the 32 waves of the discrete cosine transform (8, 32), normed."""
    waves = np.cos(np.pi / 32 * np.outer(np.arange(8), np.arange(32) + 0.5)) / 4
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


# All posts


def near_pairs(texts: pa.ChunkedArray, images: pa.ChunkedArray) -> Pairs:
    """Rows of the posts whose texts or images are alike, from columns of TEXT_SIGNATURE and IMAGE_SIGNATURE.

    A post without a signature is like no other.
    """
    signatures = texts.combine_chunks().drop_null()
    raw = np.frombuffer(signatures.buffers()[1] or b"", dtype=np.uint8).reshape(-1, NUM_PERMUTATIONS)
    hashes = images.combine_chunks().drop_null().to_numpy(zero_copy_only=False)
    found = [
        (np.flatnonzero(texts.is_valid()), near_text_pairs(raw[signatures.offset :][: len(signatures)])),
        (np.flatnonzero(images.is_valid()), near_image_pairs(hashes)),
    ]
    first, second = (np.concatenate([rows[pairs[side]] for rows, pairs in found]) for side in (0, 1))
    return first, second


def near_text_pairs(signatures: np.ndarray) -> Pairs:
    """Pairs of text signatures uint8 (N, 64) with an estimated Jaccard similarity of NEAR_TEXT or more.

    Compared are signatures that agree in one of 12 bands of 5 bytes (Leskovec, Rajaraman and Ullman,
    Mining of Massive Datasets, chapter 3): 99.9 % of the pairs with a similarity of 0.85, 99.2 % at
    0.8, 3 % at 0.3. Found alike are then 99 % of the pairs at 0.9, 85 % at 0.85, 3 % at 0.7 and none
    at 0.5, as the estimate has a standard error of 0.05.
    """
    by_chance = 1 / 256
    num_equal = NUM_PERMUTATIONS * (NEAR_TEXT * (1 - by_chance) + by_chance)
    words = np.ascontiguousarray(signatures).view(np.uint64)
    digests = words @ np.random.default_rng(0).integers(2**64, size=words.shape[1], dtype=np.uint64)
    first_bytes = np.uint64(2**64 - 2 ** (64 - 8 * ROWS))
    tables = (
        (np.ascontiguousarray(signatures[:, start : start + 8]).view(">u8")[:, 0].astype(np.uint64), first_bytes)
        for start in range(0, ROWS * BANDS, ROWS)
    )
    return _pairs(
        digests, tables, lambda a, b: (signatures[a] == signatures[b]).sum(axis=1, dtype=np.uint8) >= num_equal
    )


def near_image_pairs(hashes: np.ndarray) -> Pairs:
    """Pairs of perceptual hashes uint64 (N,) that differ in NEAR_IMAGE bits or fewer.

    Compared are hashes that agree in two of six blocks of bits, as any do that differ in four (Manku,
    Jain and Das Sarma, 2007): none is missed where at most WINDOW + 1 different hashes agree in them.
    Equal hashes are a chain, whose first is paired with others.
    """
    edges = [0, 11, 21, 32, 43, 53, 64]
    blocks = [2**end - 2**start for start, end in pairwise(edges)]
    tables = ((hashes, np.uint64(one | other)) for one, other in combinations(blocks, 2))
    return _pairs(hashes, tables, lambda a, b: np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_IMAGE)


def _pairs(digests: np.ndarray, tables: Iterable[tuple[np.ndarray, np.uint64]], alike: Alike) -> Pairs:
    """The posts of one digest as a chain, and the first of each with those alike in a bucket of any table."""
    num = max(len(digests), 1)
    order = np.argsort(digests, kind="stable")
    same = digests[order[1:]] == digests[order[:-1]]
    pairs = order[:-1][same] * num + order[1:][same]  # the stable order has the earlier post first
    kept = np.delete(order, np.flatnonzero(same) + 1)
    for key, mask in tables:
        new = [
            np.minimum(one, other) * num + np.maximum(one, other)
            for one, other in _in_buckets(key[kept], mask, kept, alike)
        ]
        pairs = np.sort(np.concatenate([pairs, *new]))
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # after every table, so that few are held twice
    return np.divmod(pairs, num)


def _in_buckets(key: np.ndarray, mask: np.uint64, rows: np.ndarray, alike: Alike) -> Iterator[Pairs]:
    """The rows that are alike and in one bucket, whose keys are equal under ``mask``.

    In a bucket of more than WINDOW + 1 rows, a row is compared with the WINDOW next by ``key`` only, and
    paired with the nearest before and after it, so that a template's million posts make few pairs.
    """
    bucket = key & mask
    order = np.lexsort((key, bucket))
    bucket, rows = bucket[order], rows[order]
    sizes = np.diff(np.flatnonzero(np.diff(bucket, prepend=~bucket[:1], append=~bucket[-1:])))
    wide = np.repeat(sizes > WINDOW + 1, sizes)
    has_next, has_previous = np.zeros((2, len(rows)), dtype=bool)
    for step in range(1, min(WINDOW + 1, len(rows))):
        in_bucket = bucket[step:] == bucket[:-step]
        if not in_bucket.any():
            return
        places = np.flatnonzero(in_bucket & ~(wide[step:] & has_next[:-step] & has_previous[step:]))
        for few in np.array_split(places, len(places) // CHUNK + 1):
            few = few[alike(rows[few], rows[few + step])]
            has_next[few] = has_previous[few + step] = True
            yield rows[few], rows[few + step]
