"""The classifier together with the encoders that it trains, for the modes lora and full."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emo.config import HeadConfig, LoraConfig, Mode, TrainingConfig
from emo.encoders import SCRATCH, Branch
from emo.encoders.base import Encoder
from emo.encoders.load import load_encoder
from emo.models import FeatureSpec, PostClassifier, Projected
from emo.train import build_model


def assemble(
    branches: Sequence[Branch],
    num_labels: int,
    head: HeadConfig,
    training: TrainingConfig,
    device: str = "cpu",
    *,
    with_weights: bool = True,
) -> tuple[list[Encoder], PostClassifier]:
    """Encoders, and a classifier around their towers; what starts at random does so by the seed.

    Without weights the towers are built from their configurations alone, for weights that are still to be loaded.
    """
    torch.manual_seed(head.seed)
    encoders = [load_encoder(branch, with_weights=with_weights) for branch in branches]
    if head.mode == "lora":
        for encoder in encoders:
            add_adapters(encoder.tower, encoder.tower.lora_targets, training.lora)
    specs = {encoder.branch.modality: FeatureSpec(encoder.tower.width, encoder.projection) for encoder in encoders}
    classifier = build_model(specs, num_labels, head)
    model = PostClassifier({encoder.branch.modality: encoder.tower for encoder in encoders}, classifier)
    return encoders, model.to(device)


def add_adapters(tower: nn.Module, targets: Sequence[str], config: LoraConfig) -> None:
    """Low-rank adapters on the named modules of a tower, whose own weights are frozen; a tower without any such module
    is frozen whole."""
    tower.requires_grad_(False)
    for body in tower.children():  # peft takes a tower, for its config, for a model of transformers
        if any(name.endswith(tuple(targets)) for name, _ in body.named_modules()):
            from peft import LoraConfig as Adapters  # takes seconds to import
            from peft import inject_adapter_in_model

            wanted = Adapters(
                r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(targets)
            )
            inject_adapter_in_model(wanted, body)


def freeze_unused(model: PostClassifier, encoders: Sequence[Encoder]) -> None:
    """Freeze weights that no logit depends on, as checkpoints have for other ends: workers that add up gradients would
    wait for theirs."""
    inputs: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    for encoder in encoders:
        modality = encoder.branch.modality
        read = encoder.reader([encoder.reader.blank] * 2)
        inputs |= {f"{modality}.{name}": tensor.to(device) for name, tensor in read.items()}
        inputs[f"{modality}.present"] = torch.ones(2, dtype=torch.bool, device=device)
    model(inputs).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    model.zero_grad()


def parameter_groups(
    model: PostClassifier, encoders: Sequence[Encoder], head: HeadConfig
) -> list[tuple[list[nn.Parameter], float]]:
    """What is trained, with its learning rate: pretrained weights have one of their own."""
    pretrained: set[nn.Parameter] = set()
    if head.mode == "full":
        learnt: list[nn.Module] = [encoder.tower for encoder in encoders if encoder.branch.family not in SCRATCH]
        learnt += [module for module in model.modules() if isinstance(module, Projected)]
        pretrained = {parameter for module in learnt for parameter in module.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        ([parameter for parameter in trained if parameter in pretrained], head.encoder_lr),
        ([parameter for parameter in trained if parameter not in pretrained], head.lr),
    ]
    return [(parameters, lr) for parameters, lr in groups if parameters]


def trained_state(model: PostClassifier, mode: Mode) -> dict[str, Tensor]:
    """The weights that a checkpoint has to hold: all of them, or what was added to encoders that stay as they were."""
    if mode == "full":
        return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    added = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in added or "classifier." in name}


def load_trained(model: PostClassifier, state: dict[str, Tensor], mode: Mode) -> None:
    """Put such weights back into a model of the same making."""
    model.load_state_dict(state, strict=mode == "full")
