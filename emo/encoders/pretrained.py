"""Towers of Hugging Face checkpoints: pooled features before the projection layer, of the last layer or of every one.

What is pooled, by family: CLIP takes the end-of-text token and the class token after the last layer norm; SigLIP and
SigLIP 2 the last token of the text (which is padded to full length) and their attention-pooled image, which has no
projection layer; BERT the mean over tokens; ViT the class token after the last layer norm. BLIP-2 reads both
modalities by its Q-Former: the text's first token, and the mean over the query outputs of an image, whose vision
layers are counted as its embeddings. BERT and ViT have no projection layer either: with them, partial training is
frozen training. Lower layers are pooled likewise; only SigLIP's images, whose attention pooling belongs to the last
layer, are there the mean over patches. Jina CLIP is what its own code makes of it: features in the shared space.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from emo.encoders import Branch, jina
from emo.encoders.base import Inputs, Reader, Tower
from emo.encoders.hub import (
    checkpoint_activations,
    code_options,
    load_image_processor,
    load_model,
    load_tokenizer,
    source_options,
)
from emo.encoders.readers import ImageReader, Normalise, TextReader, model_inputs
from emo.models import Projection

Pool = Callable[[Tensor, Inputs, Any], Tensor]


@dataclass(frozen=True)
class Kind:
    """Where transformers keeps a family's branch, and how it is pooled."""

    model: str
    """The class in transformers."""
    body: Callable[[Any], Any]
    """The part of it that makes states, as outputs with ``last_hidden_state`` and ``hidden_states``."""
    pool: Pool
    """Features (B, D) of a layer's states (B, T, D), given what was read and the body's config."""
    projection: str | None = None
    """The linear layer's name."""
    pools_itself: bool = False
    """Whether the model pools its last layer, in a way of its own."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    options: dict[str, Any] = field(default_factory=dict)


class PretrainedTower(Tower):
    """A model of transformers whose states are pooled."""

    def __init__(self, kind: Kind, model: Any, processor: Any = None) -> None:
        super().__init__()
        self.kind = kind
        self.body = kind.body(model)
        self.config: Any = self.body.config
        self.width = int(self.config.hidden_size)
        self.num_layers = int(self.config.num_hidden_layers) + 1
        self.lora_targets = kind.lora_targets
        self.normalise = None if processor is None else Normalise(processor)

    def forward(self, inputs: Inputs) -> Tensor:
        return self._pooled(self._outputs(inputs), inputs)

    def layers(self, inputs: Inputs) -> Tensor:
        outputs = self._outputs(inputs, output_hidden_states=True)
        lower = [self.kind.pool(states, inputs, self.config) for states in outputs.hidden_states[:-1]]
        return torch.stack([*lower, self._pooled(outputs, inputs)], dim=1)

    def enable_gradient_checkpointing(self) -> None:
        checkpoint_activations(self.body)

    def _outputs(self, inputs: Inputs, **options: Any) -> Any:
        return self.body(**model_inputs(inputs, self.normalise), **options)

    def _pooled(self, outputs: Any, inputs: Inputs) -> Tensor:
        if self.kind.pools_itself:
            return outputs.pooler_output
        return self.kind.pool(outputs.last_hidden_state, inputs, self.config)


def load_reader(branch: Branch) -> Reader:
    """What reads posts for a checkpoint at hand; errors are transformers' own."""
    import transformers

    source = branch.checkpoint, source_options(branch.checkpoint, branch.revision) | code_options(branch.remote_code)
    if branch.modality == "image":
        load = jina.image_processor if branch.family == "jina-clip" else load_image_processor
        return ImageReader(load(transformers, *source))
    is_siglip = branch.family in ("siglip", "siglip2")
    return TextReader(
        load_tokenizer(transformers, *source),
        _max_tokens(branch),
        pads_fully=is_siglip,
        lowercase=branch.family == "siglip2",
    )


def load_tower(branch: Branch, reader: Reader, *, with_weights: bool = True) -> tuple[Tower, Projection | None]:
    """A checkpoint's tower and projection layer; errors are transformers' own.

    Without weights they are to be loaded by the caller: those that are there mean nothing.
    """
    processor = reader.processor if isinstance(reader, ImageReader) else None
    if branch.family == "jina-clip":
        return jina.JinaTower(jina.load(branch, with_weights), branch.modality, processor), None
    kind = KINDS[branch.family, branch.modality]
    model = _model(kind, branch, with_weights)
    projection = _arrays(getattr(model, kind.projection)) if kind.projection else None
    return PretrainedTower(kind, model, processor), projection


def _model(kind: Kind, branch: Branch, with_weights: bool) -> Any:
    import transformers
    from transformers.initialization import no_init_weights

    model_class, options = getattr(transformers, kind.model), source_options(branch.checkpoint, branch.revision)
    if with_weights:
        return load_model(model_class, branch.checkpoint, options | kind.options | {"dtype": torch.float32})
    config = model_class.config_class.from_pretrained(branch.checkpoint, **options)
    with no_init_weights():
        return model_class(config, **kind.options)


def _max_tokens(branch: Branch) -> int:
    import transformers

    if branch.family == "jina-clip":
        return jina.MAX_TOKENS
    model_class = getattr(transformers, KINDS[branch.family, "text"].model)
    options = source_options(branch.checkpoint, branch.revision)
    config = model_class.config_class.from_pretrained(branch.checkpoint, **options)
    return int(getattr(config, "qformer_config", config).max_position_embeddings)


def _arrays(layer: nn.Linear) -> Projection:
    bias = layer.bias.detach().float().numpy() if layer.bias is not None else None
    return Projection(weight=layer.weight.detach().float().numpy(), bias=bias)


class _QFormerText(nn.Module):
    """BLIP-2's Q-Former as a reader of text, without the parts that only images pass through."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings, self.qformer = model.embeddings, model.qformer
        self.config = model.config.qformer_config
        if not self.config.use_qformer_text_input:
            raise ValueError("its config has no use_qformer_text_input; a newer revision does.")
        _drop(self.qformer, "crossattention", "intermediate_query", "output_query")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        words = self.embeddings(input_ids=input_ids)
        return self.qformer(query_embeds=words, query_length=0, attention_mask=attention_mask, **options)


class _QFormerImage(nn.Module):
    """BLIP-2's vision model and its Q-Former, without the parts that only texts pass through."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.qformer, self.query_tokens = model.vision_model, model.qformer, model.query_tokens
        self.config = model.config.qformer_config
        _drop(self.qformer, "intermediate", "output")

    def forward(self, pixel_values: Tensor, **options: Any) -> Any:
        seen = self.vision_model(pixel_values=pixel_values).last_hidden_state
        queries = self.query_tokens.expand(len(seen), -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=seen, **options)


def _drop(qformer: Any, *names: str) -> None:
    """Parameters that never get a gradient stop training on several workers."""
    for layer in qformer.encoder.layer:
        for name in names:
            if hasattr(layer, name):
                delattr(layer, name)


def _siglip_text(model: Any) -> Any:
    model.head = nn.Identity()  # the projection layer, which is trained with the classifier
    return model


def _end_of_text(states: Tensor, inputs: Inputs, config: Any) -> Tensor:
    ids = inputs["input_ids"]
    # transformers, too, takes the highest token id where an old config has 2 for the end of the text
    ends = ids.argmax(dim=1) if config.eos_token_id == 2 else (ids == config.eos_token_id).int().argmax(dim=1)
    return states[torch.arange(len(ids), device=ids.device), ends]


def _first_token(states: Tensor, inputs: Inputs, config: Any) -> Tensor:
    return states[:, 0]


def _last_token(states: Tensor, inputs: Inputs, config: Any) -> Tensor:
    return states[:, -1]


def _mean(states: Tensor, inputs: Inputs, config: Any) -> Tensor:
    return states.mean(dim=1)


def _mean_over_tokens(states: Tensor, inputs: Inputs, config: Any) -> Tensor:
    mask = inputs["attention_mask"].unsqueeze(-1)
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


KINDS: dict[tuple[str, str], Kind] = {
    ("clip", "text"): Kind(
        "CLIPTextModelWithProjection", lambda model: model.text_model, _end_of_text, "text_projection"
    ),
    ("clip", "image"): Kind(
        "CLIPVisionModelWithProjection",
        lambda model: model.vision_model,
        _first_token,
        "visual_projection",
        pools_itself=True,
    ),
    ("siglip", "text"): Kind("SiglipTextModel", _siglip_text, _last_token, "head"),
    ("siglip", "image"): Kind("SiglipVisionModel", lambda model: model, _mean, pools_itself=True),
    ("blip2", "text"): Kind(
        "Blip2TextModelWithProjection", _QFormerText, _first_token, "text_projection", lora_targets=("query", "value")
    ),
    ("blip2", "image"): Kind(
        "Blip2VisionModelWithProjection",
        _QFormerImage,
        _mean,
        "vision_projection",
        lora_targets=("query", "value", "qkv"),
    ),
    ("bert", "text"): Kind(
        "BertModel",
        lambda model: model,
        _mean_over_tokens,
        lora_targets=("query", "value"),
        options={"add_pooling_layer": False},
    ),
    ("vit", "image"): Kind("ViTModel", lambda model: model, _first_token, options={"add_pooling_layer": False}),
}
KINDS |= {("siglip2", modality): KINDS["siglip", modality] for modality in ("text", "image")}
"""By family and modality; SigLIP 2 of fixed resolution has the classes of SigLIP."""
