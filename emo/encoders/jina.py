"""Jina CLIP, whose code comes with its checkpoint: its features are what that code makes of a text or an image."""

from typing import Any

import torch
from torch import Tensor

from emo.encoders import Branch
from emo.encoders.base import Inputs, Tower
from emo.encoders.hub import checkpoint_activations, code_options, load_model, source_options
from emo.encoders.readers import Normalise, model_inputs

MAX_TOKENS = 8192
"""What Jina CLIP reads of a text, by its model card; its code has no limit."""


class JinaTower(Tower):
    """One side of the model; of its layers nothing is known here, so there is only the last."""

    def __init__(self, model: Any, modality: str, processor: Any = None) -> None:
        super().__init__()
        other = {"text": "vis", "image": "text"}[modality]
        for name in [name for name, _ in model.named_children() if name.startswith(other)]:
            setattr(model, name, None)
        for parameter in model.parameters(recurse=False):  # the temperature of its loss
            parameter.requires_grad_(False)
        self.body = model
        self.width = int(model.config.projection_dim)
        self.modality = modality
        self.normalise = None if processor is None else Normalise(processor)

    def forward(self, inputs: Inputs) -> Tensor:
        get = self.body.get_text_features if self.modality == "text" else self.body.get_image_features
        return get(**model_inputs(inputs, self.normalise))

    def enable_gradient_checkpointing(self) -> None:
        checkpoint_activations(self.body)


def load(branch: Branch, with_weights: bool) -> Any:
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    options = source_options(branch.checkpoint, branch.revision) | code_options(branch.remote_code)
    if with_weights:
        return load_model(transformers.AutoModel, branch.checkpoint, options | {"dtype": torch.float32})
    config = transformers.AutoConfig.from_pretrained(branch.checkpoint, **options)
    # AutoModel.from_config fails once the same code was loaded, as for the other branch of the checkpoint
    return get_class_from_dynamic_module(config.auto_map["AutoModel"], branch.checkpoint, **options)(config)


def image_processor(transformers: Any, checkpoint: str, options: dict[str, Any]) -> Any:
    """Jina CLIP's image processor is code of its own; what it does to an image is what CLIP's does."""
    found, _ = transformers.CLIPImageProcessorPil.get_image_processor_dict(checkpoint, **options)
    if "image_mean" in found:  # as this function's own result is saved
        return transformers.CLIPImageProcessorPil.from_dict(found)
    if (found.get("resize_mode"), found.get("interpolation")) != ("shortest", "bicubic"):
        raise ValueError("its images are resized in a way that is not known.")
    side = int(found["size"])
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=found["mean"],
        image_std=found["std"],
    )
