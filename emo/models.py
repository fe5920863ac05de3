"""The classifier: features of each modality, projected or mixed from layers, fused into one vector, then an MLP."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo.config import HeadConfig

RANK = 4
"""Of low-rank fusion: a very low one is enough, Liu et al. find."""


@dataclass(frozen=True)
class Projection:
    """An encoder's own last linear layer, from its pooled output to the space that modalities share."""

    weight: np.ndarray
    """(out, in)"""
    bias: np.ndarray | None


@dataclass(frozen=True)
class FeatureSpec:
    """What the features of one modality are."""

    width: int
    """D, of one layer."""
    projection: Projection | None = None
    num_layers: int = 1
    """Several stand side by side, (L * D); they are mixed, and not projected."""

    @property
    def packed_width(self) -> int:
        return self.num_layers * self.width


class FusionClassifier(nn.Module):
    """Logits (B, K) from packed features.

    ``packed`` (B, sum of L * D over modalities + M) holds the pooled features of every modality side by side, then one
    column a modality that is 1 where the post has it and 0 where not. Each modality is projected and brought to zero
    mean and unit variance over its width, or mixed from its layers, and set to zero where it is absent.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], num_labels: int, config: HeadConfig) -> None:
        super().__init__()
        self.widths = [spec.packed_width for spec in specs.values()]
        branches = [_branch(spec) for spec in specs.values()]
        self.projections = nn.ModuleList([module for module, _ in branches])
        widths = [width for _, width in branches]
        self.fusion = FUSIONS[config.fusion if len(widths) > 1 else "concat"](widths, config.hidden)
        self.mlp = _mlp(self.fusion.width, num_labels, config)
        self.single_label = config.single_label

    def project(self, packed: Tensor) -> Tensor:
        """Projected features side by side (B, sum of projected widths), zero where a modality is absent."""
        *features, present = packed.float().split([*self.widths, len(self.widths)], dim=1)
        projected = [project(x) for project, x in zip(self.projections, features, strict=True)]
        return torch.cat([x * present[:, m : m + 1] for m, x in enumerate(projected)], dim=1)

    def classify(self, projected: Tensor) -> Tensor:
        """Logits (B, K) of what :meth:`project` gives."""
        return self.mlp(self.fusion(projected))

    def forward(self, packed: Tensor) -> Tensor:
        return self.classify(self.project(packed))

    def probs(self, logits: Tensor) -> Tensor:
        """Probs (B, K): of each label, or, with one label a post, of all labels together."""
        return logits.softmax(dim=1) if self.single_label else logits.sigmoid()


class PostClassifier(nn.Module):
    """Logits (B, K) straight from what towers read.

    ``inputs`` has ``<modality>.<name>`` for each tensor that the tower of a modality reads, and ``<modality>.present``
    (B,), boolean. What the tower makes of an absent value counts for nothing.
    """

    def __init__(self, towers: Mapping[str, nn.Module], classifier: FusionClassifier) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.classifier = classifier

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features = [tower(_inputs_of(inputs, modality)).float() for modality, tower in self.towers.items()]
        present = torch.stack([inputs[f"{modality}.present"] for modality in self.towers], dim=1)
        return self.classifier(torch.cat([*features, present.float()], dim=1))


def _inputs_of(inputs: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    prefix = f"{modality}."
    own = {name.removeprefix(prefix): tensor for name, tensor in inputs.items() if name.startswith(prefix)}
    del own["present"]
    return own


class Projected(nn.Linear):
    """An encoder's projection; its output (B, D) has zero mean and unit variance over its width."""

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(super().forward(features), (self.out_features,))


class LayerMix(nn.Module):
    """A weighted mean of layers, each normalised, times a scale (Peters et al. 2018): (B, L * D) to (B, D)."""

    def __init__(self, num_layers: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weights = nn.Parameter(torch.zeros(num_layers))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        layers = features.unflatten(1, (len(self.weights), self.width))
        return self.scale * (self.weights.softmax(dim=0) @ F.layer_norm(layers, (self.width,)))


def _branch(spec: FeatureSpec) -> tuple[nn.Module, int]:
    """What the features of a modality pass first, and how wide they are then."""
    if spec.num_layers > 1:
        return LayerMix(spec.num_layers, spec.width), spec.width
    if spec.projection is None:
        return nn.LayerNorm(spec.width, elementwise_affine=False), spec.width
    weight, bias = spec.projection.weight, spec.projection.bias
    layer = Projected(spec.width, len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.as_tensor(bias))
    return layer, len(weight)


class Concat(nn.Identity):
    """The features of all modalities as they stand, side by side (B, sum of widths)."""

    def __init__(self, widths: list[int], hidden: int) -> None:
        super().__init__()
        self.width = sum(widths)


class Gated(nn.Module):
    """Gated multimodal units (Arevalo et al. 2017): (B, sum of widths) to (B, hidden).

    Each modality gives an activation and, from all modalities, a gate for it. The activations have no bias, so that
    an absent modality, whose features are zero, adds nothing.
    """

    def __init__(self, widths: list[int], hidden: int) -> None:
        super().__init__()
        self.widths, self.width = widths, hidden
        self.activations = nn.ModuleList([nn.Linear(width, hidden, bias=False) for width in widths])
        self.gates = nn.Linear(sum(widths), len(widths) * hidden)

    def forward(self, features: Tensor) -> Tensor:
        parts = zip(self.activations, features.split(self.widths, dim=1), strict=True)
        activations = torch.cat([activation(x).tanh() for activation, x in parts], dim=1)
        gated = self.gates(features).sigmoid() * activations
        return gated.unflatten(1, (len(self.widths), self.width)).sum(dim=1)


class LowRank(nn.Module):
    """Low-rank multimodal fusion (Liu et al. 2018): (B, sum of widths) to (B, hidden).

    The product over modalities of linear maps of RANK factors, and the mean over the factors. Their biases begin at
    one: so much an absent modality, whose features are zero, is in the product.
    """

    def __init__(self, widths: list[int], hidden: int) -> None:
        super().__init__()
        self.widths, self.width = widths, hidden
        factors = [nn.Linear(width, RANK * hidden) for width in widths]
        for factor in factors:
            nn.init.ones_(factor.bias)
        self.factors = nn.ModuleList(factors)

    def forward(self, features: Tensor) -> Tensor:
        parts = zip(self.factors, features.split(self.widths, dim=1), strict=True)
        factors = torch.stack([factor(x) for factor, x in parts])
        return factors.prod(dim=0).unflatten(1, (RANK, self.width)).mean(dim=1)


FUSIONS: dict[str, type[Concat | Gated | LowRank]] = {"concat": Concat, "gated": Gated, "low-rank": LowRank}


def _mlp(width: int, num_labels: int, config: HeadConfig) -> nn.Sequential:
    """``num_layers`` layers in all, the last of which gives the logits (Passaro et al.: 1 to 3)."""
    layers: list[nn.Module] = [nn.Dropout(config.dropout)]
    for _ in range(config.num_layers - 1):
        layers += [nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        width = config.hidden
    return nn.Sequential(*layers, nn.Linear(width, num_labels))


def start_at_prevalence(model: FusionClassifier, prevalence: Tensor) -> None:
    """Let the untrained model predict each label's share of the posts (K,), so that no step is spent on that."""
    share = prevalence.clamp(1e-4, 1 - 1e-4)
    last = model.mlp[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.copy_(share.log() if model.single_label else share.logit())
