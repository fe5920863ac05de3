"""Bundles: a model comes back as it was, from any place, without pickles."""

import dataclasses
import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from checkpoints import MAX_TOKENS, WIDTH, write_checkpoint
from safetensors.torch import save

from emo import storage
from emo.bundle import Bundle, load_bundle, load_classifier, load_model, save_bundle
from emo.calibration import Calibrator
from emo.config import Columns, HeadConfig, LoraConfig, PrepareConfig, TrainingConfig, UserError
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.encoders.load import load_encoder
from emo.finetune import assemble, trained_state
from emo.models import FeatureSpec, FusionClassifier, Projection
from emo.predict import prediction_table
from emo.train import build_model, predict_probs

LABELS = ("joy", "fear", "anger")
HUB = Branch(modality="image", family="vit", checkpoint="google/vit", revision="abc123")
TEXTS = ["so happy", "the train never ends " * MAX_TOKENS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("clip", tmp_path_factory.mktemp("clip"))


def trained(branches: tuple[Branch, ...], num_layers: int = 2) -> tuple[Bundle, FusionClassifier]:
    """A bundle of the given branches, and its classifier with random weights."""
    rng = np.random.default_rng(0)
    projection = Projection(
        weight=rng.normal(size=(5, 8)).astype(np.float32), bias=rng.normal(size=5).astype(np.float32)
    )
    of = {"text": FeatureSpec(8, projection), "image": FeatureSpec(4)}
    specs = {branch.modality: of[branch.modality] for branch in branches}
    head = HeadConfig(mode="partial", num_layers=num_layers, hidden=16, seed=3)
    bundle = Bundle(
        labels=LABELS,
        thresholds=np.array([0.25, 2.0, 1 / 3]),
        head=head,
        branches=branches,
        specs=specs,
        lora=LoraConfig(rank=2),
        prepare=PrepareConfig(labels="joy,fear,anger", columns=Columns(id="key"), image_size=64),
        tags="ignore",
        captions=None,
        about={"encoder": "clip", "trial_id": "t1"},
        weights="",
    )
    return bundle, build_model(specs, len(LABELS), head)


def saved(folder: Path | str, *branches: Branch) -> tuple[Bundle, FusionClassifier]:
    bundle, model = trained(branches)
    weights = f"{folder}-weights.safetensors"
    storage.write_bytes(weights, save(model.state_dict()))
    save_bundle(str(folder), dataclasses.replace(bundle, weights=weights))
    return bundle, model


def local_branches(checkpoint: Path) -> list[Branch]:
    found = [Branch(modality=m, family="clip", checkpoint=str(checkpoint)) for m in ("text", "image")]
    return [resolve(branch) for branch in found]


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_model_comes_back_as_it_was(place, tmp_path):
    folder = str(tmp_path / "model") if place == "local" else "memory://bundle/model"
    text = Branch(modality="text", family="bert", checkpoint="org/bert", revision="def456")
    bundle, model = saved(folder, text, HUB)
    loaded = load_bundle(folder)
    again = load_classifier(loaded)
    packed = np.random.default_rng(1).normal(size=(7, 14)).astype(np.float32)
    np.testing.assert_array_equal(predict_probs(again, packed), predict_probs(model, packed))
    assert not again.training
    np.testing.assert_array_equal(loaded.thresholds, bundle.thresholds)
    for field in dataclasses.fields(Bundle):
        if field.name not in ("thresholds", "specs", "weights", "fingerprint"):
            assert getattr(loaded, field.name) == getattr(bundle, field.name), field.name
    fsspec.filesystem("memory").store.clear()


CURVE = np.array([[0.0, 0.3, 0.3001, 1.0], [0.1, 0.1, 0.6, 0.8]])


@pytest.mark.parametrize("calibrator", [Calibrator(temperature=2.0), Calibrator(curves=(CURVE,) * 3)])
def test_calibrated_probs_are_written_and_labels_decided_before(calibrator, tmp_path):
    bundle, model = trained((HUB,))
    weights = str(tmp_path / "weights.safetensors")
    storage.write_bytes(weights, save(model.state_dict()))
    save_bundle(str(tmp_path / "model"), dataclasses.replace(bundle, weights=weights, calibrator=calibrator))
    loaded = load_bundle(str(tmp_path / "model"))
    raw = np.random.default_rng(0).random((20, 3)).astype(np.float32)
    posts = pa.table({"post_id": [str(row) for row in range(20)]})
    before, after = (prediction_table(posts, raw, each) for each in (bundle, loaded))
    assert after["labels"] == before["labels"]
    written = np.stack([after[f"prob/{label}"].to_numpy() for label in LABELS], axis=1)
    np.testing.assert_allclose(written, calibrator.apply(raw))
    assert (written != raw).all()
    content = json.loads((tmp_path / "model" / "bundle.json").read_text())
    np.testing.assert_array_equal(list(content["thresholds"].values()), bundle.thresholds)
    shown = np.array(list(content["calibrated_thresholds"].values()))
    np.testing.assert_array_equal(shown, calibrator.thresholds(bundle.thresholds))
    assert (shown != bundle.thresholds).tolist() == [True, False, True]  # the second label is never predicted


def test_a_bundle_of_an_older_emo_has_raw_probs(tmp_path):
    saved(tmp_path, HUB)
    content = json.loads((tmp_path / "bundle.json").read_text())
    del content["probabilities"], content["calibrated_thresholds"]
    (tmp_path / "bundle.json").write_text(json.dumps(content | {"format": 3}))
    assert load_bundle(str(tmp_path)).calibrator.kind == "raw"


def test_a_moved_bundle_brings_its_checkpoint_along(checkpoint, tmp_path):
    own = shutil.copytree(checkpoint, tmp_path / "own")
    saved(tmp_path / "model", *local_branches(own))
    expected = load_encoder(local_branches(own)[0]).encode(TEXTS)
    shutil.rmtree(own)
    shutil.move(tmp_path / "model", tmp_path / "moved")
    loaded = load_bundle(str(tmp_path / "moved"))
    assert {Path(branch.checkpoint).parent for branch in loaded.branches} == {tmp_path / "moved" / "encoders"}
    np.testing.assert_array_equal(load_encoder(loaded.branches[0]).encode(TEXTS), expected)
    assert load_encoder(loaded.branches[1]).branch.modality == "image"


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_trained_encoders_come_back_and_need_nothing_else(mode, checkpoint, tmp_path):
    own = shutil.copytree(checkpoint, tmp_path / "own")
    branches = local_branches(own)
    head = HeadConfig(mode=mode, hidden=16)
    encoders, model = assemble(branches, len(LABELS), head, TrainingConfig(lora=LoraConfig(rank=2)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    model.eval()
    expected = encoders[0].encode(TEXTS)
    weights = str(tmp_path / "weights.safetensors")
    storage.write_bytes(weights, save(trained_state(model, mode)))
    bundle = dataclasses.replace(trained(tuple(branches))[0], head=head, specs={}, weights=weights)
    save_bundle(str(tmp_path / "model"), bundle)
    shutil.rmtree(own)
    (tmp_path / "weights.safetensors").unlink()
    again, classifier = load_model(load_bundle(str(tmp_path / "model")))
    np.testing.assert_allclose(again[0].encode(TEXTS), expected, rtol=1e-5, atol=1e-6)
    packed = np.random.default_rng(1).normal(size=(3, 2 * WIDTH + 2)).astype(np.float32)
    np.testing.assert_array_equal(predict_probs(classifier, packed), predict_probs(model.classifier, packed))
    if mode == "full":
        carried = [path for path in (tmp_path / "model" / "encoders").rglob("*") if path.is_file()]
        assert carried
        assert not [path for path in carried if path.suffix == ".safetensors"]


def test_code_that_came_with_an_encoder_is_trusted_anew(tmp_path):
    branch = dataclasses.replace(HUB, family="jina-clip", remote_code="abc123")
    saved(tmp_path / "model", branch)
    assert load_bundle(str(tmp_path / "model")).branches[0].remote_code is None
    assert load_bundle(str(tmp_path / "model"), trust_remote_code=True).branches == (branch,)


def test_a_bundle_on_another_store_has_its_checkpoint_fetched(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved("memory://bundle/model", *local_branches(checkpoint))
    for _ in range(2):
        loaded = load_bundle("memory://bundle/model")
        branch = loaded.branches[0]
        assert branch.checkpoint.startswith("memory://bundle/model/encoders/")
        assert load_encoder(branch).encode(TEXTS).shape[0] == len(TEXTS)
    (copy,) = (tmp_path / ".cache" / "emo" / "copies").iterdir()
    assert {file.name for file in copy.iterdir()} == {file.name for file in checkpoint.iterdir()}
    fsspec.filesystem("memory").store.clear()


def test_a_bundle_names_its_checkpoint_relative_to_itself(checkpoint, tmp_path):
    branches = local_branches(checkpoint)
    saved(tmp_path / "model", *branches)
    content = json.loads((tmp_path / "model" / "bundle.json").read_text())
    assert [branch["checkpoint"] for branch in content["branches"]] == [f"encoders/clip-{branches[0].revision}"] * 2
    assert str(tmp_path) not in (tmp_path / "model" / "bundle.json").read_text()
    assert len(list((tmp_path / "model" / "encoders").iterdir())) == 1


def test_a_bundle_names_hub_checkpoints_by_commit(tmp_path):
    saved(tmp_path, HUB)
    assert load_bundle(str(tmp_path)).branches == (HUB,)
    assert not (tmp_path / "encoders").exists()


def test_there_is_no_pickle_in_a_bundle(checkpoint, tmp_path):
    own = shutil.copytree(checkpoint, tmp_path / "own")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (own / name).write_bytes(b"\x80\x04.")
    saved(tmp_path / "model", *local_branches(own))
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".jinja", ".model"}
    assert {path.name for path in files} > {"bundle.json", "model.safetensors", "config.json"}


def test_what_a_killed_writer_left_is_written_over(checkpoint, tmp_path):
    branches = local_branches(checkpoint)
    half = tmp_path / "encoders" / f"clip-{branches[0].revision}"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    saved(tmp_path, *branches)
    for file in checkpoint.iterdir():
        assert (half / file.name).read_bytes() == file.read_bytes()


def test_bundle_json_comes_last(tmp_path, monkeypatch):
    def fail(uri, value):
        raise OSError("killed")

    monkeypatch.setattr(storage, "write_json", fail)
    with pytest.raises(OSError, match="killed"):
        saved(tmp_path, HUB)
    assert (tmp_path / "model.safetensors").exists()
    with pytest.raises(UserError, match=r"holds no bundle\.json"):
        load_bundle(str(tmp_path))


def test_a_newer_format_is_refused(tmp_path):
    saved(tmp_path, HUB)
    content = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(content | {"format": content["format"] + 1, "emo": "9.9"}))
    with pytest.raises(UserError, match=r"was written by a newer emo \(9\.9; this is .*\); update emo\.$"):
        load_bundle(str(tmp_path))


@pytest.mark.parametrize("folder", ["", "nowhere", "empty"])
def test_a_folder_without_a_bundle(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--model .* holds no bundle\.json; name the model/ folder"):
        load_bundle(folder)
