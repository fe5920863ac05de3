"""The embedded corpus: reproducible, shaped like MM-Emo, and with evidence in both modalities."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emo.config import PLUTCHIK
from emo.demo import (
    CUES,
    EMOJIS,
    HASHTAGS,
    NUM_ANNOTATORS,
    NUM_LABELLED,
    NUM_UNLABELLED,
    SIDE,
    TOPICS,
    make_plan,
    write_corpus,
    write_text,
)

PAPER_SHARES = {
    "anger": 0.098, "anticipation": 0.135, "disgust": 0.083, "fear": 0.039, "joy": 0.285, "neutral": 0.158,
    "sadness": 0.067, "surprise": 0.075, "trust": 0.060,
}  # fmt: skip


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(str(tmp_path_factory.mktemp("demo")), seed=0)


@pytest.fixture(scope="module")
def posts(uri: str) -> list[dict]:
    return pq.read_table(uri).to_pylist()


@pytest.fixture(scope="module")
def labels(posts: list[dict]) -> np.ndarray:
    """(N, K) of the labelled posts: chosen by three of the five annotators."""
    votes = [json.loads(post["votes"]) for post in posts if post["votes"]]
    return np.array([[counts.get(label, 0) / NUM_ANNOTATORS >= 0.5 for label in PLUTCHIK] for counts in votes])


def test_same_seed_gives_same_bytes_and_another_seed_other_posts(uri: str, posts: list[dict], tmp_path: Path) -> None:
    again, other = write_corpus(str(tmp_path / "a"), seed=0), write_corpus(str(tmp_path / "b"), seed=1)
    assert Path(again).read_bytes() == Path(uri).read_bytes()
    assert {row["text"] for row in pq.read_table(other, columns=["text"]).to_pylist()} != {
        post["text"] for post in posts
    }


def test_size_and_columns(posts: list[dict]) -> None:
    assert len(posts) == NUM_LABELLED + NUM_UNLABELLED == 1500
    assert sum(post["votes"] is not None for post in posts) == NUM_LABELLED == 900
    assert len({post["id"] for post in posts}) == len(posts)
    assert list(posts[0]) == ["id", "text", "image", "tags", "votes", "annotators", "group"]
    assert all((post["annotators"] == 5) == (post["votes"] is not None) for post in posts)


def test_votes_are_counts_of_known_labels(posts: list[dict]) -> None:
    for votes in (json.loads(post["votes"]) for post in posts if post["votes"]):
        assert votes
        assert set(votes) <= set(PLUTCHIK)
        assert all(1 <= count <= NUM_ANNOTATORS for count in votes.values())


def test_label_shares_resemble_the_paper(labels: np.ndarray) -> None:
    shares = dict(zip(PLUTCHIK, labels.sum(0) / labels.sum(), strict=True))
    assert shares == pytest.approx(PAPER_SHARES, abs=0.02)
    assert 1.3 <= labels.sum(1).mean() <= 1.7


def test_labels_that_go_together(labels: np.ndarray) -> None:
    def lift(first: str, second: str) -> float:
        a, b = labels[:, PLUTCHIK.index(first)], labels[:, PLUTCHIK.index(second)]
        return float((a & b).mean() / (a.mean() * b.mean()))

    assert lift("anger", "disgust") > 2
    assert lift("joy", "trust") > 1.3
    assert lift("joy", "anticipation") > 1.3
    assert lift("joy", "anger") < 0.5
    neutral = labels[labels[:, PLUTCHIK.index("neutral")]]
    assert (neutral.sum(1) == 1).mean() > 0.85


def test_shares_of_missing_modalities(posts: list[dict]) -> None:
    def missing(name: str) -> float:
        return float(np.mean([post[name] is None for post in posts]))

    assert missing("text") == pytest.approx(0.05, abs=0.02)
    assert missing("image") == pytest.approx(0.08, abs=0.025)
    assert missing("tags") == pytest.approx(0.30, abs=0.05)
    assert all(post["text"] or post["image"] for post in posts)


def test_texts_rarely_repeat_and_are_as_dirty_as_tweets(posts: list[dict]) -> None:
    texts = [post["text"] for post in posts if post["text"]]
    assert len(set(texts)) > 0.97 * len(texts)
    for dirt in ("https://t.co/", "@", "#", "&amp;", "<b>", "RT @", "😡"):
        assert any(dirt in text for text in texts), dirt


def test_images_are_small_pngs_and_jpegs(posts: list[dict]) -> None:
    opened = [Image.open(io.BytesIO(post["image"])) for post in posts[:200] if post["image"]]
    assert {image.format for image in opened} == {"PNG", "JPEG"}
    assert {image.size for image in opened} == {(SIDE, SIDE)}


def test_an_emotion_that_only_the_picture_shows_is_not_in_the_text() -> None:
    num_hidden = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        plan = make_plan(rng, ("joy", "trust"))
        text = None if plan.in_text is None else write_text(rng, plan.topic, plan.in_text).lower()
        for label in plan.felt if text is not None else ():
            shown = any(cue in text for cue in [*CUES[label].split("|"), *EMOJIS[label]])
            assert shown == (label in plan.in_text)
            num_hidden += label not in plan.in_text
    assert num_hidden > 50


def test_every_emotion_shows_itself_somewhere_unless_the_picture_is_ironic() -> None:
    plans = [make_plan(np.random.default_rng(seed), ("anger", "disgust")) for seed in range(500)]
    assert all(set(plan.felt) <= set(plan.in_text or ()) | set(plan.in_image or ()) for plan in plans)
    alone = [(plan.in_text is None) + (plan.in_image is None) for plan in plans]
    assert max(alone) == 1
    ironic = [plan for plan in plans if set(plan.in_image or ()) - set(plan.felt)]
    assert 0.02 < len(ironic) / len(plans) < 0.12
    assert all(plan.in_text == plan.felt for plan in ironic)
    assert any("anger" in (p.in_text or ()) and "anger" not in (p.in_image or ()) for p in plans)


def test_no_word_of_one_emotion_is_a_word_of_another() -> None:
    said = [(label, cue) for label, cues in CUES.items() for cue in cues.split("|")]
    assert len({cue for _, cue in said}) == len(said)
    assert set(CUES) == set(EMOJIS) == set(HASHTAGS) == set(PLUTCHIK)
    assert len({tag for tags in HASHTAGS.values() for tag in tags.split()} & set(TOPICS)) == 0
