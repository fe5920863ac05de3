"""Training: it learns, the same each time, and gives back the best epoch's weights."""

import contextlib
import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emo import train
from emo.config import HeadConfig
from emo.losses import make_loss
from emo.metrics import macro_f1
from emo.models import FUSIONS, FeatureSpec, Projection
from emo.thresholds import decide, exact
from emo.train import (
    MicroBatch,
    TrainingData,
    batches,
    build_model,
    draw,
    fit,
    make_optimizer,
    predict_logits,
    predict_probs,
    train_epoch,
)

QUICK = HeadConfig(batch_size=16, lr=1e-2, hidden=32, warmup_steps=5, max_epochs=6, patience=6)


TEXT, IMAGE = 12, 8


@pytest.fixture(autouse=True)
def _one_thread():
    """As in a trial; several threads over so small tensors wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def separable(num_posts: int = 300, noise: float = 0.0, projected: bool = False, seed: int = 0) -> TrainingData:
    """Two labels that text tells and one that the image tells; ``noise`` turns that share of val around."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_posts, 3)) < 0.4
    features = rng.normal(size=(num_posts, TEXT + IMAGE)).astype(np.float32)
    features[:, [0, 1, TEXT]] = features[:, [0, 1, TEXT]] * 0.3 + np.where(targets, 1.5, -1.5)
    packed = np.concatenate([features, np.ones((num_posts, 2), np.float32)], axis=1)
    half = num_posts // 2
    val_targets = targets[half:] ^ (rng.random((num_posts - half, 3)) < noise)
    weight = np.eye(TEXT, dtype=np.float32) + rng.normal(size=(TEXT, TEXT)).astype(np.float32) * 0.1
    projection = Projection(weight=weight, bias=np.zeros(TEXT, np.float32)) if projected else None
    return TrainingData(
        train_packed=packed[:half],
        train_targets=targets[:half],
        val_packed=packed[half:],
        val_targets=val_targets,
        specs={"text": FeatureSpec(TEXT, projection), "image": FeatureSpec(IMAGE)},
    )


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def val_loss(model: torch.nn.Module, data: TrainingData) -> float:
    model.eval()
    with torch.no_grad():
        logits = model(torch.as_tensor(data.val_packed))
    return F.binary_cross_entropy_with_logits(logits, torch.as_tensor(data.val_targets).float()).item()


@pytest.mark.parametrize("mode", ["frozen", "partial"])
def test_a_separable_problem_is_learnt(mode):
    data = separable(projected=True)
    model = fit(data, dataclasses.replace(QUICK, mode=mode)).model
    thresholds = exact(data.train_targets, predict_probs(model, data.train_packed))
    assert macro_f1(data.val_targets, decide(predict_probs(model, data.val_packed), thresholds)) > 0.9


@pytest.mark.parametrize("mode", ["frozen", "partial"])
def test_same_seed_same_fit(mode):
    data, config = separable(projected=True), dataclasses.replace(QUICK, mode=mode, max_epochs=2)
    first, again = fit(data, config), fit(data, config)
    other = fit(data, dataclasses.replace(config, seed=1))
    assert first.history == again.history != other.history
    for name, value in state(first.model).items():
        np.testing.assert_array_equal(value, state(again.model)[name])


def test_the_best_epochs_weights_come_back():
    data = separable(noise=0.5)  # what is learnt does not hold on val, so val loss soon rises
    result = fit(data, dataclasses.replace(QUICK, lr=0.03, max_epochs=8, patience=8))
    losses = [epoch["val_loss"] for epoch in result.history]
    assert len(losses) == 8
    assert result.best_epoch == 1 + int(np.argmin(losses)) < 8
    assert val_loss(result.model, data) == pytest.approx(min(losses), rel=1e-4)
    assert not result.model.training


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_val_loss_no_longer_falls(patience):
    data = separable(noise=0.5)
    result = fit(data, dataclasses.replace(QUICK, lr=0.03, max_epochs=40, patience=patience))
    assert len(result.history) == result.best_epoch + patience < 40


def test_history_tells_every_epoch_and_is_reported_as_it_comes():
    data, seen = separable(), []
    result = fit(data, dataclasses.replace(QUICK, max_epochs=3), seen.append)
    assert seen == result.history
    assert [epoch["epoch"] for epoch in seen] == [1, 2, 3]
    assert set(seen[0]) == {"epoch", "train_loss", "val_loss", "val_macro_f1"}
    assert seen[0]["train_loss"] > seen[-1]["train_loss"]
    assert result.train_seconds > 0


def test_val_macro_f1_is_taken_at_thresholds_of_train():
    data = separable()
    result = fit(data, dataclasses.replace(QUICK, max_epochs=1))
    thresholds = exact(data.train_targets, predict_probs(result.model, data.train_packed))
    expected = macro_f1(data.val_targets, decide(predict_probs(result.model, data.val_packed), thresholds))
    assert result.history[0]["val_macro_f1"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_step_and_learning_rate(value):
    data = separable(num_posts=64)
    data.train_packed[0, 0] = value
    config = dataclasses.replace(QUICK, warmup_steps=0, max_epochs=1, batch_size=16)
    with pytest.raises(FloatingPointError, match=r"nan by step 2 at learning rate \d"):
        fit(data, config)


@pytest.mark.parametrize(("warmup", "wanted"), [(0, 0), (4, 4), (100, 8)])
def test_the_learning_rate_warms_up_and_decays_to_zero(warmup, wanted, monkeypatch):
    used, num_steps = [], 16  # 4 epochs of 4 batches
    original = train.train_epoch

    def watched(forward, data, optimizer, scheduler, loss_of):
        for batch in data:
            used.append(optimizer.param_groups[0]["lr"])
            loss = original(forward, [batch], optimizer, scheduler, loss_of)
        return loss

    monkeypatch.setattr(train, "train_epoch", watched)
    config = dataclasses.replace(QUICK, lr=0.01, warmup_steps=warmup, max_epochs=4, patience=4, batch_size=16)
    fit(separable(num_posts=128), config)
    rising = [(step + 1) / (wanted + 1) for step in range(wanted)]
    falling = [1 - step / (num_steps - wanted) for step in range(num_steps - wanted)]
    np.testing.assert_allclose(used, 0.01 * np.array(rising + falling))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_every_row_is_seen_once_an_epoch(num_rows, batch_size, seed):
    rows = torch.arange(num_rows)
    seen = list(batches(rows, -rows, batch_size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat([batch.inputs for batch in seen]).tolist()) == rows.tolist()
    assert all(torch.equal(batch.inputs, -batch.targets) and batch.ends_step for batch in seen)
    assert [len(batch.inputs) for batch in seen[:-1]] == [batch_size] * (len(seen) - 1)
    assert all(batch.scale == 1 / len(batch.inputs) for batch in seen)


def test_every_epoch_has_an_order_of_its_own():
    generator, rows = torch.Generator().manual_seed(0), torch.arange(50)
    first, second = (torch.cat([b.inputs for b in batches(rows, rows, 8, generator)]) for _ in range(2))
    assert not torch.equal(first, second)


def test_train_loss_is_the_mean_over_posts():
    data = separable(num_posts=2 * 37)  # batches of 16, 16 and 5
    config = dataclasses.replace(QUICK, dropout=0.0, lr=1e-12, max_epochs=1)
    result = fit(data, config)
    on_train = dataclasses.replace(data, val_packed=data.train_packed, val_targets=data.train_targets)
    assert result.history[0]["train_loss"] == pytest.approx(val_loss(result.model, on_train), rel=1e-4)


def test_frozen_training_leaves_projections_as_they_were():
    data = separable(projected=True)
    weight = data.specs["text"].projection.weight
    frozen = fit(data, QUICK).model
    partial = fit(data, dataclasses.replace(QUICK, mode="partial")).model
    np.testing.assert_array_equal(state(frozen)["projections.0.weight"], weight)
    assert np.abs(state(partial)["projections.0.weight"] - weight).max() > 1e-3


def test_without_projections_partial_is_frozen():
    data = separable()
    frozen, partial = (fit(data, dataclasses.replace(QUICK, mode=mode, max_epochs=2)) for mode in ("frozen", "partial"))
    for name, value in state(frozen.model).items():
        np.testing.assert_allclose(value, state(partial.model)[name], rtol=1e-3, atol=1e-5)


def test_both_modes_begin_alike():
    data = separable(projected=True)
    models = [build_model(data.specs, 3, HeadConfig(mode=mode)) for mode in ("frozen", "partial")]
    for a, b in zip(*(state(model).values() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_training_computes_projections_once(monkeypatch):
    calls = []
    original = train.FusionClassifier.project
    monkeypatch.setattr(train.FusionClassifier, "project", lambda *a: calls.append(1) or original(*a))
    fit(separable(projected=True), dataclasses.replace(QUICK, max_epochs=3))
    assert len(calls) == 2  # train and val


def test_prediction_goes_by_parts_and_in_order():
    inputs = torch.arange(10.0)[:, None]
    sizes = []
    logits = predict_logits(lambda part: sizes.append(len(part)) or 2 * part, inputs, batch_size=4)
    torch.testing.assert_close(logits, 2 * inputs)
    assert sizes == [4, 4, 2]


def test_probs_do_not_depend_on_dropout():
    data = separable()
    model = build_model(data.specs, 3, HeadConfig(dropout=0.5)).train()
    first, again = (predict_probs(model, data.val_packed) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert ((first > 0) & (first < 1)).all()


def test_labels_are_drawn_by_their_shares():
    shares = torch.tensor([0.2, 0.0, 1.0, torch.nan]).repeat(20_000, 1)
    drawn = draw(shares, torch.Generator().manual_seed(0))
    assert set(drawn[:, 0].tolist()) == {0.0, 1.0}
    assert drawn[:, 0].mean().item() == pytest.approx(0.2, abs=0.01)
    assert (drawn[:, 1].max(), drawn[:, 2].min()) == (0, 1)
    assert drawn[:, 3].isnan().all()


def test_a_label_is_learned_where_it_is_known():
    whole = separable()
    targets = whole.train_targets.astype(np.int8)
    targets[::2, 1] = -1
    wrong = whole.train_targets.copy()
    wrong[::2, 1] ^= True
    scores = {}
    for name, given_targets in (("known", targets), ("wrong", wrong)):
        data = dataclasses.replace(whole, train_targets=given_targets)
        result = fit(data, dataclasses.replace(QUICK, max_epochs=8))
        decided = predict_probs(result.model, whole.val_packed) >= 0.5
        scores[name] = macro_f1(whole.val_targets[:, 1:2], decided[:, 1:2])
    assert scores["known"] > 0.9 > scores["wrong"]


@pytest.mark.parametrize(
    ("trains_on", "loss"), [("soft", "bce"), ("draw", "bce"), ("threshold", "soft"), ("draw", "soft")]
)
def test_shares_are_what_the_model_comes_to_predict(trains_on, loss):
    data = separable(2000)
    shares, val_shares = (
        np.where(targets, 0.8, 0.3).astype(np.float32) for targets in (data.train_targets, data.val_targets)
    )
    soft = dataclasses.replace(data, train_shares=shares, val_shares=val_shares, trains_on=trains_on)
    probs = predict_probs(fit(soft, dataclasses.replace(QUICK, loss=loss, max_epochs=12)).model, data.val_packed)
    assert probs[data.val_targets].mean() == pytest.approx(0.8, abs=0.06)
    assert probs[~data.val_targets].mean() == pytest.approx(0.3, abs=0.06)


def test_shares_that_are_there_do_not_matter_where_targets_are_aimed_at():
    data = separable()
    shares = np.full(data.train_targets.shape, 0.5, np.float32)
    with_shares = dataclasses.replace(data, train_shares=shares, val_shares=shares)
    config = dataclasses.replace(QUICK, max_epochs=2)
    assert fit(with_shares, config).history == fit(data, config).history


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("loss", ["bce", "weighted-bce", "focal", "asymmetric", "soft"])
def test_every_loss_and_fusion_learns(loss, fusion):
    data = separable()
    result = fit(data, dataclasses.replace(QUICK, loss=loss, fusion=fusion, lr=2e-2))
    assert result.history[-1]["val_loss"] < result.history[0]["val_loss"]
    assert result.history[-1]["val_macro_f1"] > 0.9


@pytest.mark.parametrize("mode", ["frozen", "partial"])
def test_one_label_a_post_is_learnt(mode):
    rng, data = np.random.default_rng(0), separable(projected=True)
    train_targets, val_targets = (np.eye(3, dtype=bool)[rng.integers(3, size=150)] for _ in range(2))
    for packed, targets in ((data.train_packed, train_targets), (data.val_packed, val_targets)):
        packed[:, :3] = rng.normal(size=(150, 3)) + 4 * targets
    data = dataclasses.replace(data, train_targets=train_targets, val_targets=val_targets)
    result = fit(data, dataclasses.replace(QUICK, mode=mode, loss="softmax"))
    probs = predict_probs(result.model, data.val_packed)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    decided = decide(probs, np.full(3, 0.5), single_label=True)
    assert macro_f1(val_targets, decided) > 0.9
    assert result.history[result.best_epoch - 1]["val_macro_f1"] == pytest.approx(macro_f1(val_targets, decided))


def test_layers_are_mixed_by_what_they_tell():
    rng = np.random.default_rng(0)
    targets = rng.random((400, 3)) < 0.4
    layers = rng.normal(size=(400, 4, TEXT))
    layers[:, 2, :3] = layers[:, 2, :3] * 0.3 + np.where(targets, 1.5, -1.5)
    packed = np.concatenate([layers.reshape(400, -1), np.ones((400, 1))], axis=1).astype(np.float16)
    data = TrainingData(
        packed[:200], targets[:200], packed[200:], targets[200:], {"text": FeatureSpec(TEXT, num_layers=4)}
    )
    result = fit(data, dataclasses.replace(QUICK, mode="layer-mix", max_epochs=20, patience=20))
    (mix,) = result.model.projections
    assert mix.weights.argmax() == 2
    assert mix.scale != 1
    assert result.history[-1]["val_macro_f1"] > 0.9


def steps(data: list[MicroBatch], **options) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of one epoch over ``data``, and the weights after it."""
    config = dataclasses.replace(QUICK, dropout=0.0, warmup_steps=0)
    model = build_model(separable().specs, 3, config).train()
    optimizer, scheduler = make_optimizer([(list(model.parameters()), config.lr)], config, num_steps=4)
    loss = train_epoch(model, data, optimizer, scheduler, make_loss("bce", torch.full((3,), 0.4)), **options)
    return loss, state(model)


def halves(data: TrainingData, cut: int, scale: float) -> list[MicroBatch]:
    inputs, targets = torch.as_tensor(data.train_packed), torch.as_tensor(data.train_targets).float()
    targets[::3, 1] = torch.nan
    sizes = [cut, len(inputs) - cut]
    parts = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
    return [MicroBatch(x, y, scale, ends_step=n == 1) for n, (x, y) in enumerate(parts)]


@pytest.mark.parametrize("cut", [1, 20])
def test_micro_batches_add_up_to_their_step(cut):
    first, second = halves(separable(num_posts=64), cut, scale=1 / 32)
    whole = MicroBatch(torch.cat([first.inputs, second.inputs]), torch.cat([first.targets, second.targets]), 1 / 32)
    loss, weights = steps([whole])
    in_parts, weights_in_parts = steps([first, second])
    assert in_parts == pytest.approx(loss, abs=1e-6)
    for name, value in weights.items():
        np.testing.assert_allclose(weights_in_parts[name], value, atol=1e-6)


def test_what_stands_in_for_no_post_counts_for_nothing():
    data = halves(separable(num_posts=64), 20, scale=1 / 32)
    blank = MicroBatch(data[0].inputs[:1], torch.full((1, 3), torch.nan), scale=0.0, ends_step=False)
    loss, weights = steps([blank, *data])
    wanted, wanted_weights = steps(data)
    assert loss == wanted
    for name, value in wanted_weights.items():
        np.testing.assert_array_equal(weights[name], value)


def test_only_micro_batches_that_end_their_step_are_synchronised():
    entered = []

    @contextlib.contextmanager
    def no_sync():
        entered.append(True)
        yield

    steps(halves(separable(num_posts=64), 20, scale=1 / 32) * 2, no_sync=no_sync)
    assert len(entered) == 2


def test_workers_losses_become_one_mean():
    data = halves(separable(num_posts=64), 20, scale=1 / 32)
    alone, _ = steps(data)
    together, _ = steps(data, add_up=lambda sums: sums + torch.tensor([32 * 7.0, 32.0]))
    assert together == pytest.approx((alone + 7) / 2)
    with pytest.raises(FloatingPointError, match="nan by step 1"):  # another worker's
        steps(data, add_up=lambda sums: sums + torch.tensor([torch.nan, 32.0]))


def test_long_gradients_are_cut():
    norms = []

    class Watched(torch.optim.SGD):
        def step(self, *args):
            grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            norms.append(torch.cat(grads).norm().item())

    data = halves(separable(num_posts=64), 20, scale=1.0)  # 32 times too much
    model = build_model(separable().specs, 3, HeadConfig())
    for max_norm in (None, 0.1):
        optimizer = Watched(model.parameters(), lr=0.0)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        train_epoch(model, data, optimizer, scheduler, make_loss("bce", torch.full((3,), 0.4)), max_norm=max_norm)
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.1, rel=1e-3)


def test_the_forward_pass_runs_as_asked_and_the_loss_in_float32():
    seen = []
    loss_of = make_loss("bce", torch.full((3,), 0.4))

    def watched(logits, goals):
        seen.append(logits.dtype)
        return loss_of(logits, goals)

    model = build_model(separable().specs, 3, HeadConfig())
    forward_types = []
    model.register_forward_hook(lambda module, inputs, logits: forward_types.append(logits.dtype))
    optimizer, scheduler = make_optimizer([(list(model.parameters()), 1e-3)], QUICK, num_steps=4)
    bfloat16 = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    train_epoch(model, halves(separable(64), 20, 1 / 32), optimizer, scheduler, watched, autocast=bfloat16)
    assert (set(forward_types), set(seen)) == ({torch.bfloat16}, {torch.float32})


def test_every_group_has_its_learning_rate_and_pretrained_biases_do_not_decay():
    pretrained, new = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    groups = [(list(pretrained.parameters()), 1e-5), (list(new.parameters()), 1e-2)]
    config = dataclasses.replace(QUICK, warmup_steps=1, weight_decay=0.1, encoder_lr=1e-5)
    optimizer, scheduler = make_optimizer(groups, config, num_steps=4)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for layer, lr, decay_of_bias in ((pretrained, 5e-6, 0.0), (new, 5e-3, 0.1)):
        assert found[id(layer.weight)] == pytest.approx((lr, 0.1))
        assert found[id(layer.bias)] == pytest.approx((lr, decay_of_bias))
    optimizer.step()
    scheduler.step()
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {1e-5, 1e-2}
