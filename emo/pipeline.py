"""The stages that several jobs begin with: posts, encoders, features; each found in the cache where it already is."""

import inspect
from dataclasses import dataclass, replace

from rich import filesize

from emo import demo, storage
from emo.batches import read_plan
from emo.bundle import Bundle
from emo.captions import caption_posts, resolve_captioner
from emo.config import (
    TRAINS_ENCODERS,
    CaptionChoices,
    EmbedConfig,
    EncodersConfig,
    HeadConfig,
    Mode,
    PostsConfig,
    PredictConfig,
    ReadingConfig,
    SweepConfig,
    from_dict,
)
from emo.console import say
from emo.encoded import EncodedPosts, encoded_posts
from emo.encoders import Branch, EncoderSpec
from emo.encoders.load import load_reader
from emo.features import Features, embed, resolve_encoders
from emo.losses import goals_of, prevalence_of
from emo.posts import folded, posts_manifest
from emo.prepare import Purpose, posts_key, prepare
from emo.raw import Source
from emo.reading import Cut, TextVariant, find_cut
from emo.run import Run, stored_encoders
from emo.sources import find_sources
from emo.sweep import fixed_choices
from emo.train_loop import TrainingJob
from emo.work import Manifest, make_set

EMBEDDED = "embedded corpus"


@dataclass(frozen=True)
class Posts:
    """The posts that a job works on."""

    folder: str
    """A folder of prepared posts."""
    manifest: Manifest
    """Its manifest, with the splits as of ``--fold``."""
    text: TextVariant


def posts_of(config: ReadingConfig) -> Posts:
    """The prepared posts that ``--data`` stands for, captioned where a captioner is named."""
    folder, manifest = prepared_posts(config, refresh=config.refresh)
    captions = None
    if config.caption.captioner is not None:
        captions, _, reused = captioned(folder, config.caption, config.cache, refresh=config.refresh)
        say(f"captions: {'reused from' if reused else 'written to'} {captions}")
    return Posts(folder, folded(manifest, config.fold), TextVariant(config.tags, captions))


def prepared_posts(config: PostsConfig, *, refresh: bool = False) -> tuple[str, Manifest]:
    """The folder of prepared posts that ``--data`` stands for, and its manifest."""
    if len(config.data) == 1 and prepared_folder(config.data[0]):
        return config.data[0], posts_manifest(config.data[0])
    sources = raw_posts(config)
    folder = storage.join(config.cache, "posts", posts_key(sources, config.prepare, config.seed))
    found, reused = prepare_into(folder, config, sources, refresh=refresh)
    if reused:
        say(f"posts: reused from {folder}")
    return folder, found


def captioned(posts: str, choices: CaptionChoices, cache: str, *, refresh: bool = False) -> tuple[str, Manifest, bool]:
    """The folder of the captions that the choices ask for, its manifest, and whether it was there."""
    captioner = resolve_captioner(str(choices.captioner), choices.revision)
    return caption_posts(posts, captioner, cache, max_tokens=choices.max_tokens, prompt=choices.prompt, refresh=refresh)


def prepared_folder(uri: str) -> bool:
    """Whether this is a folder that prepare wrote."""
    return (storage.manifest(uri) or {}).get("kind") == "posts"


def raw_posts(config: PostsConfig) -> list[Source]:
    data = config.data or (embedded_corpus(config.cache, config.seed),)
    return find_sources(data, config.prepare, config.cache)


def prepare_into(
    folder: str, config: PostsConfig, sources: list[Source], *, refresh: bool = False
) -> tuple[Manifest, bool]:
    """Prepare the posts that ``--data`` names into ``folder``; returns the manifest, and whether it was there."""
    return prepare(
        sources,
        folder,
        config.prepare,
        seed=config.seed,
        source_name=None if config.data else EMBEDDED,
        refresh=refresh,
    )


def posts_to_predict(config: PredictConfig, bundle: Bundle) -> Posts:
    """Posts prepared as a model's own were, with their labels where those are to be compared."""
    wanted = replace(
        bundle.prepare,
        corpus=config.corpus,
        columns=config.columns,
        labels=",".join(bundle.labels),
        label_map=(*bundle.prepare.label_map, *config.label_map),
        bad_images=config.bad_images,
        images=config.images,
        fetch_images=config.fetch_images,
        fetch=config.fetch,
        near_duplicates="ignore",
        folds=0,
        fold_repeats=1,
    )
    data = config.data or (embedded_corpus(config.cache, config.seed),)
    sources = find_sources(data, wanted, config.cache)
    purpose: Purpose = "evaluate" if config.evaluate else "read"
    folder = storage.join(config.cache, "posts", posts_key(sources, wanted, 0, purpose, config.keep_columns))
    name = None if config.data else EMBEDDED
    manifest, _ = prepare(sources, folder, wanted, seed=0, purpose=purpose, keep=config.keep_columns, source_name=name)
    captions = None
    if bundle.captions is not None and manifest["modalities"]["image"]:
        captions, *_ = captioned(folder, from_dict(CaptionChoices, bundle.captions), config.cache)
    return Posts(folder, manifest, TextVariant(bundle.tags, captions))


def embedded_corpus(cache: str, seed: int) -> str:
    """The raw file of the embedded corpus; other code that draws it makes another folder."""
    key = storage.digest([seed, inspect.getsource(demo)])
    folder = storage.join(cache, "demo", key)

    def make(_: str) -> Manifest:
        data = storage.new_data_folder()
        uri = demo.write_corpus(storage.join(folder, data), seed)
        return {"kind": "raw", "file": storage.join(data, uri.rsplit("/", 1)[-1])}

    found, _ = make_set(folder, key, make)
    return storage.join(folder, found["file"])


def mode_of(config: EncodersConfig) -> Mode:
    """What the encoders are wanted for."""
    if isinstance(config, SweepConfig):
        return config.mode
    return "layer-mix" if isinstance(config, EmbedConfig) and config.layers else "frozen"


def encoded(
    config: EncodersConfig, posts: Posts, specs: list[EncoderSpec]
) -> tuple[list[EncoderSpec], dict[Branch, Features]]:
    """The encoders with their checkpoints at hand, and every branch's features, where it stays as it is."""
    specs = resolved(config, posts, specs)
    return specs, features_of(config, posts, specs)


def resolved(config: EncodersConfig, posts: Posts, specs: list[EncoderSpec]) -> list[EncoderSpec]:
    """The encoders with their checkpoints at hand."""
    if any(branch.is_built for spec in specs for branch in spec.branches):
        say("encoders: building what learns from this corpus, or finding it built")
    return resolve_encoders(specs, posts.folder, config.cache, text=posts.text, seed=config.seed, fold=config.fold)


def features_of(config: EncodersConfig, posts: Posts, specs: list[EncoderSpec]) -> dict[Branch, Features]:
    """Every branch's features, where it stays as it is."""
    features: dict[Branch, Features] = {}
    if mode_of(config) in TRAINS_ENCODERS:
        return features
    for branch in dict.fromkeys(branch for spec in specs for branch in spec.branches):
        names = "/".join(spec.name for spec in specs if branch in spec.branches)
        features[branch] = embed(
            posts.folder,
            branch,
            config.cache,
            text=posts.text,
            layers=mode_of(config) == "layer-mix",
            refresh=config.refresh,
        )
        how = "reused from" if features[branch].reused else "written to"
        size = filesize.decimal(sum(storage.list_files(features[branch].folder).values()))
        say(f"features: {branch.modality} of {names} {how} {features[branch].folder} ({size})")
    return features


def cuts(posts: Posts, specs: list[EncoderSpec], features: dict[Branch, Features]) -> dict[Branch, Cut]:
    """What is longer than a branch reads, by branch."""
    branches = {branch for spec in specs for branch in spec.branches if branch.modality != "image"}
    return {
        b: features[b].cut if b in features else find_cut(posts.folder, load_reader(b), posts.text.of(b))
        for b in branches
    }


def encoder_data(
    config: SweepConfig, posts: Posts, specs: list[EncoderSpec], features: dict[Branch, Features]
) -> dict[str, EncodedPosts]:
    """The labelled posts as each encoder sees them, by the encoder's name."""
    return {
        spec.name: encoded_posts(posts.folder, [features[b] for b in spec.branches if b in features], config.fold)
        for spec in specs
    }


def training_jobs(
    config: SweepConfig,
    posts: Posts,
    specs: list[EncoderSpec],
    data: dict[str, EncodedPosts],
    head: HeadConfig | None = None,
) -> dict[str, TrainingJob]:
    """What Ray Train workers are told about each encoder; none where the encoders stay as they are."""
    if config.mode not in TRAINS_ENCODERS:
        return {}
    train, val = (read_plan(posts.folder, split, config.fold) for split in ("train", "val"))
    any_data = data[specs[0].name].for_training()
    goals = goals_of(any_data.train_targets, any_data.train_shares, any_data.trains_on, "bce")
    prevalence = tuple(prevalence_of(goals).tolist())
    return {
        spec.name: TrainingJob(
            train=train,
            val=val,
            branches=spec.branches,
            text=posts.text,
            prevalence=prevalence,
            label_threshold=posts.manifest["label_threshold"],
            trains_on=posts.manifest["targets"],
            head=head or fixed_choices(config),
            training=config.training,
        )
        for spec in specs
    }


def data_of_run(run: Run, config: SweepConfig) -> tuple[Posts, list[EncoderSpec], dict[str, EncodedPosts]]:
    """What a run that is there already was trained on: posts, encoders, features."""
    posts = posts_of(config)
    specs, features = encoded(config, posts, stored_encoders(run))
    return posts, specs, encoder_data(config, posts, specs, features)
