"""Finding, planning and reading raw posts, in every format and with every oddity."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo import raw
from emo.config import Columns, FetchLimits, UserError
from emo.posts import read_posts
from emo.raw import Source, check_columns, find_files, plan_chunks, read_chunk
from emo.raw.images import read_images

ROWS = [{"id": f"p{number}", "text": f'line\n"{number}", é', "labels": "joy;anger"} for number in range(7)]


def write(path: Path, rows: list[dict], **options: object) -> Path:
    """Rows as the kind of file that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",", **options)
            writer.writeheader()
            writer.writerows(rows)
    return path


def source(*files: str) -> Source:
    return Source(name="mine", files=files)


def read(*paths: Path, columns: Columns | None = None) -> list[dict]:
    chunks = plan_chunks([source(*map(str, paths))])
    return [post for chunk in chunks for post in read_chunk(chunk, source(), columns or Columns())]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("rows_per_chunk", [1, 2, 100])
def test_chunks_hold_every_record_once(tmp_path, monkeypatch, suffix, rows_per_chunk):
    monkeypatch.setattr(raw, "ROWS_PER_CHUNK", rows_per_chunk)
    path = write(tmp_path / f"a.{suffix}", ROWS)
    chunks = plan_chunks([source(str(path))])
    found = [post for chunk in chunks for post in read_chunk(chunk, source(), Columns())]
    assert [{name: post[name] for name in ROWS[0]} for post in found] == ROWS
    assert [post["index"] for post in found] == list(range(7))
    assert (
        len(chunks) == {1: 7, 2: 5 if suffix == "parquet" else 4, 100: 3 if suffix == "parquet" else 1}[rows_per_chunk]
    )
    assert [chunk.num_rows for chunk in chunks] == [
        len(list(read_chunk(chunk, source(), Columns()))) for chunk in chunks
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from('a",\n\r\té😀 '), max_size=8), min_size=1, max_size=9),
    st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
def test_any_text_survives_chunking(tmp_path_factory, texts, suffix):
    path = write(
        tmp_path_factory.mktemp("texts") / f"a{suffix}", [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw, "ROWS_PER_CHUNK", 2)
        assert [post["text"] for post in read(path)] == texts


def test_places_name_file_and_line(tmp_path):
    write(tmp_path / "a.csv", [{"id": "1", "text": "two\nlines"}, {"id": "2", "text": "x"}])
    write(tmp_path / "b.jsonl", [{"id": "3", "text": "x"}, {"id": "4", "text": "y"}])
    (tmp_path / "b.jsonl").write_text("\n" + (tmp_path / "b.jsonl").read_text())
    found = read(tmp_path / "a.csv", tmp_path / "b.jsonl")
    assert [post["source"] for post in found] == ["a.csv:2", "a.csv:4", "b.jsonl:2", "b.jsonl:3"]
    assert [post["index"] for post in found] == [0, 1, 2, 3]


def test_broken_records_are_rejected_with_their_place(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "x"}\n{oops\n[1]\n{"id": 2}\n')
    assert [(p["source"], p["reject"]) for p in read(tmp_path / "a.jsonl")] == [
        ("a.jsonl:1", None),
        ("a.jsonl:2", "not valid JSON"),
        ("a.jsonl:3", "not a JSON object"),
        ("a.jsonl:4", None),
    ]
    (tmp_path / "a.csv").write_text("id,text\n1,x\n2\n3,x,y\nbad\rline,x\n4,x\n")
    assert [(p["source"], p["reject"]) for p in read(tmp_path / "a.csv")] == [
        ("a.csv:2", None),
        ("a.csv:3", "wrong number of fields: 1 where the header has 2"),
        ("a.csv:4", "wrong number of fields: 3 where the header has 2"),
        ("a.csv:5", "not valid CSV"),
        ("a.csv:6", None),
    ]


def test_bytes_that_are_not_utf8_are_windows_1252(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b"\xef\xbb\xbfid,text,labels\n1,\x93caf\xe9\x94 \xc3\xa9 \x81,joy\n2,\xc3\xa9,joy\n"
    )
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"id": 1, "text": "caf\xe9"}\n{"id": 2, "text": "\\u00e9 \\ud83d"}\n'
    )
    assert [(p["id"], p["text"], p["redecoded"]) for p in read(tmp_path / "a.csv")] == [
        ("1", "“café” é �", True),
        ("2", "é", False),
    ]
    assert [(p["id"], p["text"], p["redecoded"]) for p in read(tmp_path / "a.jsonl")] == [
        (1, "café", True),
        (2, "é ", False),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,text\n".encode("utf-16"), "UTF-16"),
        (b"", "empty"),
        (b"id,text\n", "empty"),
        (b"id,text,text\n1,2,3\n", "twice"),
        (b'id,text\n1,"x\n' + b"2,x\n" * 2000, "a.csv:2: a quoted field runs on"),
        (b"id,text\r1,x\r2,y\r", "old Mac"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        plan_chunks([source(str(tmp_path / "a.csv"))])


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        plan_chunks([source(str(tmp_path / "a.parquet"))])


def test_find_files(tmp_path):
    for name in ("b.csv", "a.JSONL", ".hidden.csv", "notes.txt", "sub/c.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [Path(each.removeprefix("file://")).name for each in find_files(str(tmp_path))]
    assert found == ["a.JSONL", "b.csv"]
    assert len(find_files(str(tmp_path / "**" / "*.parquet"))) == 1
    assert len(find_files(str(tmp_path / "b.csv"))) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "does not exist"), ("notes.txt", "holds no .jsonl"), ("sub", "subfolders"), ("*.csv", "holds no")],
)
def test_nothing_found(tmp_path, name, words):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=words):
        find_files(str(tmp_path / name))


def test_files_of_one_name_get_different_ids(tmp_path):
    for folder in ("train", "test"):
        write(tmp_path / folder / "posts.csv", [{"text": "x"}, {"text": "y"}])
    found = read(tmp_path / "train" / "posts.csv", tmp_path / "test" / "posts.csv")
    assert [post["id"] for post in found] == ["train/posts-1", "train/posts-2", "test/posts-1", "test/posts-2"]
    assert read(tmp_path / "train" / "posts.csv")[1]["id"] == "posts-2"


def test_columns(tmp_path):
    path = write(tmp_path / "posts.csv", [{"Key": "1", "Caption": "x"}])
    chunks = plan_chunks([source(str(path))])
    check_columns(Columns(text="Caption"), chunks)
    with pytest.raises(UserError, match=r"unknown column 'caption' \(--columns.text\); posts.csv has: Caption, Key"):
        check_columns(Columns(text="caption"), chunks)
    with pytest.raises(
        UserError, match=r"none of the columns 'text', 'image' and 'tags', but: Caption, Key.*--columns.text"
    ):
        check_columns(Columns(), chunks)
    assert read(path, columns=Columns(id="Key", text="Caption"))[0]["text"] == "x"


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def members_of(number: int) -> dict[str, bytes]:
    fields = {"tags": ["a", "b"], "labels": ["joy"], "split": "val"}
    return {
        f"shard/{number:04d}.jpg": b"picture" * number,
        f"shard/{number:04d}.txt": f"text {number}".encode(),
        f"shard/{number:04d}.json": json.dumps(fields).encode(),
    }


@pytest.mark.parametrize("rows_per_chunk", [1, 3, 100])
def test_webdataset_samples_are_posts(tmp_path, monkeypatch, rows_per_chunk):
    monkeypatch.setattr(raw, "ROWS_PER_CHUNK", rows_per_chunk)
    path = write_tar(tmp_path / "a.tar", {k: v for number in range(7) for k, v in members_of(number).items()})
    chunks = plan_chunks([source(str(path))])
    assert [chunk.num_rows for chunk in chunks] == {1: [1] * 7, 3: [3, 3, 1], 100: [7]}[rows_per_chunk]
    assert {"id", "text", "image", "tags", "labels", "split"} <= set(chunks[0].columns)
    found = [post for chunk in chunks for post in read_chunk(chunk, source(), Columns())]
    assert [post["id"] for post in found] == [f"shard/{number:04d}" for number in range(7)]
    assert [post["text"] for post in found] == [f"text {number}" for number in range(7)]
    assert [post["image"] for post in found] == [b"picture" * number for number in range(7)]
    assert [post["source"] for post in found] == [f"a.tar:{number}" for number in range(1, 8)]
    assert (found[0]["tags"], found[0]["labels"], found[0]["split"]) == (["a", "b"], ["joy"], "val")


def test_webdataset_samples_that_are_broken_are_rejects(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", {"a.json": b"{", "b.json": b"[1]", "c.txt": "é".encode("latin-1"), "d.cls": b"joy"}
    )
    assert [post["reject"] for post in read(path)] == ["not valid JSON", "not a JSON object", None, None]
    assert (read(path)[2]["text"], read(path)[2]["redecoded"], read(path)[3]["labels"]) == ("é", True, "joy")
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="tar is not a whole tar file"):
        plan_chunks([source(str(tmp_path / "b.tar"))])


def test_a_large_corpus_has_large_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MANY_BYTES", 100)
    monkeypatch.setattr(raw, "ROWS_PER_LARGE_CHUNK", 5)
    path = write(tmp_path / "a.jsonl", ROWS)
    assert [chunk.num_rows for chunk in plan_chunks([source(str(path))])] == [5, 2]


def test_columns_to_keep_come_along(tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"id": "1", "text": "x", "likes": 3, "who": {"a": 1}}, {"id": "2", "text": "y"}]
    )
    (chunk,) = plan_chunks([source(str(path))])
    kept = [post["kept"] for post in read_chunk(chunk, source(), Columns(), ("likes", "who"))]
    assert kept == [{"likes": 3, "who": {"a": 1}}, {"likes": None, "who": None}]


def test_images_are_read_from_the_corpus_folder_only(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "images").mkdir(parents=True)
    (corpus / "images" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    values = ["images/a.jpg", b"bytes", {"bytes": b"inner", "path": None}, None, "", 7]
    values += [
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "images\\..\\..\\secret.jpg",
        "file:///etc/passwd",
        "images/none.jpg",
        "images",
        "a\0b",
    ]
    *found, number, up, absolute, back, scheme, missing, folder, null = read_images(
        values, f"file://{corpus}", FetchLimits(), fetching=False
    )
    assert found == [b"picture", b"bytes", b"inner", None, None]
    assert "neither bytes nor a path" in str(number)
    assert all("out of the data file's folder" in str(each) for each in (up, absolute, back))
    assert "a URI, and --fetch-images is not given" in str(scheme)
    assert "not found" in str(missing)
    assert "cannot be read" in str(folder)
    assert "cannot be read" in str(null)


def test_prepared_posts_need_a_finished_folder(tmp_path):
    with pytest.raises(UserError, match="not a folder of prepared posts"):
        read_posts(str(tmp_path))
