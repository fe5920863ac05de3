"""Hugging Face checkpoints as frozen encoders: pooled features before the projection layer, and that layer.

What is pooled, by family: CLIP takes the end-of-text token and the class token after the last layer norm;
SigLIP the last token of the text (which it pads to full length) and its attention-pooled image, which has no
projection layer; BERT the mean over tokens; ViT the class token after the last layer norm. BERT and ViT have no
projection layer either: with them, partial training is frozen training.
"""

import hashlib
import io
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from emo import storage
from emo.config import UserError
from emo.encoders import Branch
from emo.models import Projection

POOLING = {"clip": "eos-token/class-token", "siglip": "last-token/attention", "bert": "mean", "vit": "class-token"}


class PretrainedEncoder:
    """One branch of a checkpoint, ready to encode on ``device``."""

    def __init__(self, branch: Branch, device: str = "cpu") -> None:
        import transformers

        branch = replace(branch, checkpoint=storage.local_copy(branch.checkpoint))
        self.modality = branch.modality
        self.device = torch.device(device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source = branch.checkpoint, source_options(branch.checkpoint, branch.revision)
                model, projection = _LOADERS[branch.family, branch.modality](transformers, *source)
                load_processor = load_tokenizer if branch.modality == "text" else load_image_processor
                self.processor = load_processor(transformers, *source)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unreadable(branch, error) from error
        model.eval().requires_grad_(False).to(self.device)
        self.model: Any = model
        self.width = int(self.model.config.hidden_size)
        self.projection = _arrays(projection)
        self.pads_fully = branch.family == "siglip"
        self.pool = _POOLS[branch.family, branch.modality]
        if self.modality == "text":
            limit = int(self.model.config.max_position_embeddings)
            self.max_tokens = min(limit, self.processor.model_max_length)

    @torch.inference_mode()
    def encode(self, values: list[Any]) -> np.ndarray:
        """Pooled features (B, D), float32, of texts or of encoded image bytes."""
        inputs = self._texts(values) if self.modality == "text" else self._images(values)
        outputs = self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        return self.pool(outputs, inputs).float().cpu().numpy()

    def is_cut(self, texts: list[str]) -> list[bool]:
        """Whether each text has more tokens than the model reads, so that its last words are lost."""
        room = self.max_tokens - self.processor.num_special_tokens_to_add() - 1  # a tokenizer may put a space in front
        cut = np.array([_num_bytes(text) > room for text in texts], bool)
        if long := [text for text, is_long in zip(texts, cut, strict=True) if is_long]:
            cut[cut] = [len(ids) > self.max_tokens for ids in self.processor(long, verbose=False)["input_ids"]]
        return cut.tolist()

    def _texts(self, texts: list[str]) -> dict[str, Tensor]:
        padding = "max_length" if self.pads_fully else "longest"
        encoded = self.processor(
            texts, padding=padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        # SigLIP was trained to see its padding; a mask would change its last token
        names = ["input_ids"] if self.pads_fully else ["input_ids", "attention_mask"]
        return {name: encoded[name] for name in names}

    def _images(self, images: list[bytes]) -> dict[str, Tensor]:
        return {"pixel_values": pixels(self.processor, images)}


def resolve(branch: Branch) -> Branch:
    """The branch with its revision written down: the hub's commit, or the digest of a local folder."""
    if storage.is_remote(branch.checkpoint):
        return replace(branch, revision=folder_digest(Path(storage.local_copy(branch.checkpoint))))
    if Path(branch.checkpoint).is_dir():  # in full, since workers and later runs may start elsewhere
        folder = Path(branch.checkpoint).absolute()
        return replace(branch, checkpoint=str(folder), revision=folder_digest(folder))
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(branch.checkpoint, revision=branch.revision or "main")
    except (OSError, ValueError) as error:
        raise _unreadable(branch, error) from error
    return replace(branch, revision=config._commit_hash)


def source_options(checkpoint: str, revision: str | None) -> dict[str, Any]:
    """How transformers loads a checkpoint at its revision; no code of the checkpoint is ever run."""
    return {} if Path(checkpoint).is_dir() else {"revision": revision or "main"}


def load_tokenizer(transformers: Any, checkpoint: str, options: dict[str, Any]) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, **options)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("it has no tokenizer files, so every word would be unknown.")
    return tokenizer


def load_image_processor(transformers: Any, checkpoint: str, options: dict[str, Any]) -> Any:
    return transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **options)


def pixels(processor: Any, images: list[bytes]) -> Tensor:
    """Encoded images as an image processor's tensor (B, 3, H, W)."""
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
    return processor(images=opened, return_tensors="pt")["pixel_values"]


def _num_bytes(text: str) -> int:
    """No fewer than the tokens of a text, whatever the tokenizer's normalisation: in UTF-8, taken apart in full."""
    return len(text if text.isascii() else unicodedata.normalize("NFKD", text).encode())


def folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _unreadable(branch: Branch, error: Exception) -> UserError:
    return unreadable(branch.checkpoint, branch.family, f"--encoders {branch.family}:/path", error)


def unreadable(checkpoint: str, kind: str, local_flag: str, error: Exception) -> UserError:
    """Why transformers could not load a checkpoint, in one sentence."""
    if Path(checkpoint).is_absolute():
        return UserError(f"The folder {checkpoint} holds no readable {kind} checkpoint: {_first_line(error)}")
    if not isinstance(error, OSError):
        return UserError(f"The checkpoint {checkpoint} is no readable {kind} checkpoint: {_first_line(error)}")
    return UserError(
        f"The checkpoint {checkpoint} is neither in this machine's Hugging Face cache nor could it be fetched "
        f"from the hub; check the name and the network, or name a local copy with {local_flag}."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def load_model(kind: Any, checkpoint: str, options: dict[str, Any], unused: str | None = None) -> Any:
    """A model whose every weight is in the checkpoint: transformers would make up the others at random.

    Weights with ``unused`` in their name may be lacking.
    """
    options = options | {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if Path(checkpoint).is_dir():  # a bundle carries these folders on, and it holds no pickles
        options["use_safetensors"] = True
    model, found = kind.from_pretrained(checkpoint, **options)
    missing = [name for name in found["missing_keys"] if unused is None or unused not in name]
    if made_up := len(missing) + len(found["mismatched_keys"]):
        raise ValueError(f"{made_up} of its weights are missing or of another size; is it of another family?")
    return model


def _clip_text(transformers: Any, checkpoint: str, options: dict[str, Any]) -> tuple[Any, nn.Linear]:
    model = load_model(transformers.CLIPTextModelWithProjection, checkpoint, options)
    return model.text_model, model.text_projection


def _clip_image(transformers: Any, checkpoint: str, options: dict[str, Any]) -> tuple[Any, nn.Linear]:
    model = load_model(transformers.CLIPVisionModelWithProjection, checkpoint, options)
    return model.vision_model, model.visual_projection


def _siglip_text(transformers: Any, checkpoint: str, options: dict[str, Any]) -> tuple[Any, nn.Linear]:
    model = load_model(transformers.SiglipTextModel, checkpoint, options)
    return model, model.head


def _siglip_image(transformers: Any, checkpoint: str, options: dict[str, Any]) -> tuple[Any, None]:
    return load_model(transformers.SiglipVisionModel, checkpoint, options), None


def _bert_text(transformers: Any, checkpoint: str, options: dict[str, Any]) -> tuple[Any, None]:
    return load_model(transformers.BertModel, checkpoint, options | {"add_pooling_layer": False}), None


def _vit_image(transformers: Any, checkpoint: str, options: dict[str, Any]) -> tuple[Any, None]:
    return load_model(transformers.ViTModel, checkpoint, options | {"add_pooling_layer": False}), None


def _arrays(layer: nn.Linear | None) -> Projection | None:
    if layer is None:
        return None
    bias = layer.bias.detach().float().numpy() if layer.bias is not None else None
    return Projection(weight=layer.weight.detach().float().numpy(), bias=bias)


def _pooled(outputs: Any, inputs: dict[str, Tensor]) -> Tensor:
    return outputs.pooler_output


def _last_token(outputs: Any, inputs: dict[str, Tensor]) -> Tensor:
    return outputs.last_hidden_state[:, -1]


def _first_token(outputs: Any, inputs: dict[str, Tensor]) -> Tensor:
    return outputs.last_hidden_state[:, 0]


def _mean_over_tokens(outputs: Any, inputs: dict[str, Tensor]) -> Tensor:
    mask = inputs["attention_mask"].to(outputs.last_hidden_state.device).unsqueeze(-1)
    return (outputs.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


_LOADERS = {
    ("clip", "text"): _clip_text,
    ("clip", "image"): _clip_image,
    ("siglip", "text"): _siglip_text,
    ("siglip", "image"): _siglip_image,
    ("bert", "text"): _bert_text,
    ("vit", "image"): _vit_image,
}

_POOLS = {
    ("clip", "text"): _pooled,
    ("clip", "image"): _pooled,
    ("siglip", "text"): _last_token,
    ("siglip", "image"): _pooled,
    ("bert", "text"): _mean_over_tokens,
    ("vit", "image"): _first_token,
}
