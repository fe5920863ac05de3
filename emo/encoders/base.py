"""What an encoder is: a reader that turns what posts have into tensors, and a tower that turns those into features."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from emo.encoders import Branch

if TYPE_CHECKING:  # which itself knows towers
    from emo.models import Projection

Inputs = Mapping[str, Tensor]
"""What a tower reads of B posts, by name: token ids (B, T) and their mask, or pixels (B, 3, H, W) in uint8."""


class Reader(Protocol):
    """Turns what posts have of one modality into tensors. It holds no weights, so that workers without a GPU read."""

    modality: str
    blank: Any
    """A value to encode in place of an absent one; what a tower makes of it counts for nothing."""
    padding: dict[str, int]
    """What fills up the second axis where posts of several batches are put together; empty where all have one size."""

    def __call__(self, values: list[Any], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """Tensors (B, ...) of texts, encoded images or lists of tags; ``rng`` augments images."""

    def is_cut(self, values: list[Any]) -> list[bool]:
        """Whether each value is longer than the tower reads, so that its end is lost."""

    def save(self, folder: str) -> None:
        """Write what the reader itself is loaded from."""


class Tower(nn.Module):
    """Pooled features (B, D) of one modality, before the projection layer."""

    width: int
    num_layers: int = 1
    """How many layers ``layers`` gives, the embeddings counted; 1 where there are none to tell apart."""
    lora_targets: tuple[str, ...] = ()
    """How the names of the modules end that low-rank adapters change; empty where there are none."""

    def forward(self, inputs: Inputs) -> Tensor:
        raise NotImplementedError

    def layers(self, inputs: Inputs) -> Tensor:
        """Pooled features (B, L, D) of the embeddings and of every layer, the last as ``forward`` gives it."""
        return self(inputs).unsqueeze(1)

    def enable_gradient_checkpointing(self) -> None:
        """From now on compute activations again in the backward pass, where that saves memory worth the time."""


@dataclass(frozen=True)
class Encoder:
    """One branch of a checkpoint, ready to encode."""

    branch: Branch
    reader: Reader
    tower: Tower
    projection: "Projection | None"
    """The checkpoint's own last linear layer, into the space that its modalities share."""

    @torch.inference_mode()
    def encode(self, values: list[Any], *, layers: bool = False) -> np.ndarray:
        """Features of B values: (B, D) float32, or of every layer (B, L * D) float16."""
        device = next(chain(self.tower.parameters(), self.tower.buffers())).device
        inputs = {name: tensor.to(device) for name, tensor in self.reader(values).items()}
        if layers:
            return self.tower.layers(inputs).flatten(1).half().cpu().numpy()
        return self.tower(inputs).float().cpu().numpy()
