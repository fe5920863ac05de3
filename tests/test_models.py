"""The classifier: its layers are the config's, absent modalities count for nothing."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from emo.config import HeadConfig
from emo.models import FUSIONS, FeatureSpec, FusionClassifier, PostClassifier, Projection, start_at_prevalence
from emo.train import build_model

TEXT, IMAGE, PROJECTED = 6, 4, 5


def projection(width: int, seed: int = 0, bias: bool = True) -> Projection:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(PROJECTED, width)).astype(np.float32)
    return Projection(weight=weight, bias=rng.normal(size=PROJECTED).astype(np.float32) if bias else None)


def both(config: HeadConfig | None = None, num_labels: int = 3) -> FusionClassifier:
    text, image = FeatureSpec(TEXT, projection(TEXT)), FeatureSpec(IMAGE, projection(IMAGE, seed=1, bias=False))
    return build_model({"text": text, "image": image}, num_labels, config or HeadConfig())


def packed(*present: int, seed: int = 0) -> torch.Tensor:
    """One post with random features and the given presence of text and image."""
    features = torch.randn(1, TEXT + IMAGE, generator=torch.Generator().manual_seed(seed))
    return torch.cat([features, torch.tensor([present], dtype=torch.float32)], dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.sampled_from([8, 16]), st.floats(0, 0.5), st.integers(1, 4))
def test_layers_are_those_of_the_config(num_layers, hidden, dropout, num_labels):
    model = both(HeadConfig(num_layers=num_layers, hidden=hidden, dropout=dropout), num_labels)
    linear = [layer for layer in model.mlp if isinstance(layer, nn.Linear)]
    widths = [2 * PROJECTED, *[hidden] * (num_layers - 1), num_labels]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(itertools.pairwise(widths))
    drops = [layer.p for layer in model.mlp if isinstance(layer, nn.Dropout)]
    assert drops == [dropout] * num_layers
    assert sum(isinstance(layer, nn.ReLU) for layer in model.mlp) == num_layers - 1
    assert model.mlp[-1] is linear[-1]


def test_logits_have_a_column_for_every_label():
    model = both(num_labels=4)
    assert model(torch.cat([packed(1, 1), packed(1, 0)])).shape == (2, 4)
    one = build_model({"image": FeatureSpec(IMAGE)}, 2, HeadConfig())
    assert one.project(torch.ones(3, IMAGE + 1)).shape == (3, IMAGE)
    assert one(torch.ones(3, IMAGE + 1)).shape == (3, 2)


def test_projected_features_are_the_projected_and_normalised_ones_side_by_side():
    text, image = projection(TEXT), projection(IMAGE, seed=1, bias=False)
    row = packed(1, 1)
    features = row.numpy()[0]
    expected = [text.weight @ features[:TEXT] + text.bias, image.weight @ features[TEXT : TEXT + IMAGE]]
    expected = [F.layer_norm(torch.as_tensor(part), (PROJECTED,)) for part in expected]
    torch.testing.assert_close(both().project(row)[0], torch.cat(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("present", "zero"), [((0, 1), slice(0, PROJECTED)), ((1, 0), slice(PROJECTED, None))])
def test_an_absent_modality_contributes_exactly_zero(present, zero, fusion):
    model = both(HeadConfig(fusion=fusion)).eval()
    row, other = packed(*present), packed(*present, seed=1)
    absent = slice(0, TEXT) if present == (0, 1) else slice(TEXT, TEXT + IMAGE)
    kept = row.clone()
    kept[:, absent] = other[:, absent]  # whatever stands where nothing is
    assert (model.project(row)[:, zero] == 0).all()
    assert (model.project(row) != 0).any()
    assert torch.equal(model(row), model(kept))
    assert not torch.equal(model(row), model(other))


def test_presence_alone_changes_the_logits():
    model = both().eval()
    assert not torch.equal(model(packed(1, 1)), model(packed(1, 0)))


def test_projection_weights_are_the_encoders_own():
    text, image = both().projections
    np.testing.assert_array_equal(text.weight.detach(), projection(TEXT).weight)
    np.testing.assert_array_equal(text.bias.detach(), projection(TEXT).bias)
    np.testing.assert_array_equal(image.weight.detach(), projection(IMAGE, seed=1).weight)
    assert image.bias is None


@pytest.mark.parametrize(("mode", "trained"), [("frozen", {"mlp"}), ("partial", {"mlp", "projections"})])
def test_the_mode_says_what_is_trained(mode, trained):
    named = both(HeadConfig(mode=mode)).named_parameters()
    assert {name.split(".")[0] for name, parameter in named if parameter.requires_grad} == trained


def test_gradients_reach_projections_of_present_modalities_only():
    model = both(HeadConfig(mode="partial", dropout=0.0))
    model(packed(1, 0)).sum().backward()
    text, image = model.projections
    assert (text.weight.grad != 0).any()
    assert (image.weight.grad == 0).all()


def test_same_seed_same_weights():
    def states(seed):
        return both(HeadConfig(seed=seed)).state_dict()

    assert all(torch.equal(a, b) for a, b in zip(states(1).values(), states(1).values(), strict=True))
    assert not torch.equal(states(1)["mlp.1.weight"], states(2)["mlp.1.weight"])


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_the_start_is_at_prevalence(loss):
    model = both(HeadConfig(num_layers=1, dropout=0.0, loss=loss))
    with torch.no_grad():
        model.mlp[-1].weight.zero_()
    start_at_prevalence(model, torch.tensor([0.5, 0.2, 0.3]))
    torch.testing.assert_close(model.probs(model(packed(1, 1)))[0], torch.tensor([0.5, 0.2, 0.3]))


def test_a_prevalence_of_nothing_or_all_is_finite():
    model = both()
    start_at_prevalence(model, torch.tensor([0.0, 1.0, 0.5]))
    assert model.mlp[-1].bias.isfinite().all()


def test_probs_are_of_each_label_or_of_all_together():
    logits = torch.randn(4, 3)
    torch.testing.assert_close(both().probs(logits), logits.sigmoid())
    torch.testing.assert_close(both(HeadConfig(loss="softmax")).probs(logits), logits.softmax(dim=1))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_modality_is_not_fused(fusion):
    models = [build_model({"text": FeatureSpec(TEXT)}, 3, HeadConfig(fusion=each)) for each in ("concat", fusion)]
    row = torch.randn(2, TEXT + 1)
    assert torch.equal(*(model.eval()(row) for model in models))


def test_gates_weigh_the_activations_of_each_modality():
    fusion = both(HeadConfig(fusion="gated", hidden=7)).fusion
    x = torch.randn(3, 2 * PROJECTED)
    gates = fusion.gates(x).sigmoid()
    text, image = (layer(part).tanh() for layer, part in zip(fusion.activations, x.split(PROJECTED, 1), strict=True))
    torch.testing.assert_close(fusion(x), gates[:, :7] * text + gates[:, 7:] * image)


def test_low_rank_fusion_is_the_product_with_a_tensor_of_that_rank():
    fusion = both(HeadConfig(fusion="low-rank", hidden=7)).fusion
    x = torch.randn(3, 2 * PROJECTED)
    text, image = (F.pad(part, (0, 1), value=1.0) for part in x.split(PROJECTED, dim=1))
    w, v = (torch.cat([f.weight, f.bias[:, None]], dim=1).unflatten(0, (-1, 7)) for f in fusion.factors)
    whole = torch.einsum("rhi,rhj->hij", w, v) / len(w)
    torch.testing.assert_close(fusion(x), torch.einsum("hij,bi,bj->bh", whole, text, image), atol=1e-5, rtol=1e-4)


def mixed() -> FusionClassifier:
    return build_model({"text": FeatureSpec(TEXT, num_layers=3)}, 2, HeadConfig(mode="layer-mix"))


def test_layers_are_normalised_and_weighed():
    model, row = mixed().eval(), torch.randn(2, 3 * TEXT + 1)
    row[:, -1] = 1
    (mix,) = model.projections
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.0, 1.0, -1.0]))
        mix.scale.fill_(2.0)
    weights = torch.tensor([0.0, 1.0, -1.0]).softmax(dim=0)
    layers = [F.layer_norm(layer, (TEXT,)) for layer in row[:, :-1].split(TEXT, dim=1)]
    wanted = 2 * sum(w * layer for w, layer in zip(weights, layers, strict=True))
    torch.testing.assert_close(model.project(row), wanted)
    torch.testing.assert_close(model(row.half()), model(row.half().float()))
    row[:, -1] = 0
    assert (model.project(row) == 0).all()


def test_the_mix_is_trained():
    named = mixed().named_parameters()
    assert {name for name, parameter in named if parameter.requires_grad} >= {
        "projections.0.weights",
        "projections.0.scale",
    }


class Tower(nn.Module):
    """Features that are the sums of what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)

    def forward(self, inputs):
        assert set(inputs) == {"ids", "mask"}
        return self.linear((inputs["ids"] * inputs["mask"]).float().sum(dim=1, keepdim=True))


def test_posts_are_classified_from_what_towers_read():
    towers, classifier = {"text": Tower(TEXT), "image": Tower(IMAGE)}, both().eval()
    model = PostClassifier(towers, classifier).eval()
    parts = {name: torch.randint(1, 9, (4, 5)) for name in ("text.ids", "text.mask", "image.ids", "image.mask")}
    present = {"text.present": torch.tensor([1, 1, 0, 1]).bool(), "image.present": torch.tensor([1, 0, 1, 0]).bool()}
    features = [tower({n: parts[f"{name}.{n}"] for n in ("ids", "mask")}) for name, tower in towers.items()]
    packed_features = torch.cat([*features, torch.stack(list(present.values()), dim=1).float()], dim=1)
    logits = model(parts | present)
    torch.testing.assert_close(logits, classifier(packed_features))
    other = model(parts | present | {"text.ids": parts["text.ids"].roll(1, 0)})
    assert torch.equal(other[2], logits[2])
    assert not torch.equal(other[0], logits[0])
    logits.sum().backward()
    assert all(tower.linear.weight.grad.isfinite().all() for tower in towers.values())
