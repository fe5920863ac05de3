"""The whole stage on Ray: counts that add up, splits that hold, mistakes that are told in one sentence."""

import errno
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from corpora import prepare_files as prepare
from PIL import Image

from emo import storage
from emo.config import Columns, PrepareConfig, UserError
from emo.posts import read_posts
from emo.prepare import plain_errors, posts_key
from emo.sources import find_sources

pytestmark = pytest.mark.usefixtures("ray_session")

AUTO = PrepareConfig(labels="auto", image_size=32)


def picture(color: str, side: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color).save(buffer, "PNG")
    return buffer.getvalue()


def corpus(folder: Path, extra: list[dict] | None = None, num_posts: int = 40) -> Path:
    rows = [
        {
            "id": number,
            "text": f"post number {number} #fun http://t.co/x",
            "tags": ["#Gym"],
            "labels": [["joy"], ["anger", "joy"], ["anger"]][number % 3],
        }
        for number in range(num_posts)
    ]
    path = folder / "posts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *(extra or [])]))
    return path


def key(source: str, config: PrepareConfig, seed: int) -> str:
    return posts_key(find_sources([source], config, "nowhere"), config, seed)


def rejects(folder: Path, manifest: dict) -> dict[str, str]:
    rows = pq.read_table(folder / manifest["rejects"]).to_pylist()
    return {row["source"]: row["reason"] for row in rows}


def test_posts_become_a_set(tmp_path):
    (tmp_path / "red.png").write_bytes(picture("red"))
    extra = [{"id": "new", "text": "http://t.co/x", "image": "red.png"}, {"id": "nothing", "text": "", "labels": []}]
    source = corpus(tmp_path, extra)
    manifest = prepare(str(source), str(tmp_path / "set"), AUTO, seed=0, source_name="mine")
    assert manifest == storage.manifest(str(tmp_path / "set"))
    assert (manifest["kind"], manifest["source"], manifest["labels"]) == ("posts", "mine", ["anger", "joy"])
    assert (manifest["num_read"], manifest["num_posts"], manifest["num_rejects"]) == (42, 41, 1)
    assert manifest["reject_reasons"] == {"no text, image or tags": 1}
    assert rejects(tmp_path / "set", manifest) == {"posts.jsonl:42": "no text, image or tags"}
    assert manifest["modalities"] == {"text": 40, "image": 1, "tags": 40}
    assert manifest["splits_made"] == ["val", "test"]
    assert manifest["splits"]["unlabelled"] == {"num_posts": 1, "positives": [0, 0]}
    assert sum(split["num_posts"] for split in manifest["splits"].values()) == 41
    assert sum(split["positives"][0] for split in manifest["splits"].values()) == 26

    table = read_posts(str(tmp_path / "set"))
    assert json.loads(table.schema.metadata[b"labels"]) == ["anger", "joy"]
    assert float(table.schema.metadata[b"label_threshold"]) == 0.5
    rows = table.to_pylist()
    assert [row["post_id"] for row in rows] == [*map(str, range(40)), "new"]
    assert {k: rows[1][k] for k in ("text", "image", "tags", "targets", "group")} == {
        "text": "post number 1 fun",
        "image": None,
        "tags": ["Gym"],
        "targets": [1.0, 1.0],
        "group": None,
    }
    assert (rows[40]["text"], rows[40]["tags"], rows[40]["targets"], rows[40]["split"]) == (
        None,
        None,
        None,
        "unlabelled",
    )
    assert Image.open(io.BytesIO(rows[40]["image"])).size == (32, 32)


def test_the_same_again_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("emo.raw.ROWS_PER_CHUNK", 7)
    source = str(corpus(tmp_path))
    first, second = (prepare(source, str(tmp_path / name), AUTO, seed=3) for name in ("a", "b"))
    assert read_posts(str(tmp_path / "a")).equals(read_posts(str(tmp_path / "b")))
    assert first["fingerprint"] == second["fingerprint"] == key(source, AUTO, 3)
    assert key(source, AUTO, 4) != first["fingerprint"] != key(source, PrepareConfig(), 3)
    corpus(tmp_path, [{"id": "more", "text": "x"}])
    assert key(source, AUTO, 3) != first["fingerprint"]


def test_every_bad_row_is_a_reject_with_a_reason(tmp_path):
    (tmp_path / "bad.png").write_bytes(picture("red")[:70])
    extra = [
        {"id": 0, "text": "again"},
        {"id": "long", "text": "x" * 30_000},
        {"id": "bad", "text": "x", "image": "bad.png"},
        {"id": "gone", "text": "x", "image": "gone.png"},
        {"id": "up", "text": "x", "image": "../up.png"},
        {"text": "no id here"},
        {"id": "split", "text": "x", "split": "holdout"},
        {"id": "votes", "text": "x", "votes": {"joy": 1}},
        {"id": "list", "text": ["x"]},
        {"id": "tags", "text": "x", "tags": {"a": 1}},
    ]
    source = corpus(tmp_path, extra)
    source.write_text(source.read_text() + "{\n")
    manifest = prepare(str(source), str(tmp_path / "set"), AUTO, seed=0)
    assert (manifest["num_posts"], manifest["num_rejects"]) == (40, 11)
    assert sum(manifest["reject_reasons"].values()) == 11
    assert list(rejects(tmp_path / "set", manifest).items()) == [
        ("posts.jsonl:41", "duplicate id: '0' is first at posts.jsonl:1"),
        ("posts.jsonl:42", "text has more than 20000 characters"),
        ("posts.jsonl:43", "image is truncated or corrupt"),
        ("posts.jsonl:44", "image file not found"),
        ("posts.jsonl:45", "image path leads out of the data file's folder"),
        ("posts.jsonl:46", "no id"),
        ("posts.jsonl:47", "unknown split: 'holdout'"),
        ("posts.jsonl:48", "votes without annotators"),
        ("posts.jsonl:49", "text is neither text nor a number"),
        ("posts.jsonl:50", "tags are neither a list of words nor words separated by ';'"),
        ("posts.jsonl:51", "not valid JSON"),
    ]


def test_bad_images_can_be_dropped(tmp_path):
    source = corpus(tmp_path, [{"id": "gone", "text": "x", "image": "gone.png"}, {"id": "only", "image": "gone.png"}])
    manifest = prepare(str(source), str(tmp_path / "set"), PrepareConfig(labels="auto", bad_images="drop"), seed=0)
    assert manifest["reject_reasons"] == {"no text, image or tags": 1}
    assert read_posts(str(tmp_path / "set"))["post_id"].to_pylist()[-1] == "gone"


def test_votes_given_splits_and_duplicates(tmp_path):
    rows = ["id,message,votes,annotators,split"]
    rows += [
        f'{n},text {n % 50},"{{""joy"": {n % 6}, ""fear"": 1}}",5,{"dev" if n % 5 == 0 else "train"}' for n in range(60)
    ]
    (tmp_path / "posts.csv").write_text("\n".join(rows))
    config = PrepareConfig(labels="plutchik", columns=Columns(text="message"), label_threshold=0.6)
    manifest = prepare(str(tmp_path), str(tmp_path / "set"), config, seed=0)
    assert manifest["splits"]["val"]["num_posts"] == 12
    assert manifest["splits_made"] == ["test"]
    table = read_posts(str(tmp_path / "set")).to_pylist()
    assert table[3]["targets"] == pytest.approx([0, 0, 0, 0.2, 0.6, 0, 0, 0, 0])
    assert sum(split["positives"][4] for split in manifest["splits"].values()) == 30
    assert manifest["num_duplicates_across_splits"] == 0
    assert manifest["warnings"][0].startswith("No train post has anger, anticipation")


def test_twins_never_fall_in_two_splits(tmp_path):
    source = corpus(
        tmp_path, [{"id": f"twin{n}", "text": f"POST number {n}   fun", "labels": ["joy"]} for n in range(40)]
    )
    prepare(str(source), str(tmp_path / "set"), AUTO, seed=0)
    rows = read_posts(str(tmp_path / "set"), ["post_id", "split"]).to_pylist()
    split = {row["post_id"]: row["split"] for row in rows}
    assert all(split[str(n)] == split[f"twin{n}"] for n in range(40))
    assert set(split.values()) == {"train", "val", "test"}


def test_given_splits_with_twins_are_counted(tmp_path):
    rows = [
        {"id": n, "text": f"t{n // 2}", "labels": [["joy"], []][n % 3 == 0], "split": ["train", "valid", "test"][n % 3]}
        for n in range(30)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = prepare(str(tmp_path), str(tmp_path / "set"), AUTO, seed=0)
    assert (manifest["splits_made"], manifest["num_duplicates_across_splits"]) == ([], 30)
    assert "30 posts share" in manifest["warnings"][-1]


def test_labels_outside_the_space(tmp_path):
    source = corpus(tmp_path, [{"id": "odd", "text": "x", "labels": ["awe"]}])
    manifest = prepare(str(source), str(tmp_path / "set"), PrepareConfig(labels="joy,anger"), seed=0)
    assert manifest["labels"] == ["joy", "anger"]
    assert rejects(tmp_path / "set", manifest) == {"posts.jsonl:41": "label outside the label space: 'awe'"}
    with pytest.raises(UserError, match=r"27 of the 41 labelled posts.*'anger'.*--labels auto"):
        prepare(str(source), str(tmp_path / "set2"), PrepareConfig(labels="joy"), seed=0)


def test_without_labels(tmp_path):
    extra = [{"id": "odd", "text": "x", "labels": {"no": "matter"}, "split": "holdout"}]
    manifest = prepare(str(corpus(tmp_path, extra)), str(tmp_path / "set"), PrepareConfig(), seed=0, purpose="read")
    assert (manifest["labels"], manifest["num_posts"], manifest["splits"]["unlabelled"]["num_posts"]) == ([], 41, 41)
    table = read_posts(str(tmp_path / "set"))
    assert table["targets"].null_count == 41
    assert set(table["split"].to_pylist()) == {"unlabelled"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": n, "text": "x"} for n in range(20)], "no labelled post"),
        ([{"id": n, "text": f"x{n}", "labels": ["joy"]} for n in range(20)], "same labels"),
        ([{"id": n, "text": f"x{n}", "labels": [["joy"], []][n % 2]} for n in range(5)], "5 labelled posts"),
        ([{"id": n, "text": " "} for n in range(3)], "No post is left.*a.jsonl:1: no text, image or tags"),
        ([{"id": n, "words": "x"} for n in range(3)], "none of the columns"),
    ],
)
def test_corpora_that_nothing_can_be_learned_from(tmp_path, rows, words):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=words):
        prepare(str(tmp_path), str(tmp_path / "set"), AUTO, seed=0)
    assert storage.manifest(str(tmp_path / "set")) is None


def test_a_full_disk_is_one_sentence():
    def fails() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(UserError, match="cannot be written to somewhere: No space left"),
        plain_errors("Posts cannot be written to somewhere"),
    ):
        ray.data.range(2).map_batches(lambda batch: fails()).materialize()


def test_a_user_error_in_a_task_is_one_sentence(capfd):
    def fails() -> None:
        raise UserError("a.csv cannot be read.")

    with (
        pytest.raises(UserError, match=r"^a.csv cannot be read.$"),
        plain_errors("Posts cannot be written to somewhere"),
    ):
        ray.data.range(2).map_batches(lambda batch: fails()).materialize()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "set").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=f"cannot be written to {tmp_path}/set"):
        prepare(str(corpus(tmp_path)), str(tmp_path / "set"), AUTO, seed=0)
