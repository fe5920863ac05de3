"""Captions of posts' images by a pretrained captioner, as BLIP-2 (Passaro et al., section 2); text branches read them.

Decoding is greedy, so that the same checkpoint, posts and settings give the same captions.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from safetensors import SafetensorError

from emo import storage
from emo.config import UserError
from emo.encode import actor_device, map_posts
from emo.encoders.hub import (
    folder_digest,
    load_image_processor,
    load_model,
    load_tokenizer,
    source_options,
    unreadable,
)
from emo.encoders.readers import pixels
from emo.parts import gather
from emo.posts import posts_manifest
from emo.prepare import plain_errors
from emo.room import capacity, has_gpus
from emo.tables import stream_folder
from emo.work import Manifest, make_set

FAMILIES = ("blip-2", "blip", "git", "vision-encoder-decoder")
"""The model types that describe an image without being asked to, as transformers calls them."""

DECODING = {"do_sample": False, "num_beams": 1, "no_repeat_ngram_size": 3}
"""Greedy, and no three tokens in a row that the caption has already: captioners fall into loops."""

_ROOM = 1.3
"""An actor on CPU needs so many times the bytes of its weights."""


@dataclass(frozen=True)
class Captioner:
    """A checkpoint that describes images, at hand and with its revision known."""

    checkpoint: str
    """A hub id or a local folder."""
    family: str
    revision: str
    """A hub commit, or the digest of a local folder's files."""


def resolve_captioner(checkpoint: str, revision: str | None = None) -> Captioner:
    """The captioner that a hub id or a local folder names; a UserError where it is none that is known."""
    if is_local := Path(checkpoint).is_dir():  # in full, since workers may start elsewhere
        checkpoint = str(Path(checkpoint).absolute())
    config = _config(checkpoint, revision)
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"--captioner {checkpoint} is of the family {config.model_type}; it must be one of {known}.")
    found = folder_digest(Path(checkpoint)) if is_local else config._commit_hash
    return Captioner(checkpoint=checkpoint, family=config.model_type, revision=found)


def _config(checkpoint: str, revision: str | None) -> Any:
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(
            checkpoint, trust_remote_code=False, **source_options(checkpoint, revision)
        )
    except (OSError, ValueError) as error:
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: str, error: Exception) -> UserError:
    return unreadable(checkpoint, "captioning", "--captioner /path", error)


class Caption:
    """Holds a captioner and describes the images of batches of posts; posts without an image fall away."""

    def __init__(self, captioner: Captioner, max_tokens: int, prompt: str | None = None, threads: int = 1) -> None:
        import transformers

        self.device = torch.device(actor_device())
        torch.set_num_threads(threads)
        self.dtype = _half() if self.device.type == "cuda" else torch.float32
        checkpoint = captioner.checkpoint
        options = source_options(checkpoint, captioner.revision) | {"trust_remote_code": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # no captioner reads the pooled image, and published checkpoints lack that layer
                kind = transformers.AutoModelForImageTextToText
                model = load_model(kind, checkpoint, options | {"dtype": self.dtype}, unused="pooler")
                self.tokenizer = load_tokenizer(transformers, checkpoint, options)
                self.image_processor = load_image_processor(transformers, checkpoint, options)
            if captioner.family == "blip-2" and model.config.image_token_id is None:
                raise ValueError("it names no image token; a newer revision does.")
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unreadable(checkpoint, error) from error
        self.model: Any = model.eval().requires_grad_(False).to(self.device)
        self.settings = DECODING | {"max_new_tokens": max_tokens}
        self.prompt = prompt_tokens(captioner.family, model.config, self.tokenizer, prompt) if prompt else []
        self.prompt_text = self._words(self.prompt)

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = batch.filter(pc.is_valid(batch["image"]))
        captions = self.describe(batch["image"].to_pylist()) if batch.num_rows else []
        return pa.table({"post_id": batch["post_id"], "caption": pa.array(captions, pa.string())})

    @torch.inference_mode()
    def describe(self, images: list[bytes]) -> list[str | None]:
        """One line for each encoded image, without the prompt; None where the captioner has nothing to say."""
        inputs = {"pixel_values": pixels(self.image_processor, images).to(self.device, self.dtype)}
        if self.prompt:
            name = "decoder_input_ids" if self.model.config.model_type == "vision-encoder-decoder" else "input_ids"
            inputs[name] = torch.tensor([self.prompt] * len(images), device=self.device)
        made = self.model.generate(**inputs, **self.settings).tolist()
        return [self._words(tokens).removeprefix(self.prompt_text).strip() or None for tokens in made]

    def _words(self, tokens: list[int]) -> str:
        """Tokens as one line."""
        return " ".join(self.tokenizer.decode(tokens, skip_special_tokens=True).split())


def _half() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def prompt_tokens(family: str, config: Any, tokenizer: Any, prompt: str) -> list[int]:
    """The tokens from which a captioner of a family goes on to write, as its ``generate`` takes them."""
    tokens: list[int] = tokenizer(prompt)["input_ids"]
    match family:
        case "blip-2":  # the image takes the place of its tokens
            return [config.image_token_id] * config.num_query_tokens + tokens
        case "git":  # its last token ends a text
            return tokens[:-1]
        case "vision-encoder-decoder":  # generate puts the start in front
            return tokenizer(prompt, add_special_tokens=False)["input_ids"]
        case _:
            return tokens


def caption_posts(
    posts: str,
    captioner: Captioner,
    cache: str,
    *,
    max_tokens: int = 30,
    prompt: str | None = None,
    refresh: bool = False,
) -> tuple[str, Manifest, bool]:
    """Caption every post of a prepared folder that has an image, or find that a former run already did.

    Returns the folder of the set, its manifest, and whether it was there. The rows are ``post_id`` and ``caption``,
    which is null where the captioner had nothing to say.
    """
    prepared = posts_manifest(posts)
    if not prepared["modalities"]["image"]:
        raise UserError("No post has an image, so there is nothing to caption.")
    key = captions_key(posts, captioner, max_tokens=max_tokens, prompt=prompt)
    folder = storage.join(cache, "captions", key)

    def make(work: str) -> Manifest:
        parts, data = storage.join(work, "parts"), storage.new_data_folder()
        num_actors, threads = _share_machine(captioner)
        arguments, columns = (captioner, max_tokens, prompt, threads), ["post_id", "image"]
        num_posts = prepared["num_posts"]
        rate = map_posts(posts, parts, "posts captioned", Caption, arguments, columns, num_posts, num_actors)
        gather(parts, storage.join(folder, data))
        counts = _counts(storage.join(folder, data))
        return {
            "kind": "captions",
            "data": data,
            "posts": prepared["fingerprint"],
            "checkpoint": captioner.checkpoint,
            "family": captioner.family,
            "revision": captioner.revision,
            "max_tokens": max_tokens,
            "prompt": prompt,
            **counts,
            "captions_per_second": round(rate * counts["num_images"] / num_posts, 2),
        }

    with plain_errors(f"Captions cannot be written to {folder}"):
        found, reused = make_set(folder, key, make, refresh=refresh)
    return folder, found, reused


def captions_key(posts: str, captioner: Captioner, *, max_tokens: int, prompt: str | None) -> str:
    """The name of a set of captions: it changes with the posts, the checkpoint, and how captions are decoded."""
    fingerprint = posts_manifest(posts)["fingerprint"]
    return storage.digest([fingerprint, captioner.family, captioner.revision, max_tokens, prompt, DECODING])


def asked_for(manifest: Manifest) -> dict[str, Any]:
    """What would give captions of other posts as those of a set: the fields of CaptionChoices."""
    checkpoint = manifest["checkpoint"]
    is_local = Path(checkpoint).is_dir()  # whose revision is a digest, and asked of nobody
    return {
        "captioner": checkpoint,
        "revision": None if is_local else manifest["revision"],
        "max_tokens": manifest["max_tokens"],
        "prompt": manifest["prompt"],
    }


def _share_machine(captioner: Captioner) -> tuple[int, int]:
    """How many actors there are, and the threads of each: one on every GPU, or else as many on the cores as memory
    has room for the weights."""
    room = capacity()
    cpus = max(1, int(room["CPU"]))
    if has_gpus():
        return int(room["GPU"]), max(1, cpus // int(room["GPU"]))
    memory = ray.cluster_resources().get("memory", 0)
    num_actors = min(cpus, max(1, int(memory / (_ROOM * _num_bytes(captioner)))))
    return num_actors, max(1, cpus // num_actors)


def _num_bytes(captioner: Captioner) -> int:
    """Of the weights in float32, told by the config alone."""
    import transformers

    config = _config(captioner.checkpoint, captioner.revision)
    with torch.device("meta"):
        return 4 * transformers.AutoModelForImageTextToText.from_config(config).num_parameters()


def _counts(data: str) -> dict[str, int]:
    nulls = [(batch.num_rows, batch["caption"].null_count) for batch in stream_folder(data, ["caption"])]
    images, empty = (sum(each) for each in zip(*nulls, strict=True))
    return {"num_images": images, "num_captions": images - empty}
