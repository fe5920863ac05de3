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
from emo.models import FusionClassifier, Projection, start_at_prevalence
from emo.train import build_model

TEXT, IMAGE, PROJECTED = 6, 4, 5


def projection(width: int, seed: int = 0, bias: bool = True) -> Projection:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(PROJECTED, width)).astype(np.float32)
    return Projection(weight=weight, bias=rng.normal(size=PROJECTED).astype(np.float32) if bias else None)


def both(config: HeadConfig | None = None, num_labels: int = 3) -> FusionClassifier:
    projections = {"text": projection(TEXT), "image": projection(IMAGE, seed=1, bias=False)}
    return build_model({"text": TEXT, "image": IMAGE}, projections, num_labels, config or HeadConfig())


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
    one = build_model({"image": IMAGE}, {"image": None}, 2, HeadConfig())
    assert one.fuse(torch.ones(3, IMAGE + 1)).shape == (3, IMAGE)
    assert one(torch.ones(3, IMAGE + 1)).shape == (3, 2)


def test_fused_features_are_the_projected_and_normalised_ones_side_by_side():
    text, image = projection(TEXT), projection(IMAGE, seed=1, bias=False)
    row = packed(1, 1)
    features = row.numpy()[0]
    expected = [text.weight @ features[:TEXT] + text.bias, image.weight @ features[TEXT : TEXT + IMAGE]]
    expected = [F.layer_norm(torch.as_tensor(part), (PROJECTED,)) for part in expected]
    torch.testing.assert_close(both().fuse(row)[0], torch.cat(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("present", "zero"), [((0, 1), slice(0, PROJECTED)), ((1, 0), slice(PROJECTED, None))])
def test_an_absent_modality_contributes_exactly_zero(present, zero):
    model = both().eval()
    row, other = packed(*present), packed(*present, seed=1)
    absent = slice(0, TEXT) if present == (0, 1) else slice(TEXT, TEXT + IMAGE)
    kept = row.clone()
    kept[:, absent] = other[:, absent]  # whatever stands where nothing is
    assert (model.fuse(row)[:, zero] == 0).all()
    assert (model.fuse(row) != 0).any()
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


def test_the_start_is_at_prevalence():
    model = both(HeadConfig(num_layers=1, dropout=0.0))
    with torch.no_grad():
        model.mlp[-1].weight.zero_()
    targets = torch.zeros(98, 3)
    targets[:49, 0] = targets[:, 1] = 1
    start_at_prevalence(model, targets)
    torch.testing.assert_close(model(packed(1, 1)).sigmoid()[0], torch.tensor([0.5, 0.99, 0.01]))
