"""The early-fusion classifier: projected features of each modality, concatenated, then an MLP."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo.config import HeadConfig


@dataclass(frozen=True)
class Projection:
    """An encoder's own last linear layer, from its pooled output to the space that modalities share."""

    weight: np.ndarray
    """(out, in)"""
    bias: np.ndarray | None


class FusionClassifier(nn.Module):
    """Multilabel logits (B, K) from packed features.

    ``packed`` (B, sum of widths + M) holds the pooled features of every modality side by side, then one
    column a modality that is 1 where the post has it and 0 where not. Each modality is projected, brought
    to zero mean and unit variance over its width, and set to zero, its mean, where it is absent.
    """

    def __init__(
        self, widths: dict[str, int], projections: dict[str, Projection | None], num_labels: int, config: HeadConfig
    ) -> None:
        super().__init__()
        self.widths = list(widths.values())
        self.projections = nn.ModuleList([_linear(projections[name], width) for name, width in widths.items()])
        fused = sum(getattr(p, "out_features", width) for p, width in zip(self.projections, self.widths, strict=True))
        self.mlp = _mlp(fused, num_labels, config)

    def fuse(self, packed: Tensor) -> Tensor:
        """Concatenated projected features (B, sum of projected widths)."""
        *features, present = packed.split([*self.widths, len(self.widths)], dim=1)
        projected = [project(x) for project, x in zip(self.projections, features, strict=True)]
        return torch.cat([F.layer_norm(x, x.shape[1:]) * present[:, m : m + 1] for m, x in enumerate(projected)], dim=1)

    def forward(self, packed: Tensor) -> Tensor:
        return self.mlp(self.fuse(packed))


def _linear(projection: Projection | None, width: int) -> nn.Module:
    if projection is None:
        return nn.Identity()
    layer = nn.Linear(width, projection.weight.shape[0], bias=projection.bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(projection.weight))
        if projection.bias is not None:
            layer.bias.copy_(torch.as_tensor(projection.bias))
    return layer


def _mlp(width: int, num_labels: int, config: HeadConfig) -> nn.Sequential:
    """``num_layers`` layers in all, the last of which gives the logits (Passaro et al.: 1 to 3)."""
    layers: list[nn.Module] = [nn.Dropout(config.dropout)]
    for _ in range(config.num_layers - 1):
        layers += [nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        width = config.hidden
    return nn.Sequential(*layers, nn.Linear(width, num_labels))


def start_at_prevalence(model: FusionClassifier, targets: Tensor) -> None:
    """Let the untrained model predict each label's share in ``targets`` (N, K), NaN where unknown, so that no step is
    spent on that."""
    known = (~targets.isnan()).sum(dim=0)
    share = ((targets.nansum(dim=0) + 1) / (known + 2)).clamp(1e-4, 1 - 1e-4)
    last = model.mlp[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.copy_(torch.logit(share))
