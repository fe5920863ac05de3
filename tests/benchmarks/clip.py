"""CLIP checkpoints with random weights, of any size: speed does not ask what the weights say."""

from pathlib import Path
from typing import Any

from checkpoints import write_checkpoint
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from emo.encoders import Branch
from emo.encoders.hub import resolve

TINY = {"width": 96, "num_layers": 2, "image_size": 64, "patch_size": 8}
"""The size of the demo's own tiny-clip."""
MIDDLE = {"width": 256, "num_layers": 6, "image_size": 224, "patch_size": 32}


def write_clip(folder: Path, *, width: int, num_layers: int, image_size: int, patch_size: int) -> dict[str, Branch]:
    """A checkpoint folder; returns its resolved branches by modality."""
    config = CLIPConfig.from_pretrained(write_checkpoint("clip", folder))  # whose tokenizer stays
    tower: dict[str, Any] = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": num_layers}
    for part in (config.text_config, config.vision_config):
        part.update(tower | {"projection_dim": width})
    config.vision_config.update({"image_size": image_size, "patch_size": patch_size})
    config.projection_dim = width
    CLIPModel(config).save_pretrained(folder)
    square = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square).save_pretrained(folder)
    return {name: resolve(Branch(modality=name, family="clip", checkpoint=str(folder))) for name in ("text", "image")}
