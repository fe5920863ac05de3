"""The stages that several jobs begin with: posts, encoders, features; each found in the cache where it already is."""

import inspect
from dataclasses import replace
from typing import Any

from emo import demo, storage
from emo.bundle import load_bundle
from emo.config import PRESETS, EmbedConfig, PostsConfig, PredictConfig, SweepConfig, UserError
from emo.console import say
from emo.encoders import Branch, EncoderSpec, parse_encoder
from emo.features import EncodedPosts, Features, embed, encoded_posts, resolve_encoders
from emo.prepare import posts_key, prepare
from emo.run import Run, stored_encoders

EMBEDDED = "embedded corpus"


def prepared_posts(config: EmbedConfig) -> tuple[str, dict[str, Any]]:
    """The folder of prepared posts that ``--data`` stands for, and its manifest."""
    if config.data is not None and (found := prepared_folder(config.data)):
        return config.data, found
    key = posts_key(raw_posts(config), config.prepare, config.seed)
    folder = storage.join(config.cache, "posts", key)
    if not config.refresh and (found := storage.manifest(folder)):
        say(f"posts: reused from {folder}")
        return folder, found
    return folder, prepare_into(folder, config)


def prepared_folder(uri: str) -> dict[str, Any] | None:
    """The manifest of a folder that prepare wrote; None for anything else."""
    found = storage.manifest(uri)
    return found if found and found.get("kind") == "posts" else None


def raw_posts(config: PostsConfig) -> str:
    return config.data if config.data is not None else embedded_corpus(config.cache, config.seed)


def prepare_into(folder: str, config: PostsConfig) -> dict[str, Any]:
    """Prepare the posts that ``--data`` names into ``folder``; returns the manifest."""
    say(f"posts: preparing {config.data or 'the embedded corpus'}")
    name = EMBEDDED if config.data is None else None
    return prepare(raw_posts(config), folder, config.prepare, seed=config.seed, source_name=name)


def unlabelled_posts(config: PredictConfig) -> str:
    """The folder of posts prepared as a model's own were, but for their labels."""
    bundle, _ = load_bundle(config.model)
    source = config.data if config.data is not None else embedded_corpus(config.cache, config.seed)
    wanted = replace(bundle.prepare, columns=config.columns, bad_images=config.bad_images)
    folder = storage.join(config.cache, "posts", posts_key(source, wanted, 0, labelled=False))
    say(f"posts: {'reusing' if storage.manifest(folder) else 'preparing'} {config.data or 'the embedded corpus'}")
    if not storage.manifest(folder):
        prepare(source, folder, wanted, seed=0, labelled=False)
    return folder


def embedded_corpus(cache: str, seed: int) -> str:
    """The raw file of the embedded corpus; other code that draws it makes another folder."""
    folder = storage.join(cache, "demo", storage.digest([seed, inspect.getsource(demo)]))
    if not (found := storage.manifest(folder)):
        data = storage.new_data_folder()
        uri = demo.write_corpus(storage.join(folder, data), seed)
        found = {"kind": "raw", "file": storage.join(data, uri.rsplit("/", 1)[-1])}
        storage.finish(folder, found)
    return storage.join(folder, found["file"])


def chosen_encoders(config: EmbedConfig, manifest: dict[str, Any]) -> list[EncoderSpec]:
    """The encoders to try; those of a preset that ask for what this corpus lacks are left out with a word."""
    if config.encoders is not None:
        specs = [parse_encoder(name, config.revision) for name in config.encoders]
        for spec in specs:
            if reason := _unfit(spec, manifest, config.tags):
                raise UserError(f"--encoders {spec.name} {reason}.")
        if len({spec.name for spec in specs}) < len(specs):
            raise UserError("--encoders names the same encoder twice.")
        return specs
    specs = [parse_encoder(name, config.revision) for name in PRESETS[config.preset].encoders]
    reasons = {spec.name: _unfit(spec, manifest, config.tags) for spec in specs}
    for name, reason in reasons.items():
        if reason:
            say(f"left out: {name} {reason}")
    fit = [spec for spec in specs if not reasons[spec.name]]
    if not fit:
        raise UserError(f"No encoder of --preset {config.preset} fits this corpus; name one with --encoders.")
    return fit


def _unfit(spec: EncoderSpec, manifest: dict[str, Any], tags_mode: str) -> str | None:
    """Why an encoder has nothing to read in a corpus, or None."""
    counts = manifest["modalities"]
    has = {"image": counts["image"] > 0, "text": counts["text"] > 0 or (tags_mode == "append" and counts["tags"] > 0)}
    lacking = [modality for modality in spec.modalities if not has[modality]]
    if lacking:
        return f"reads {' and '.join(spec.modalities)}, and no post here has {' or '.join(lacking)}"
    if any(branch.is_tiny and branch.family != "bert" for branch in spec.branches) and not all(has.values()):
        return "learns from posts with text and image, and this corpus has none"
    return None


def encoded(
    config: EmbedConfig, posts: str, specs: list[EncoderSpec]
) -> tuple[list[EncoderSpec], dict[Branch, Features]]:
    """The encoders with their checkpoints at hand, and every branch's features."""
    if any(branch.is_tiny for spec in specs for branch in spec.branches):
        say("encoders: building the tiny checkpoints from this corpus, or finding them built")
    specs = resolve_encoders(specs, posts, config.cache, tags_mode=config.tags, seed=config.seed)
    features = {}
    for branch in dict.fromkeys(branch for spec in specs for branch in spec.branches):
        names = "/".join(spec.name for spec in specs if branch in spec.branches)
        features[branch] = embed(posts, branch, config.cache, tags_mode=config.tags, refresh=config.refresh)
        how = "reused from" if features[branch].reused else "written to"
        say(f"features: {branch.modality} of {names} {how} {features[branch].folder}")
    return specs, features


def encoder_data(posts: str, specs: list[EncoderSpec], features: dict[Branch, Features]) -> dict[str, EncodedPosts]:
    """The labelled posts as each encoder sees them, by the encoder's name."""
    return {spec.name: encoded_posts(posts, [features[branch] for branch in spec.branches]) for spec in specs}


def data_of_run(
    run: Run, config: SweepConfig
) -> tuple[str, dict[str, Any], list[EncoderSpec], dict[str, EncodedPosts]]:
    """What a run that is there already was trained on: posts, their manifest, encoders, features."""
    posts, manifest = prepared_posts(config)
    specs, features = encoded(config, posts, stored_encoders(run))
    return posts, manifest, specs, encoder_data(posts, specs, features)
