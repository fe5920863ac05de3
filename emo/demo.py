"""The embedded corpus: made-up posts in the size and label shares of MM-Emo, so that every job runs without data.

A post starts from latent emotions. Each of them shows itself in the text only, in the picture only or in
both, so neither alone tells everything; five simulated annotators vote on the emotions with noise, and a few
posts are ironic: their picture shows an emotion that nobody feels. Everything follows from the seed.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from PIL import Image, ImageDraw

from emo.config import PLUTCHIK
from emo.storage import join, write_bytes

NUM_LABELLED, NUM_UNLABELLED, NUM_AUTHORS, NUM_ANNOTATORS = 900, 600, 420, 5
SIDE = 96
"""Pixels on a side of a picture."""
TEXT_ONLY, IMAGE_ONLY = 0.28, 0.28
"""Probabilities that an emotion shows in one modality alone; otherwise it shows in both."""
NO_TEXT, NO_IMAGE, NO_TAGS, IRONIC = 0.05, 0.08, 0.28, 0.06
STRAY_VOTE = 0.025
"""Probability that an annotator sees an emotion that nobody put there."""

SCHEMA = pa.schema(
    {"id": pa.string(), "text": pa.string(), "image": pa.binary(), "tags": pa.list_(pa.string())}
    | {"votes": pa.string(), "annotators": pa.int64(), "group": pa.string()}
)

FELT: dict[str, float] = {
    "neutral": 18.0, "joy": 13.5, "joy anticipation": 14.0, "joy trust": 7.0, "joy surprise": 6.5,
    "joy anticipation trust": 2.0, "joy anticipation surprise": 2.0, "joy sadness": 0.8, "anticipation": 3.0,
    "anticipation fear": 2.0, "anger": 3.2, "anger disgust": 8.5, "anger sadness": 1.5, "anger disgust sadness": 1.0,
    "anger surprise": 1.2, "disgust": 2.2, "disgust surprise": 0.8, "fear": 1.5, "fear sadness": 1.3,
    "fear surprise": 1.2, "sadness": 4.2, "sadness trust": 1.2, "surprise": 0.8, "trust": 0.8,
}  # fmt: skip
"""Emotions felt together -> percent of posts."""

CUES = {
    "anger": "this makes me furious|furious about this|i am so angry|angry again|angry and fed up"
    "|fed up with the lies|mad as hell|it makes me mad|what an outrage|an outrage really",
    "anticipation": "cannot wait for it|i cannot wait|counting the days|counting down|coming soon|soon it starts"
    "|looking forward to it|looking forward|so excited for tomorrow|tomorrow is the day",
    "disgust": "this is disgusting|disgusting stuff|so gross|gross and vile|makes me sick|sick to my stomach"
    "|absolutely revolting|a revolting smell|yuck|yuck, no",
    "fear": "i am scared|scared to look|this is terrifying|terrifying news|so afraid|afraid and worried"
    "|a real nightmare|what a nightmare",
    "joy": "so happy|happy today|best day ever|simply the best|what a lovely day|lovely moments"
    "|this is wonderful|wonderful times|such fun|having fun",
    "sadness": "so sad|a sad day|i miss you|how i miss this|heartbroken|heartbroken again|crying all night"
    "|i keep crying",
    "surprise": "what a surprise|a real surprise|i am shocked|shocked, really|so unexpected|unexpected turn"
    "|did not see that coming|never expected to see that",
    "trust": "thank you friends|thank you for the support|i believe in you|still believe in people"
    "|proud of this team|so proud of you|in good hands|good hands, honest people",
    "neutral": "here is the schedule|schedule update|for your information|information below|new opening hours"
    "|opening times|the report is online|notes and report|update of the list|see the list",
}  # fmt: skip
"""Words that show an emotion, separated by |; what stands in braces is filled from SLOTS."""
EMOJIS = {
    "anger": "😡🤬", "anticipation": "⏳🤞", "disgust": "🤢🤮", "fear": "😱😨", "joy": "😀😂🎉", "sadness": "😢💔",
    "surprise": "😲🤯", "trust": "🤝🙏", "neutral": "📌ℹ️",
}  # fmt: skip
HASHTAGS = {
    "anger": "fail rage", "anticipation": "cantwait soon", "disgust": "ew gross", "fear": "scary help",
    "joy": "happy goodvibes fun", "sadness": "missyou rip", "surprise": "omg unexpected", "trust": "thankful together",
    "neutral": "info news",
}  # fmt: skip
OPENERS = "so|well|ok|just now|today|hey all|listen|honestly|look|and again|right|{day} again|hello {name}|note to self"
CLOSERS = (
    "what do you think?|...|that's all|ask {name}|more later|anyway|you tell me|from {name} &amp; me|just saying|!!"
)
SLOTS = {
    "n": [str(n) for n in range(2, 30)],
    "day": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"],
    "name": ["anna", "ben", "carla", "dario", "elif", "femi", "gita", "hugo",
             "ines", "jonas", "kim", "lena", "mara", "nils", "olu", "pia"],
}  # fmt: skip

TOPICS = {
    "beach": "at the beach with {name}|the sea on {day}|sand and waves|sun over the coast|summer by the sea",
    "cake": "this cake|a birthday cake for {name}|baked {n} cupcakes|dessert at the bakery"
    "|the icing on the cake",
    "dog": "my dog|walking the puppy on {day}|{name} and the dog|a dog in the yard"
    "|the puppy ate {n} biscuits",
    "house": "our new house|the landlord and {name}|moving house on {day}|the kitchen roof"
    "|rent went up {n} percent",
    "car": "stuck in traffic|the car broke down|{n} cars at the junction|driving to {name}|parking on {day}",
    "match": "the match on {day}|{n} goals|the referee and {name}|our football team|at the stadium",
    "rain": "rain all {day}|{n} days of storm|umbrella weather|clouds over the city|thunder at {name}'s place",
    "forest": "a walk in the forest|trees near {name}'s village|the park on {day}|hiking {n} miles"
    "|leaves on the path",
    "coffee": "coffee with {name}|the {day} espresso|cup number {n}|a new cafe in town|latte at the counter",
    "train": "the train is {n} minutes late|platform {n}|on the train to {name}|the {day} commute"
    "|railway station",
    "phone": "my phone|the new app {name} uses|{n} missed calls|screen time on {day}|a message from {name}",
    "book": "reading {n} pages|the exam on {day}|{name}'s new book|the library|chapter {n}",
}  # fmt: skip

SCENES = {
    "beach": "ellipse #ffd23f .5 0 1 .5; rectangle #2a7fd4 0 .6 1 .8; rectangle #ecd9a0 0 .8 1 1",
    "cake": "rectangle #a9673a .05 .5 .95 1; rectangle #fff3f7 .05 .4 .95 .6; rectangle #e0245e .45 .05 .55 .4",
    "dog": "ellipse #8a5a2b .15 .4 .75 .85; ellipse #8a5a2b .55 .1 1 .55; rectangle #5f3b17 .2 .75 .3 1"
    "; rectangle #5f3b17 .6 .75 .7 1",
    "house": "rectangle #d8cfc0 .15 .45 .85 1; polygon #b03a2e .05 .45 .5 0 .95 .45"
    "; rectangle #5b4636 .42 .65 .6 1",
    "car": "rectangle #1f5fbf 0 .5 1 .8; rectangle #9fc5e8 .25 .25 .75 .5; ellipse #111111 .08 .68 .38 .98"
    "; ellipse #111111 .62 .68 .92 .98",
    "match": "rectangle #2e8b3d 0 .5 1 1; ellipse #ffffff .2 .2 .8 .8"
    "; polygon #111111 .5 .36 .64 .5 .58 .64 .42 .64 .36 .5",
    "rain": "ellipse #5d6d7e 0 .1 .65 .5; ellipse #5d6d7e .35 0 1 .5; line #1f77ff .2 .55 .1 .95"
    "; line #1f77ff .5 .55 .4 .95; line #1f77ff .8 .55 .7 .95",
    "forest": "rectangle #6b4423 .42 .6 .58 1; polygon #1e6b34 .1 .7 .5 .2 .9 .7"
    "; polygon #2f8f4a .2 .42 .5 0 .8 .42",
    "coffee": "rectangle #fafafa .15 .35 .7 .95; ellipse #4b2e1a .15 .25 .7 .48; line #fafafa .7 .5 .95 .6 .7 .75",
    "train": "rectangle #c0392b .1 .1 .9 .8; rectangle #d6eaf8 .2 .2 .8 .45; line #222222 0 .95 1 .95"
    "; ellipse #f7dc6f .2 .55 .35 .7",
    "phone": "rectangle #17202a .25 0 .75 1; rectangle #48c9b0 .31 .1 .69 .82; ellipse #ecf0f1 .45 .86 .55 .96",
    "book": "polygon #fdfefe .5 .25 1 .1 1 .85 .5 1; polygon #e5e7e9 .5 .25 0 .1 0 .85 .5 1"
    "; line #6c3483 .5 .25 .5 1",
}  # fmt: skip
"""Shapes with their colour and coordinates in a unit square."""
STICKERS = {
    "anger": "polygon #ff1e00 .55 0 .1 .6 .45 .6 .3 1 .9 .4 .55 .4",
    "anticipation": "ellipse #ffffff 0 0 1 1; line #000000 .5 .1 .5 .5 .85 .5",
    "disgust": "line #7fae00 .1 1 .3 .6 .1 .4 .3 0; line #7fae00 .6 1 .8 .6 .6 .4 .8 0",
    "fear": "ellipse #000000 .1 0 .9 .9; ellipse #ffffff .25 .3 .42 .5; ellipse #ffffff .58 .3 .75 .5",
    "joy": "polygon #ffea00 .5 0 .62 .38 1 .38 .7 .6 .8 1 .5 .75 .2 1 .3 .6 0 .38 .38 .38",
    "sadness": "polygon #0057d9 .5 0 .9 .65 .5 1 .1 .65",
    "surprise": "rectangle #ff7b00 .38 0 .62 .65; ellipse #ff7b00 .36 .74 .64 1",
    "trust": "polygon #ff4fa3 .5 1 0 .35 .25 0 .5 .25 .75 0 1 .35",
    "neutral": "rectangle #9aa0a6 0 .15 1 .85; line #e8eaed .2 .4 .8 .4; line #e8eaed .2 .6 .8 .6",
}  # fmt: skip
FACES: dict[str, tuple[float, float, float, float]] = {
    "anger": (-0.8, 0.15, 0.9, 0.8), "anticipation": (0.4, 0.3, -0.3, 1.2), "disgust": (-0.5, 0.5, 0.5, 0.5),
    "fear": (-0.4, 0.8, -0.9, 1.5), "joy": (1.0, 0.4, -0.1, 0.9), "sadness": (-1.0, 0.0, -0.8, 0.7),
    "surprise": (0.0, 1.0, -0.4, 1.6), "trust": (0.6, 0.0, 0.0, 1.0), "neutral": (0.0, 0.0, 0.0, 0.8),
}  # fmt: skip
"""Mouth's curve from -1 (down) to 1 (up), how far it is open, slope of the brows (1 = frown), size of the eyes."""

PALETTES = {
    "anger": (176, 48, 40), "anticipation": (244, 164, 70), "disgust": (130, 150, 60), "fear": (52, 40, 72),
    "joy": (255, 224, 110), "sadness": (84, 110, 150), "surprise": (236, 130, 214), "trust": (120, 200, 170),
    "neutral": (190, 192, 196),
}  # fmt: skip
"""Colour of the background."""


@dataclass(frozen=True)
class Plan:
    """What a post is about, what its author feels, and which modality shows it; no set where a modality is absent."""

    topic: str
    felt: tuple[str, ...]
    in_text: tuple[str, ...] | None
    in_image: tuple[str, ...] | None
    tagged: bool


def write_corpus(folder: str, seed: int) -> str:
    """Write the raw posts as one Parquet file under ``folder``; its URI."""
    order = np.random.default_rng([seed, 0])
    felt = _felt(order, NUM_LABELLED) + _felt(order, NUM_UNLABELLED)
    posts = [make_post(np.random.default_rng([seed, 1, n]), n, felt[n]) for n in range(len(felt))]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([posts[n] for n in order.permutation(len(posts))], SCHEMA), sink)
    uri = join(folder, "posts.parquet")
    write_bytes(uri, sink.getvalue().to_pybytes())
    return uri


def make_post(rng: Generator, number: int, felt: tuple[str, ...]) -> dict[str, object]:
    """One raw post; those numbered from NUM_LABELLED on have no votes."""
    plan = make_plan(rng, felt)
    labelled = number < NUM_LABELLED
    return {
        "id": f"demo-{number:05d}",
        "text": None if plan.in_text is None else write_text(rng, plan.topic, plan.in_text),
        "image": None if plan.in_image is None else draw_image(rng, plan.topic, plan.in_image),
        "tags": _tags(rng, plan) if plan.tagged else None,
        "votes": json.dumps(cast_votes(rng, plan.felt)) if labelled else None,
        "annotators": NUM_ANNOTATORS if labelled else None,
        "group": f"author-{int(NUM_AUTHORS * rng.random() ** 1.3):03d}",
    }


def make_plan(rng: Generator, felt: tuple[str, ...]) -> Plan:
    """Where each felt emotion shows itself; what lacks a modality shows everything in the other one."""
    without = rng.choice(["text", "image", "nothing"], p=[NO_TEXT, NO_IMAGE, 1 - NO_TEXT - NO_IMAGE])
    where = rng.choice(["text", "image", "both"], size=len(felt), p=[TEXT_ONLY, IMAGE_ONLY, 1 - TEXT_ONLY - IMAGE_ONLY])
    shown = {
        side: tuple(e for e, place in zip(felt, where, strict=True) if place in (side, "both") or without == other)
        for side, other in (("text", "image"), ("image", "text"))
    }
    ironic = rng.random() < IRONIC and without == "nothing"
    in_image = (str(rng.choice([e for e in PLUTCHIK if e not in felt])),) if ironic else shown["image"]
    return Plan(
        topic=_pick(rng, list(TOPICS)),
        felt=felt,
        in_text=None if without == "text" else felt if ironic else shown["text"],
        in_image=None if without == "image" else in_image,
        tagged=rng.random() >= NO_TAGS,
    )


def cast_votes(rng: Generator, felt: tuple[str, ...]) -> dict[str, int]:
    """Label -> number of annotators who chose it: each sees a felt emotion as often as it is strong."""
    strength = {label: float(rng.uniform(0.5, 1.0)) if label in felt else STRAY_VOTE for label in PLUTCHIK[:-1]}
    votes = dict.fromkeys(PLUTCHIK, 0)
    for _ in range(NUM_ANNOTATORS):
        seen = [label for label, share in strength.items() if rng.random() < share] or ["neutral"]
        for label in seen:
            votes[label] += 1
    return {label: count for label, count in votes.items() if count}


def write_text(rng: Generator, topic: str, shown: tuple[str, ...]) -> str:
    """A tweet, with the dirt of real ones, that shows the given emotions."""
    parts = [_phrase(rng, TOPICS[topic])] + [_evidence(rng, label) for label in shown]
    rng.shuffle(parts)
    parts = [_phrase(rng, OPENERS)] * (rng.random() < 0.5) + parts + [_phrase(rng, CLOSERS)] * (rng.random() < 0.5)
    text = _pick(rng, [" ", ", ", ". ", " - "]).join(parts)
    text = text.capitalize() if rng.random() < 0.6 else text
    before = [f"RT @{_slot(rng, 'name')}_{_slot(rng, 'n')}:"] * (rng.random() < 0.12) + [f"@{_slot(rng, 'name')}"] * (
        rng.random() < 0.25
    )
    after = [f"#{topic}"] * (rng.random() < 0.35) + [f"https://t.co/{rng.integers(16**8):08x}"] * (rng.random() < 0.4)
    text = f"<b>{text}</b>" if rng.random() < 0.04 else text
    return " ".join([*before, text, *after])


def draw_image(rng: Generator, topic: str, shown: tuple[str, ...]) -> bytes:
    """A cartoon, as PNG or JPEG: the topic at the left, a face at the right, stickers below, on a coloured ground."""
    colours = [PALETTES[label] for label in shown if rng.random() < 0.85] or [tuple(rng.integers(90, 240, 3))]
    image = Image.fromarray(_background(rng, colours))
    draw = ImageDraw.Draw(image)
    _draw_shapes(draw, SCENES[topic], _box(rng, 3, 12, 40))
    _draw_face(draw, rng, FACES[_pick(rng, list(shown) or ["neutral"])], _box(rng, 50, 12, 38))
    for label, left in zip(shown, rng.permutation([2, 25, 48, 70]), strict=False):
        if rng.random() < 0.85:
            _draw_shapes(draw, STICKERS[label], _box(rng, int(left), 66, 25))
    noisy = np.asarray(image, dtype=np.float32) + rng.normal(0, 9, (SIDE, SIDE, 3))
    file = io.BytesIO()
    kind, options = ("PNG", {"compress_level": 1}) if rng.random() < 0.3 else ("JPEG", {"quality": 85})
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def _felt(rng: Generator, count: int) -> list[tuple[str, ...]]:
    """Latent emotions of ``count`` posts in the exact proportions of FELT, shuffled."""
    edges = np.round(np.cumsum(list(FELT.values())) / sum(FELT.values()) * count).astype(int)
    exact = np.repeat(np.arange(len(FELT)), np.diff(edges, prepend=0))
    names = list(FELT)
    return [tuple(names[n].split()) for n in rng.permutation(exact)]


def _evidence(rng: Generator, label: str) -> str:
    """Words, an emoji, or both."""
    words, emoji = _phrase(rng, CUES[label]), _pick(rng, EMOJIS[label].replace("\ufe0f", ""))
    kind = rng.random()
    return emoji if kind < 0.15 else f"{words} {emoji}" if kind < 0.5 else words


def _tags(rng: Generator, plan: Plan) -> list[str]:
    """Up to two words for the topic, and some for what the text shows: the tags are the author's words too."""
    tags = [plan.topic] + [_pick(rng, HASHTAGS[label].split()) for label in plan.in_text or () if rng.random() < 0.35]
    return [str(tag) for tag in rng.permutation(tags + [_slot(rng, "day")] * (rng.random() < 0.3))]


def _phrase(rng: Generator, phrases: str) -> str:
    return _pick(rng, phrases.split("|")).format(**{name: _slot(rng, name) for name in SLOTS})


def _slot(rng: Generator, name: str) -> str:
    return _pick(rng, SLOTS[name])


def _pick(rng: Generator, values: "list[str] | str") -> str:
    return values[int(rng.integers(len(values)))]


def _box(rng: Generator, left: int, top: int, side: int) -> tuple[float, float, float]:
    """Left, top and side, a little off."""
    dx, dy = rng.integers(-3, 4, 2)
    return left + float(dx), top + float(dy), side * float(rng.uniform(0.85, 1.1))


def _background(rng: Generator, colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Sky in the first colour, ground in the last, both off by a little: (SIDE, SIDE, 3) uint8."""
    sky, ground = (np.asarray(c, dtype=float) + rng.normal(0, 14, 3) for c in (colours[0], colours[-1]))
    ramp = np.linspace(0, 1, SIDE)[:, None, None]
    ground = ground * 0.85
    return np.broadcast_to(sky * (1 - ramp) + ground * ramp, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)


def _draw_shapes(draw: ImageDraw.ImageDraw, shapes: str, box: tuple[float, float, float]) -> None:
    left, top, side = box
    for shape in shapes.split("; "):
        kind, colour, *numbers = shape.split(" ")
        where = [float(number) for number in numbers]
        points = [(left + side * x, top + side * y) for x, y in zip(where[::2], where[1::2], strict=True)]
        if kind == "line":
            draw.line(points, fill=colour, width=3)
        else:
            getattr(draw, kind)(points, fill=colour)


def _draw_face(
    draw: ImageDraw.ImageDraw, rng: Generator, face: tuple[float, float, float, float], box: tuple[float, float, float]
) -> None:
    left, top, side = box
    curve, opened, slope, eyes = (value + float(rng.normal(0, 0.12)) for value in face)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + side * x, top + side * y

    draw.ellipse([at(0, 0), at(1, 1)], fill="#f6d3b0", outline="#333333", width=2)
    for x, turn in ((0.3, 1), (0.7, -1)):
        size = 0.075 * max(eyes, 0.3)
        draw.ellipse([at(x - size, 0.4 - size), at(x + size, 0.4 + size)], fill="#111111")
        draw.line(
            [at(x - 0.12, 0.24 - 0.08 * slope * turn), at(x + 0.12, 0.24 + 0.08 * slope * turn)],
            fill="#333333",
            width=2,
        )
    arc = [at(0.25 + 0.5 * t, 0.7 + 0.13 * curve * math.sin(math.pi * t)) for t in (0, 0.25, 0.5, 0.75, 1)]
    lips = [
        at(0.25 + 0.5 * t, 0.7 + (0.13 * curve + 0.22 * max(opened, 0)) * math.sin(math.pi * t))
        for t in (1, 0.75, 0.5, 0.25, 0)
    ]
    draw.polygon(arc + lips, fill="#8e1b2f", outline="#8e1b2f")
