"""Configs: they survive JSON, refuse bad values in a sentence, and hold the paper's numbers."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.config import (
    PRESETS,
    CalibrateConfig,
    Columns,
    EmbedConfig,
    HeadConfig,
    PredictConfig,
    PrepareConfig,
    ReportConfig,
    SearchSpace,
    SweepConfig,
    UserError,
    from_dict,
    override,
    to_dict,
)
from emo.encoders import parse_encoder

NAMES = st.text(min_size=1, max_size=8)
COUNTS = st.none() | st.integers(1, 1000)
PREPARE = st.builds(
    PrepareConfig,
    labels=NAMES,
    columns=st.builds(Columns, id=NAMES, votes=NAMES),
    label_threshold=st.floats(0, 1, exclude_min=True),
    emoji=st.sampled_from(["remove", "describe", "keep"]),
    val_share=st.floats(0.01, 0.4),
    test_share=st.floats(0.01, 0.4),
)
SPACE = st.builds(
    SearchSpace,
    batch_size=st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
    lr=st.floats(1e-6, 1e-3).map(lambda low: (low, 2 * low)),
    warmup_steps=st.integers(0, 50).map(lambda low: (low, 2 * low)),
)
SWEEPS = st.builds(
    SweepConfig,
    output=st.none() | NAMES,
    data=st.lists(NAMES).map(tuple),
    prepare=PREPARE,
    preset=st.sampled_from(["demo", "paper"]),
    encoders=st.none() | st.lists(NAMES, max_size=3).map(tuple),
    mode=st.sampled_from(["frozen", "partial"]),
    trials=COUNTS,
    refine_trials=st.none() | st.integers(0, 9),
    max_epochs=COUNTS,
    top=st.integers(1, 20),
    space=SPACE,
)


@settings(deadline=None)
@given(SWEEPS)
def test_a_sweep_survives_json(config):
    assert from_dict(SweepConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(SweepConfig, json.loads(json.dumps(to_dict(config.resolved())))) == config.resolved()


@pytest.mark.parametrize(
    "config",
    [
        PrepareConfig(),
        HeadConfig(lr=1e-4),
        EmbedConfig(encoders=("a", "b")),
        PredictConfig(model="m", columns=Columns(id="key")),
        CalibrateConfig(run="r"),
        ReportConfig(run="r"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_every_other_config_survives_json(config):
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("values", [{"trails": 3}, {"prepare": {"emojis": "keep"}}, {"space": {"lr": [1, 2], "x": 1}}])
def test_an_unknown_key_is_a_type_error(values):
    with pytest.raises(TypeError, match="unexpected keyword"):
        from_dict(SweepConfig, values)


def test_override_replaces_dotted_keys_in_a_copy():
    config = SweepConfig()
    changed = override(config, {"trials": 7, "prepare.columns.id": "key", "space.lr": (1e-4, 1e-3)})
    assert (changed.trials, changed.prepare.columns.id, changed.space.lr) == (7, "key", (1e-4, 1e-3))
    assert changed == dataclasses.replace(
        config,
        trials=7,
        prepare=PrepareConfig(columns=Columns(id="key")),
        space=SearchSpace(lr=(1e-4, 1e-3)),
    )
    assert config == SweepConfig()


@pytest.mark.parametrize("key", ["trails", "prepare.emojis", "prepair.emoji", "prepare.columns.key", "seed.x"])
def test_override_refuses_a_typo(key):
    with pytest.raises(TypeError):
        override(SweepConfig(), {key: 1})


def test_override_checks_the_new_values():
    with pytest.raises(UserError, match="--label-threshold is 2"):
        override(SweepConfig(), {"prepare.label_threshold": 2})


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (PrepareConfig, {"label_threshold": 0}, "--label-threshold is 0; it must be above 0 and at most 1."),
        (PrepareConfig, {"label_threshold": 1.1}, "--label-threshold is 1.1; it must be above 0 and at most 1."),
        (PrepareConfig, {"image_size": 7}, "--image-size is 7; it must be between 8 and 4096."),
        (PrepareConfig, {"image_size": 4097}, "--image-size is 4097; it must be between 8 and 4096."),
        (PrepareConfig, {"max_image_pixels": 0}, "--max-image-pixels is 0; it must be above 0."),
        (PrepareConfig, {"max_characters": 0}, "--max-characters is 0; it must be above 0."),
        (PrepareConfig, {"val_share": 0}, "--val-share is 0; it must be between 0 and 1."),
        (PrepareConfig, {"test_share": 1.0}, "--test-share is 1.0; it must be between 0 and 1."),
        (PrepareConfig, {"val_share": 0.5, "test_share": 0.5}, "--val-share and --test-share add up to 1 or more"),
        (SearchSpace, {"lr": (0.0, 0.1)}, "--space.lr is (0.0, 0.1); it must be above 0"),
        (SearchSpace, {"lr": (0.1, 0.01)}, "--space.lr is (0.1, 0.01); it must be a lowest and a highest value."),
        (SearchSpace, {"dropout": (0.0, 1.0)}, "--space.dropout is (0.0, 1.0); it must be below 1."),
        (SearchSpace, {"warmup_steps": (-1, 5)}, "--space.warmup-steps is (-1, 5); it must be a lowest"),
        (SearchSpace, {"batch_size": ()}, "--space.batch-size is (); it must be one or more numbers above 0."),
        (SearchSpace, {"hidden": (0, 8)}, "--space.hidden is (0, 8); it must be one or more numbers above 0."),
        (SearchSpace, {"num_layers": (0,)}, "--space.num-layers is (0,); it must be one or more numbers above 0."),
        (SweepConfig, {"trials": 0}, "--trials is 0; it must be at least 1."),
        (SweepConfig, {"refine_trials": -1}, "--refine-trials is -1; it must be at least 0."),
        (SweepConfig, {"refine_top": -1}, "--refine-top is -1; it must be at least 0."),
        (SweepConfig, {"calibration_trials": 0}, "--calibration-trials is 0; it must be at least 1."),
        (SweepConfig, {"max_epochs": 0}, "--max-epochs is 0; it must be at least 1."),
        (SweepConfig, {"top": 0}, "--top is 0; it must be at least 1."),
        (SweepConfig, {"resume": True}, "--resume needs --output"),
        (
            SweepConfig,
            {"probabilities": "isotonic", "space": SearchSpace(loss=("softmax",))},
            "--probabilities isotonic calibrates label by label",
        ),
        (CalibrateConfig, {"run": "r", "calibration_trials": 0}, "--calibration-trials is 0; it must be at least 1."),
    ],
)
def test_a_bad_value_is_named_with_its_flag(kind, values, sentence):
    with pytest.raises(UserError) as caught:
        kind(**values)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("values", [{"refine_trials": 0, "refine_top": 0}, {"trials": 1, "top": 1}])
def test_the_lowest_values_are_taken(values):
    assert SweepConfig(**values)


def test_the_paper_preset_holds_the_papers_numbers():
    paper = PRESETS["paper"]
    assert (paper.trials, paper.refine_trials, paper.refine_top, paper.calibration_trials) == (200, 300, 1, 500)
    space = SearchSpace()
    assert space.batch_size == (8, 16, 32)
    assert space.lr == (1e-5, 1e-2)
    assert space.dropout == (0.0, 0.5)
    assert space.num_layers == (1, 2, 3)
    assert space.hidden == (128, 256, 512)
    assert space.warmup_steps == (0, 200)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_encoders_that_there_are(preset):
    names = PRESETS[preset].encoders
    assert [parse_encoder(name).name for name in names] == list(names)


def test_the_demo_needs_no_hub():
    assert all(branch.is_built for name in PRESETS["demo"].encoders for branch in parse_encoder(name).branches)


def test_a_flag_wins_over_the_preset():
    config = SweepConfig(preset="paper", trials=3, encoders=("tiny-bert",))
    assert config.budget == dataclasses.replace(PRESETS["paper"], trials=3, encoders=("tiny-bert",))
    assert SweepConfig().budget == PRESETS["demo"]
    assert config.resolved().budget == config.budget
    assert config.resolved().calibration_trials == 500


@pytest.mark.parametrize(("num_encoders", "total"), [(1, 16 + 8), (5, 5 * 16 + 8)])
def test_every_trial_is_counted(num_encoders, total):
    assert PRESETS["demo"].total_trials(num_encoders) == total


def test_no_more_encoders_are_refined_than_there_are():
    assert dataclasses.replace(PRESETS["demo"], refine_top=4).total_trials(2) == 2 * 16 + 2 * 8
