"""Several corpora read as one: labels, what nobody could know, splits; and every way from votes to targets."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from corpora import prepare_files

from emo.config import PLUTCHIK, HeadConfig, PrepareConfig, UserError
from emo.encoded import encoded_posts
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.features import embed
from emo.posts import folded, posts_manifest, read_posts, target_shares, with_fold
from emo.prepare import prepare
from emo.reading import TextVariant
from emo.sources import find_sources
from emo.tables import read_folder
from emo.train import fit

pytestmark = pytest.mark.usefixtures("ray_session")


def write_rows(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_xed(folder: Path, num_rows: int = 40) -> str:
    folder.mkdir(parents=True)
    names = [str(number % 8 + 1) for number in range(num_rows)]
    lines = [f"sentence {number} of a film\t{name}" for number, name in enumerate(names)]
    (folder / "en-annotated.tsv").write_text("\n".join(lines) + "\n")
    (folder / "neu_en.txt").write_text("".join(f"9\tplain words {number}\n" for number in range(12)))
    return str(folder)


def mixed(tmp_path: Path, config: PrepareConfig) -> tuple[str, dict]:
    rows = [
        {"id": number, "text": f"a post, the {number}th", "labels": [["happiness"], ["sad", "love"], []][number % 3]}
        for number in range(30)
    ]
    data = [write_xed(tmp_path / "xed"), write_rows(tmp_path / "mine" / "posts.jsonl", rows)]
    sources = find_sources(data, config, str(tmp_path / "cache"))
    manifest, _ = prepare(sources, str(tmp_path / "set"), config, seed=0)
    return str(tmp_path / "set"), manifest


def test_labels_of_several_corpora_are_one_space(tmp_path):
    folder, manifest = mixed(tmp_path, PrepareConfig())
    assert manifest["labels"] == [*PLUTCHIK, "love"]
    assert [corpus["num_posts"] for corpus in manifest["corpora"]] == [52, 30]
    rows = {row["post_id"]: row for row in read_posts(folder).to_pylist()}
    nan = pytest.approx(np.nan, nan_ok=True)
    joy = PLUTCHIK.index("joy")
    assert rows["xed/en-annotated-1"]["targets"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, nan]
    assert rows["posts/0"]["targets"][joy] == 1
    # the other corpus uses joy, sadness and love; of the rest nobody knows
    assert rows["posts/1"]["targets"] == [nan, nan, nan, nan, 0, 1, nan, nan, nan, 1]
    train = manifest["splits"]["train"]
    assert train["known"][joy] == train["num_posts"]
    assert train["known"][-1] < train["num_posts"]


def test_each_corpus_is_in_every_split(tmp_path):
    folder, _ = mixed(tmp_path, PrepareConfig())
    rows = read_posts(folder, ["post_id", "split"]).to_pylist()
    assert {(row["post_id"].split("/")[0], row["split"]) for row in rows} == {
        (corpus, split) for corpus in ("xed", "posts") for split in ("train", "val", "test")
    }


def test_a_named_space_reads_synonyms_and_maps(tmp_path):
    config = PrepareConfig(labels="joy,sadness", label_map=("love=joy", *(f"{name}=" for name in PLUTCHIK[:4])))
    folder, manifest = mixed(tmp_path, config)
    assert manifest["labels"] == ["joy", "sadness"]
    rows = {row["post_id"]: row for row in read_posts(folder).to_pylist()}
    assert rows["posts/1"]["targets"] == [1, 1]
    assert rows["xed/en-annotated-1"]["targets"] == [0, 0]
    assert "xed/en-annotated-7" not in rows  # surprise is neither in the space nor left out
    assert manifest["reject_reasons"]["label outside the label space"] == 22


def test_the_same_place_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="twice"):
        find_sources([str(tmp_path), str(tmp_path)], PrepareConfig(), "nowhere")


def test_a_corpus_is_converted_once_for_its_content(tmp_path):
    folder = write_xed(tmp_path / "xed")
    first, again = (find_sources([folder], PrepareConfig(), str(tmp_path / "cache"))[0] for _ in range(2))
    assert first == again
    with (tmp_path / "xed" / "neu_en.txt").open("a") as file:
        file.write("9\tone more\n")
    changed = find_sources([folder], PrepareConfig(), str(tmp_path / "cache"))[0]
    assert changed.files != first.files
    assert len(list((tmp_path / "cache" / "corpora").iterdir())) == 2


def test_rejects_name_the_place_in_the_corpus(tmp_path):
    folder = write_xed(tmp_path / "xed")
    with (tmp_path / "xed" / "en-annotated.tsv").open("a") as file:
        file.write("what is this\t77\n")
    manifest = prepare_files(folder, tmp_path / "set", PrepareConfig())
    assert manifest["num_rejects"] == 1
    (row,) = read_folder(str(tmp_path / "set" / manifest["rejects"])).to_pylist()
    assert row["source"] == "en-annotated.tsv:41"


# Votes


def votes(tmp_path: Path, **choices) -> tuple[str, dict]:
    rows = [
        {"id": n, "text": f"{n} words", "votes": {"joy": n % 6, "fear": (n // 6) % 6}, "annotators": 5}
        for n in range(72)
    ]
    source = write_rows(tmp_path / "posts.jsonl", rows)
    config = PrepareConfig(labels="auto", **choices)
    return str(tmp_path / "set"), prepare_files(source, tmp_path / "set", config)


@pytest.mark.parametrize(
    ("choices", "least"),
    [
        ({"targets": "majority"}, 3),
        ({"targets": "any"}, 1),
        ({"label_threshold": 0.8}, 4),
        ({"targets": "soft", "label_threshold": 0.4}, 2),
    ],
)
def test_votes_become_labels(tmp_path, choices, least):
    folder, manifest = votes(tmp_path, **choices)
    positives = np.sum([split["positives"] for split in manifest["splits"].values()], axis=0)
    assert positives.tolist() == [12 * (6 - least), 12 * (6 - least)]
    shares = target_shares(read_posts(folder, ["targets"]))
    np.testing.assert_allclose(np.unique(shares), [0, 0.2, 0.4, 0.6, 0.8, 1], atol=1e-6)
    # two of five annotators drawn at random disagree: 2 k (5 - k) / 20 for k votes
    expected = np.mean([2 * k * (5 - k) / 20 for k in range(6)])
    assert manifest["disagreement"] == pytest.approx([expected, expected])


@pytest.mark.parametrize("targets", ["threshold", "soft", "draw"])
def test_what_training_aims_at(tmp_path, targets):
    folder, _ = votes(tmp_path, targets=targets)
    branch = Branch(modality="text", family="bert", checkpoint=str(write_checkpoint("bert", tmp_path / "bert")))
    features = embed(folder, resolve(branch), str(tmp_path / "cache"), text=TextVariant("append"))
    data = encoded_posts(folder, [features])
    training = data.for_training()
    assert training.trains_on == targets
    np.testing.assert_array_equal(training.train_shares >= 0.5 - 1e-6, training.train_targets)
    assert len(np.unique(training.train_shares)) == 6
    assert fit(training, HeadConfig(max_epochs=2)).history[-1]["train_loss"] > 0


# Folds


def test_folds_deal_every_labelled_post_once(tmp_path):
    folder, manifest = votes(tmp_path, folds=4, fold_repeats=2)
    table = read_posts(folder, ["post_id", "split", "fold"])
    tested: list[list[str]] = [[], []]
    for repeat, number in itertools.product(range(2), range(4)):
        sizes = [fold["num_posts"] for fold in manifest["folds"]][4 * repeat : 4 * repeat + 4]
        assert sum(sizes) == 72
        assert max(sizes) - min(sizes) <= 6
        fold, next_one = 4 * repeat + number, (number + 1) % 4
        dealt = with_fold(table, manifest, fold).to_pylist()
        assert {row["split"] for row in dealt if row["fold"][repeat] == number} == {"test"}
        assert {row["split"] for row in dealt if row["fold"][repeat] == next_one} == {"val"}
        tested[repeat] += [row["post_id"] for row in dealt if row["split"] == "test"]
        counts = folded(posts_manifest(folder), fold)["splits"]
        assert [counts[name]["num_posts"] for name in ("val", "test")] == [sizes[next_one], sizes[number]]
        assert sum(counts[name]["num_posts"] for name in ("train", "val", "test")) == 72
        assert counts["test"]["positives"] == manifest["folds"][fold]["positives"]
    assert sorted(tested[0]) == sorted(tested[1]) == sorted(table["post_id"].to_pylist())
    assert tested[0] != tested[1]
    assert len(set(tested[0])) == 72


@pytest.mark.parametrize("fold", [-1, 8])
def test_a_fold_that_is_not_there_is_refused(tmp_path, fold):
    folder, _ = votes(tmp_path, folds=4, fold_repeats=2)
    with pytest.raises(UserError, match="has folds 0 to 7"):
        folded(posts_manifest(folder), fold)
