"""Encoders: names on the command line, and features that are transformers' own."""

import contextlib
import io
import itertools
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import MAX_TOKENS, PROJECTED, WIDTH, picture, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertModel,
    Blip2ForImageTextRetrieval,
    CLIPModel,
    SiglipModel,
    ViTModel,
)

from emo.config import MODALITIES, UserError
from emo.encoders import BASE, FAMILIES, PRESETS, REMOTE_CODE, SCRATCH, Branch, EncoderSpec, parse_encoder
from emo.encoders.base import Encoder
from emo.encoders.hub import resolve
from emo.encoders.load import load_encoder, load_reader, save_untrained
from emo.encoders.pretrained import KINDS
from emo.encoders.readers import open_image

TEXTS = ["so happy today!", "rain", "the train is late . the train never ends", ""]
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = [picture(0), picture(1, (64, 40), "JPEG"), picture(2, (20, 30))]
PRETRAINED = [family for family in FAMILIES if family not in SCRATCH]
BRANCHES = [(family, modality) for family in PRETRAINED for modality in FAMILIES[family]]
TEXT_FAMILIES = [family for family, modality in BRANCHES if modality == "text"]
LIMITED_FAMILIES = [family for family in TEXT_FAMILIES if family != "jina-clip"]
"""Families whose models have a limit of their own; Jina CLIP's is far above what is tested here."""
IMAGE_FAMILIES = [family for family, modality in BRANCHES if modality == "image"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_checkpoint(family, tmp_path_factory.mktemp(family)) for family in PRETRAINED}


def branch_of(folder: Path, family: str, modality: str) -> Branch:
    remote_code = "read" if family in REMOTE_CODE else None
    return Branch(modality=modality, family=family, checkpoint=str(folder), remote_code=remote_code)


def encoder(folders: dict[str, Path], family: str, modality: str) -> Encoder:
    return load_encoder(resolve(branch_of(folders[family], family, modality)))


def values(modality: str) -> list:
    return TEXTS if modality == "text" else IMAGES


def tokens(folder: Path, padding: str = "longest") -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(TEXTS, padding=padding, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")


def pixels(folder: Path) -> torch.Tensor:
    opened = [Image.open(io.BytesIO(image)).convert("RGB") for image in IMAGES]
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(images=opened, return_tensors="pt")["pixel_values"]


def project(reader: Encoder, features: np.ndarray) -> np.ndarray:
    """Features in the space that the checkpoint's own modalities share."""
    projection = reader.projection
    return features @ projection.weight.T + (0 if projection.bias is None else projection.bias)


def close(features: np.ndarray, expected: torch.Tensor) -> None:
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


# What is named


def preset(modality: str, name: str) -> tuple[str, str, str]:
    return modality, PRESETS[name].family, PRESETS[name].checkpoint


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ("clip-base", [preset("text", "clip-base"), preset("image", "clip-base")]),
        ("clip", [preset("text", "clip-base"), preset("image", "clip-base")]),
        ("bert", [preset("text", "bert-base")]),
        ("vit-base", [preset("image", "vit-base")]),
        ("siglip:image", [preset("image", "siglip-base")]),
        ("siglip2:text", [preset("text", "siglip2-base")]),
        ("clip-large:text", [preset("text", "clip-large")]),
        ("bert-base+vit-base", [preset("text", "bert-base"), preset("image", "vit-base")]),
        ("bert+vit", [preset("text", "bert-base"), preset("image", "vit-base")]),
        ("vit+bert", [preset("text", "bert-base"), preset("image", "vit-base")]),
        ("bert+clip-base", [preset("text", "bert-base"), preset("image", "clip-base")]),
        ("clip+bert", [preset("text", "bert-base"), preset("image", "clip-base")]),
        ("clip-base+siglip-base", [preset("text", "clip-base"), preset("image", "siglip-base")]),
        ("clip:text+vit", [preset("text", "clip-base"), preset("image", "vit-base")]),
        ("clip-base:image+siglip", [preset("text", "siglip-base"), preset("image", "clip-base")]),
        ("clip-base+tags", [preset("text", "clip-base"), preset("image", "clip-base"), preset("tags", "tags")]),
        ("clip-base+tags:tags", [preset("text", "clip-base"), preset("image", "clip-base"), preset("tags", "tags")]),
        ("tags", [preset("tags", "tags")]),
        ("textcnn+cnn+tags", [preset("text", "textcnn"), preset("image", "cnn"), preset("tags", "tags")]),
        (
            "tags+clip+siglip:/p",
            [preset("text", "clip-base"), ("image", "siglip", "/p"), preset("tags", "tags")],
        ),
        ("bert:some/model", [("text", "bert", "some/model")]),
        ("clip:/a/path", [("text", "clip", "/a/path"), ("image", "clip", "/a/path")]),
        ("clip:/a/path:text", [("text", "clip", "/a/path")]),
        ("clip:/a/path+vit", [("text", "clip", "/a/path"), preset("image", "vit-base")]),
        ("bert:/a/path+vit:some/model", [("text", "bert", "/a/path"), ("image", "vit", "some/model")]),
        ("clip:s3://bucket/clip:image", [("image", "clip", "s3://bucket/clip")]),
        ("tiny-clip:image", [("image", "clip", "tiny-clip")]),
    ],
)
def test_every_form_of_a_name(name, branches):
    has_tags = any(modality == "tags" for modality, *_ in branches)
    expected = tuple(Branch(m, *of, ignores_tags=has_tags and m == "text") for m, *of in branches)
    assert parse_encoder(name) == EncoderSpec(name=name, branches=expected)
    assert parse_encoder(name).modalities == tuple(m for m, _, _ in branches)


@pytest.mark.parametrize(
    "name",
    ["nope", "", "clip:", "gpt:some/model", "nope:text", "nope+vit", "bert+", "+", "+bert", "a+b+c", "textcnn:/path"],
)
def test_an_unknown_name_is_answered_with_those_there_are(name):
    with pytest.raises(UserError, match=r"is no encoder; give one of clip-base, .*family:path-or-hub-id") as caught:
        parse_encoder(name)
    assert str(caught.value).startswith(f"--encoders {name}: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bert:image", "bert has no image branch; it reads text."),
        ("vit-base:text", "vit-base has no text branch; it reads image."),
        ("clip:tags", "clip has no tags branch; it reads text and image."),
        ("bert:/p+bert:/p", "bert:/p and bert:/p both give text."),
        ("bert+clip:text", "bert and clip both give text."),
        ("tags+clip+tags", "tags and tags both give tags."),
        ("bert+clip+siglip", "bert and clip both give text."),
        ("clip+clip", "clip stands there twice; once gives text and image."),
        ("bert+vit+clip", "nothing is left for clip to read; leave it out."),
        ("clip+siglip+siglip2", "say which gives what, as in clip:text+siglip:image."),
    ],
)
def test_what_parts_cannot_give(name, sentence):
    with pytest.raises(UserError) as caught:
        parse_encoder(name)
    assert str(caught.value) == f"--encoders {name}: {sentence}"


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_name_is_parsed_or_refused(name):
    with contextlib.suppress(UserError):
        spec = parse_encoder(name)
        assert spec.branches
        assert spec.name == name


def test_a_revision_is_for_hub_checkpoints():
    assert {branch.revision for branch in parse_encoder("clip-base", "abc").branches} == {"abc"}
    assert {branch.revision for branch in parse_encoder("tiny-clip+tags", "abc").branches} == {None}


def test_code_of_a_checkpoint_is_allowed_by_name():
    with pytest.raises(UserError, match=r"jina-clip is Python code .* --trust-remote-code .* --revision \(a commit\)"):
        parse_encoder("jina-clip")
    with pytest.raises(UserError, match="runs with your rights"):
        parse_encoder("bert+jina-clip:/a/folder", "abc")
    assert {branch.remote_code for branch in parse_encoder("jina-clip", "abc", "def").branches} == {"def"}
    assert [branch.remote_code for branch in parse_encoder("bert+jina-clip", "abc", "def").branches] == [None, "def"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets_is_consistent(name):
    family, checkpoint = PRESETS[name].family, PRESETS[name].checkpoint
    branches = parse_encoder(name, "a", "b").branches
    assert set(FAMILIES[family]) <= set(MODALITIES)
    assert tuple(branch.modality for branch in branches) == FAMILIES[family]
    assert branches[0].is_built == (name.startswith("tiny-") or family in SCRATCH)
    assert checkpoint == name or checkpoint.count("/") == 1


def test_every_branch_can_be_loaded_and_pooled():
    assert set(KINDS) == {(family, modality) for family, modality in BRANCHES if family not in REMOTE_CODE}
    assert set(BASE) | set(PRESETS) >= set(FAMILIES)
    assert all(PRESETS[name].family == family for family, name in BASE.items())


# Where it comes from


def test_a_folder_counts_by_what_is_in_it(folders, tmp_path):
    def revision(folder):
        return resolve(Branch(modality="text", family="clip", checkpoint=str(folder))).revision

    moved = shutil.copytree(folders["clip"], tmp_path / "elsewhere")
    assert revision(moved) == revision(folders["clip"])
    config = moved / "config.json"
    config.write_text(config.read_text().replace(" ", "\t", 1))
    changed = revision(moved)
    assert changed != revision(folders["clip"])
    config.rename(moved / "other.json")
    assert revision(moved) != changed


def test_a_folder_is_written_down_in_full(folders, monkeypatch):
    monkeypatch.chdir(folders["clip"].parent)
    branch = resolve(Branch(modality="text", family="clip", checkpoint=folders["clip"].name))
    assert branch.checkpoint == str(folders["clip"])


@pytest.mark.parametrize("load", [resolve, load_reader, load_encoder])
@pytest.mark.parametrize("family", PRETRAINED)
def test_a_checkpoint_out_of_reach(load, family):
    branch = branch_of(Path("nobody/has-this"), family, FAMILIES[family][0])
    with pytest.raises(UserError, match=r"checkpoint nobody/has-this is neither in .* cache nor could it be fetched"):
        load(branch)


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_a_folder_without_a_checkpoint(family, modality, tmp_path):
    with pytest.raises(UserError, match=rf"folder {tmp_path} holds no readable {family} checkpoint"):
        load_encoder(branch_of(tmp_path, family, modality))


@pytest.mark.parametrize(
    ("modality", "file", "content"),
    [
        ("text", "config.json", "{"),
        ("text", "model.safetensors", "cut"),
        ("text", "tokenizer.json", "{"),
        ("text", "tokenizer.json", None),
        ("image", "model.safetensors", None),
        ("image", "preprocessor_config.json", "{"),
        ("image", "preprocessor_config.json", None),
    ],
)
def test_a_damaged_folder(modality, file, content, folders, tmp_path):
    broken = shutil.copytree(folders["clip"], tmp_path / "broken")
    (broken / file).unlink() if content is None else (broken / file).write_text(content)
    with pytest.raises(UserError, match=r"broken holds no readable clip checkpoint: ."):
        load_encoder(branch_of(broken, "clip", modality))


@pytest.mark.parametrize(
    ("family", "other", "modality"),
    [("bert", "clip", "text"), ("clip", "bert", "text"), ("clip", "siglip", "image"), ("vit", "clip", "image")],
)
def test_weights_are_never_made_up(family, other, modality, folders):
    with pytest.raises(UserError, match=r"weights are missing or of another size; is it of another family\?"):
        load_encoder(branch_of(folders[other], family, modality))


def test_a_folder_with_pickled_weights_alone_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "pickled")
    torch.save(BertModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled holds no readable bert checkpoint: .*model\.safetensors"):
        load_encoder(branch_of(folder, "bert", "text"))


# What is read


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_features_have_the_width_that_is_told(family, modality, folders):
    reader = encoder(folders, family, modality)
    features = reader.encode(values(modality))
    assert reader.tower.width == WIDTH
    assert features.shape == (len(values(modality)), WIDTH)
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0.1


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_features_of_all_layers_end_with_the_last(family, modality, folders):
    reader = encoder(folders, family, modality)
    layers = reader.encode(values(modality), layers=True)
    assert layers.dtype == np.float16
    assert reader.tower.num_layers == (1 if family == "jina-clip" else 3)
    assert layers.shape == (len(values(modality)), reader.tower.num_layers * WIDTH)
    parts = np.split(layers.astype(np.float32), reader.tower.num_layers, axis=1)
    np.testing.assert_allclose(parts[-1], reader.encode(values(modality)), rtol=2e-3, atol=2e-3)
    assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.pairwise(parts))


def test_lower_layers_are_pooled_like_the_last(folders):
    """By the states of transformers' own models: what stands where CLIP's text ends, and SigLIP's patches."""
    reader, model = encoder(folders, "clip", "text"), CLIPModel.from_pretrained(folders["clip"]).eval()
    inputs = tokens(folders["clip"])
    states = model.text_model(**inputs, output_hidden_states=True).hidden_states
    ends = inputs["attention_mask"].sum(dim=1) - 1
    first, second = (layer[torch.arange(len(TEXTS)), ends] for layer in states[:2])
    found = np.split(reader.encode(TEXTS, layers=True).astype(np.float32), 3, axis=1)
    np.testing.assert_allclose(found[0], first.detach(), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found[1], second.detach(), rtol=2e-3, atol=2e-3)
    reader, model = encoder(folders, "siglip", "image"), SiglipModel.from_pretrained(folders["siglip"]).eval()
    seen = model.vision_model(pixel_values=pixels(folders["siglip"]), output_hidden_states=True).hidden_states[1]
    found = np.split(reader.encode(IMAGES, layers=True).astype(np.float32), 3, axis=1)
    np.testing.assert_allclose(found[1], seen.mean(dim=1).detach(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_every_weight_of_a_tower_is_trained(family, modality, folders):
    """With and without gradient checkpointing, which changes no gradient; a weight left out stops several workers."""
    tower = encoder(folders, family, modality).tower
    inputs = load_reader(branch_of(folders[family], family, modality))(values(modality))
    found = []
    for _ in range(2):
        tower.zero_grad()
        tower(inputs).square().sum().backward()
        found.append([parameter.grad for parameter in tower.parameters() if parameter.requires_grad])
        tower.train()  # nothing drops out here
        tower.enable_gradient_checkpointing()
    assert all(gradient is not None for gradient in found[0])
    if not any(isinstance(module, torch.nn.Dropout) and module.p for module in tower.modules()):
        for first, second in zip(*found, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_adapters_find_their_places(family, modality, folders):
    tower = encoder(folders, family, modality).tower
    for target in tower.lora_targets:
        places = [m for name, m in tower.named_modules() if name.endswith(f".{target}")]
        assert places
        assert all(isinstance(module, torch.nn.Linear) for module in places)
    assert bool(tower.lora_targets) == (family != "jina-clip")


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_a_branch_is_built_again_from_all_but_its_weights(family, modality, folders, tmp_path):
    whole = encoder(folders, family, modality)
    for each in FAMILIES[family]:  # both branches share the folder
        save_untrained(branch_of(folders[family], family, each), str(tmp_path))
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".safetensors", ".bin")]
    for each in FAMILIES[family]:  # one process loads both
        load_encoder(branch_of(tmp_path, family, each), with_weights=False)
    empty = load_encoder(branch_of(tmp_path, family, modality), with_weights=False)
    empty.tower.load_state_dict(whole.tower.state_dict())
    np.testing.assert_array_equal(empty.encode(values(modality)), whole.encode(values(modality)))
    if whole.projection is not None:
        assert empty.projection.weight.shape == whole.projection.weight.shape


def test_a_checkpoint_in_half_precision_is_read_in_full(folders, tmp_path):
    CLIPModel.from_pretrained(folders["clip"]).half().save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folders["clip"], backend="pil").save_pretrained(tmp_path)
    tower = load_encoder(branch_of(tmp_path, "clip", "image")).tower
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}


def test_clip_text_is_pooled_before_its_projection(folders):
    reader, model = encoder(folders, "clip", "text"), CLIPModel.from_pretrained(folders["clip"]).eval()
    inputs, features = tokens(folders["clip"]), reader.encode(TEXTS)
    close(features, model.text_model(**inputs).pooler_output)
    assert reader.projection.weight.shape == (PROJECTED, WIDTH)
    close(project(reader, features), model.get_text_features(**inputs).pooler_output)


def test_clip_image_is_pooled_before_its_projection(folders):
    reader, model = encoder(folders, "clip", "image"), CLIPModel.from_pretrained(folders["clip"]).eval()
    inputs, features = pixels(folders["clip"]), reader.encode(IMAGES)
    close(features, model.vision_model(pixel_values=inputs).pooler_output)
    close(project(reader, features), model.get_image_features(pixel_values=inputs).pooler_output)


def test_siglip_text_is_its_last_token_before_its_head(folders):
    reader, model = encoder(folders, "siglip", "text"), SiglipModel.from_pretrained(folders["siglip"]).eval()
    ids, features = tokens(folders["siglip"], "max_length")["input_ids"], reader.encode(TEXTS)
    outputs = model.text_model(input_ids=ids)
    close(features, outputs.last_hidden_state[:, -1])
    assert reader.projection.bias is not None
    close(project(reader, features), outputs.pooler_output)
    close(project(reader, features), model.get_text_features(input_ids=ids).pooler_output)


def test_siglip_image_is_pooled_by_attention_and_has_no_projection(folders):
    reader, model = encoder(folders, "siglip", "image"), SiglipModel.from_pretrained(folders["siglip"]).eval()
    inputs = pixels(folders["siglip"])
    close(reader.encode(IMAGES), model.vision_model(pixel_values=inputs).pooler_output)
    assert reader.projection is None


def test_bert_is_the_mean_over_its_tokens(folders):
    reader, model = encoder(folders, "bert", "text"), BertModel.from_pretrained(folders["bert"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in TEXTS]
    close(reader.encode(TEXTS), torch.stack(alone))
    assert reader.projection is None


def test_blip2_is_what_its_queries_see_and_its_first_token(folders):
    model = Blip2ForImageTextRetrieval.from_pretrained(folders["blip2"]).eval()
    reader, inputs = encoder(folders, "blip2", "text"), tokens(folders["blip2"])
    states = model.qformer(model.embeddings(input_ids=inputs["input_ids"]), 0, inputs["attention_mask"])
    close(reader.encode(TEXTS), states.last_hidden_state[:, 0])
    matched = model(
        pixels(folders["blip2"]),
        inputs["input_ids"][:3],
        inputs["attention_mask"][:3],
        use_image_text_matching_head=False,
    )
    projected = torch.from_numpy(project(reader, reader.encode(TEXTS[:3])))
    close(torch.nn.functional.normalize(projected, dim=1).numpy(), matched.text_embeds)
    reader = encoder(folders, "blip2", "image")
    seen = model.vision_model(pixels(folders["blip2"])).last_hidden_state
    queries = model.qformer(model.query_tokens.expand(3, -1, -1), encoder_hidden_states=seen).last_hidden_state
    close(reader.encode(IMAGES), queries.mean(dim=1))
    close(project(reader, reader.encode(IMAGES)), model.vision_projection(queries).mean(dim=1))


def test_siglip2_reads_lower_case_to_its_full_length(folders):
    reader = encoder(folders, "siglip2", "text")
    ids = reader.reader(["rain", "RAIN"])["input_ids"]
    assert ids.shape == (2, MAX_TOKENS)
    assert ids[0].tolist() == ids[1].tolist()
    assert ids[0, -1] == reader.reader.tokenizer.pad_token_id
    model = SiglipModel.from_pretrained(folders["siglip2"]).eval()
    close(project(reader, reader.encode(["Rain"])), model.get_text_features(input_ids=ids[:1]).pooler_output)


def test_jina_clip_is_what_its_own_code_makes_of_it(folders):
    text, image = encoder(folders, "jina-clip", "text"), encoder(folders, "jina-clip", "image")
    weights = load_file(folders["jina-clip"] / "model.safetensors")
    alone = AutoTokenizer.from_pretrained(folders["jina-clip"])(TEXTS[1], return_tensors="pt")["input_ids"][0]
    close(text.encode(TEXTS[1:2])[0], weights["text_model.weight"][alone].mean(dim=0))
    square = np.array(Image.open(io.BytesIO(picture(5, (32, 32)))), np.float32).transpose(2, 0, 1) / 255
    wanted = (torch.from_numpy(square) - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.3, 0.2, 0.1])[
        :, None, None
    ]
    conv = torch.nn.functional.conv2d(wanted[None], weights["vision_model.weight"], weights["vision_model.bias"], 8)
    close(image.encode([picture(5, (32, 32))]), conv.mean(dim=(2, 3)))
    assert text.projection is None
    assert {name.split(".")[1] for name, _ in text.tower.named_parameters()} == {"logit_scale", "text_model"}


def test_code_in_a_folder_does_not_run_unless_allowed(folders, tmp_path):
    folder = shutil.copytree(folders["jina-clip"], tmp_path / "jina")
    (folder / "modeling_clip.py").write_text("raise SystemExit('it ran')")
    branch = Branch("text", "jina-clip", str(folder))
    assert resolve(branch).revision
    with pytest.raises(UserError, match=r"jina is Python code .* allow it with --trust-remote-code\."):
        load_encoder(branch)
    shutil.copy(folder / "modeling_clip.py", tmp_path / "modeling_clip.py")
    clip = shutil.copytree(folders["clip"], tmp_path / "clip")
    config = json.loads((clip / "config.json").read_text())
    (clip / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_clip.Model"}}))
    shutil.copy(folder / "modeling_clip.py", clip)
    assert load_encoder(branch_of(clip, "clip", "text")).tower.width == WIDTH  # by transformers' own class


def test_vit_is_its_class_token(folders):
    reader, model = encoder(folders, "vit", "image"), ViTModel.from_pretrained(folders["vit"]).eval()
    close(reader.encode(IMAGES), model(pixel_values=pixels(folders["vit"])).last_hidden_state[:, 0])
    assert reader.projection is None


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_texts_features_do_not_depend_on_its_batch(family, folders):
    reader = encoder(folders, family, "text")
    alone = np.concatenate([reader.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(reader.encode(TEXTS), alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_the_tower_sees_what_the_image_processor_would_hand_over(family, folders):
    reader = encoder(folders, family, "image")
    inputs = reader.reader(IMAGES)["pixel_values"]
    assert inputs.dtype == torch.uint8
    wanted = reader.reader.processor([open_image(image) for image in IMAGES], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(reader.tower.normalise(inputs), wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [{"do_rescale": False, "do_normalize": False}, {"do_normalize": False}])
def test_an_image_processor_may_leave_steps_out(steps, folders, tmp_path):
    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(config | steps))
    test_the_tower_sees_what_the_image_processor_would_hand_over("vit", {"vit": folder})


def test_augmented_images_are_turned_and_mirrored_by_the_seed(folders):
    reader = load_reader(branch_of(folders["vit"], "vit", "image"))
    plain, first, again, other = (
        reader(IMAGES[:1] * 8, rng)["pixel_values"] for rng in (None, *map(np.random.default_rng, (0, 0, 1)))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({row.numpy().tobytes() for row in first}) == 8
    assert len({row.numpy().tobytes() for row in plain}) == 1
    assert first.shape == plain.shape


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_an_images_features_do_not_depend_on_its_batch(family, folders):
    reader = encoder(folders, family, "image")
    alone = np.concatenate([reader.encode([image]) for image in IMAGES])
    np.testing.assert_allclose(reader.encode(IMAGES), alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_what_is_absent_has_a_stand_in(family, modality, folders):
    reader = encoder(folders, family, modality)
    both = reader.encode([values(modality)[0], reader.reader.blank])
    np.testing.assert_allclose(both[:1], reader.encode(values(modality)[:1]), rtol=1e-3, atol=1e-5)
    assert np.isfinite(both).all()


@pytest.mark.parametrize("family", LIMITED_FAMILIES)
def test_a_long_text_is_cut_at_the_models_limit(family, folders):
    reader = encoder(folders, family, "text")
    assert reader.reader.max_tokens == MAX_TOKENS
    words = "happy rain love " * 30
    # the end token takes the last place, whatever would have followed
    np.testing.assert_allclose(reader.encode([words]), reader.encode([words + "sad"]), rtol=1e-4, atol=1e-5)
    assert np.abs(reader.encode([words]) - reader.encode(["sad " + words])).max() > 1e-3


@pytest.mark.parametrize("family", LIMITED_FAMILIES)
def test_a_tokenizer_without_a_limit_is_held_to_the_models(family, folders, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = int(1e30)  # as in checkpoints that never said
    tokenizer.save_pretrained(folder)
    reader = load_encoder(branch_of(folder, family, "text"))
    assert reader.reader.max_tokens == MAX_TOKENS
    assert np.isfinite(reader.encode(["happy " * 100])).all()


@pytest.mark.xfail(find_spec("sentencepiece") is None, reason="sentencepiece is not installed", strict=True)
def test_the_tokenizer_of_published_siglip_checkpoints(folders, tmp_path):
    import sentencepiece

    folder = shutil.copytree(folders["siglip"], tmp_path / "siglip")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:3] * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=17,
        model_type="char",
        minloglevel=2,
    )
    (folder / "tokenizer.json").unlink()
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "SiglipTokenizer", "model_max_length": MAX_TOKENS, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    features = encoder({"siglip": folder}, "siglip", "text").encode(TEXTS)
    assert np.ptp(features, axis=0).max() > 0.1


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), family=st.sampled_from(TEXT_FAMILIES))
def test_any_text_has_features(texts, family, folders):
    features = encoder_of(folders, family).encode(texts)
    assert features.shape == (len(texts), WIDTH)
    assert np.isfinite(features).all()


READERS: dict[str, Encoder] = {}


def encoder_of(folders: dict[str, Path], family: str) -> Encoder:
    """The family's text branch, loaded once for all examples."""
    if family not in READERS:
        READERS[family] = encoder(folders, family, "text")
    return READERS[family]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_any_mode_are_read_as_colour(mode, folders):
    def encoded(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    image = Image.open(io.BytesIO(IMAGES[0])).convert(mode)
    reader = encoder(folders, "vit", "image")
    np.testing.assert_array_equal(reader.encode([encoded(image)]), reader.encode([encoded(image.convert("RGB"))]))
