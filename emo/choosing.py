"""What is to be tried: the encoders, and whether corpus and cluster allow what is asked of them."""

from emo.config import PRESETS, EncodersConfig, Mode, SweepConfig, UserError
from emo.console import say, warn
from emo.encoded import encoded_posts
from emo.encoders import FAMILIES, NO_LORA, ONE_LAYER, UNTRAINED, EncoderSpec, parse_encoder
from emo.losses import check_single_label
from emo.pipeline import Posts, mode_of


def check_choices(config: SweepConfig, posts: Posts) -> None:
    """A UserError where these posts can never be trained on as it was asked."""
    if "softmax" in config.space.loss:
        check_single_label(encoded_posts(posts.folder, [], config.fold).targets)


def chosen_encoders(config: EncodersConfig, posts: Posts) -> list[EncoderSpec]:
    """The encoders to try; those of a preset that ask for what this corpus lacks are left out with a word."""
    remote_code = (config.code_revision or config.revision) if config.trust_remote_code else None
    named = PRESETS[config.preset].encoders if config.encoders is None else config.encoders
    specs = [parse_encoder(name, config.revision, remote_code) for name in named]
    warn_of_code(specs)
    if config.encoders is not None:
        for spec in specs:
            if reason := _unfit(spec, posts) or _unfit_for(spec, mode_of(config)):
                raise UserError(f"--encoders {spec.name} {reason}.")
        if len({spec.name for spec in specs}) < len(specs):
            raise UserError("--encoders names the same encoder twice.")
        return specs
    reasons = {spec.name: _unfit(spec, posts) for spec in specs}
    for name, reason in reasons.items():
        if reason:
            say(f"left out: {name} {reason}")
    fit = [spec for spec in specs if not reasons[spec.name]]
    if not fit:
        raise UserError(f"No encoder of --preset {config.preset} fits this corpus; name one with --encoders.")
    return fit


def _unfit(spec: EncoderSpec, posts: Posts) -> str | None:
    """Why an encoder has nothing to read in a corpus, or None."""
    counts = posts.manifest["modalities"]
    reads_tags = posts.text.tags == "append" and counts["tags"] > 0 and "tags" not in spec.modalities
    has_text = counts["text"] > 0 or reads_tags or posts.text.captions is not None
    has = {"image": counts["image"] > 0, "text": has_text, "tags": counts["tags"] > 0}
    lacking = [modality for modality in spec.modalities if not has[modality]]
    if lacking:
        return f"reads {' and '.join(spec.modalities)}, and no post here has {' or '.join(lacking)}"
    learns_pairs = any(branch.is_built and len(FAMILIES[branch.family]) > 1 for branch in spec.branches)
    if learns_pairs and not (has["text"] and has["image"]):
        return "learns from posts with text and image, and this corpus has none"
    return None


def _unfit_for(spec: EncoderSpec, mode: Mode) -> str | None:
    """Why an encoder cannot be trained in a mode, or None."""
    families = [branch.family for branch in spec.branches]
    untrained = [family for family in families if family in UNTRAINED]
    if untrained and mode in ("frozen", "partial", "layer-mix"):
        return f"learns {' and '.join(untrained)} from scratch, so that nothing can be kept frozen; use --mode full"
    if mode == "layer-mix" and (single := [family for family in families if family in ONE_LAYER]):
        return f"has no layers of {' and '.join(single)} to weigh; use --mode frozen or partial"
    if mode == "lora" and all(family in NO_LORA for family in families):
        return "has no layers that take adapters; use --mode full"
    return None


def warn_of_code(specs: list[EncoderSpec]) -> None:
    """Say whose code will run."""
    for branch in {b.checkpoint: b for spec in specs for b in spec.branches if b.remote_code is not None}.values():
        warn(f"the Python code of {branch.checkpoint} will run with your rights, at revision {branch.remote_code}")
