"""Encoders that are trained: what is trained at which rate, what is kept, and that it comes back."""

import pytest
import torch
from checkpoints import picture, write_checkpoint

from emo.config import HeadConfig, LoraConfig, TrainingConfig
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.finetune import assemble, freeze_unused, load_trained, parameter_groups, trained_state

HEAD = HeadConfig(mode="full", lr=1e-3, encoder_lr=1e-5, dropout=0.0)
LORA = HeadConfig(mode="lora", lr=1e-3)
TRAINING = TrainingConfig(lora=LoraConfig(rank=2, alpha=4, dropout=0.0))
VALUES = {"text": ["so happy", "never late today"], "image": [picture(1), picture(2)]}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {name: str(write_checkpoint(name, tmp_path_factory.mktemp(name))) for name in ("clip", "siglip", "blip2")}


def branches_of(checkpoints, family):
    return [resolve(Branch(modality=m, family=family, checkpoint=checkpoints[family])) for m in ("text", "image")]


@pytest.fixture(scope="module")
def clip(checkpoints):
    return branches_of(checkpoints, "clip")


def inputs_of(encoders):
    inputs = {}
    for encoder in encoders:
        modality = encoder.branch.modality
        read = encoder.reader(VALUES[modality])
        inputs |= {f"{modality}.{name}": tensor for name, tensor in read.items()}
        inputs[f"{modality}.present"] = torch.tensor([True, True])
    return inputs


def step(encoders, model, head, lr=0.1):
    """One step of gradient descent on whatever is trained."""
    model(inputs_of(encoders)).square().sum().backward()
    for parameters, _ in parameter_groups(model, encoders, head):
        for parameter in parameters:
            parameter.data -= lr * parameter.grad
    model.zero_grad()


@pytest.mark.parametrize("family", ["clip", "siglip", "blip2"])
def test_every_weight_that_is_trained_has_a_part_in_the_logits(checkpoints, family):
    encoders, model = assemble(branches_of(checkpoints, family), 3, HEAD, TRAINING)
    model.train()
    freeze_unused(model, encoders)
    model(inputs_of(encoders)).square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained)
    assert len(trained) > 0.5 * len(list(model.parameters()))


def test_pretrained_weights_have_a_learning_rate_of_their_own(clip):
    encoders, model = assemble(clip, 3, HEAD, TRAINING)
    (pretrained, low), (new, high) = parameter_groups(model, encoders, HEAD)
    assert (low, high) == (1e-5, 1e-3)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p].split(".")[0] for p in pretrained} == {"towers", "classifier"}
    assert {names[p] for p in pretrained if names[p].startswith("classifier")} == {
        "classifier.projections.0.weight",
        "classifier.projections.1.weight",
    }
    assert all(names[p].startswith("classifier.mlp") for p in new)
    assert len(pretrained) + len(new) == len(names)


def test_adapters_change_nothing_at_first_and_alone_are_trained(clip):
    plain_encoders, plain = assemble(clip, 3, HEAD, TRAINING)
    encoders, model = assemble(clip, 3, LORA, TRAINING)
    torch.testing.assert_close(model.eval()(inputs_of(encoders)), plain.eval()(inputs_of(plain_encoders)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze_unused(model, encoders)
    step(encoders, model, LORA)
    step(encoders, model, LORA)  # the first moves only the second of each adapter's two matrices, which starts at zero
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all("lora_" in name or name.startswith("classifier.mlp") for name in moved)
    assert sum("lora_A" in name for name in moved) == sum("lora_B" in name for name in moved) == 8


@pytest.mark.parametrize("head", [HEAD, LORA], ids=["full", "lora"])
def test_what_was_trained_comes_back(clip, head):
    encoders, model = assemble(clip, 3, head, TRAINING)
    freeze_unused(model, encoders)
    for _ in range(2):
        step(encoders, model, head)
    state = trained_state(model, head.mode)
    again_encoders, again = assemble(clip, 3, head, TRAINING, with_weights=head.mode != "full")
    load_trained(again, state, head.mode)
    torch.testing.assert_close(again.eval()(inputs_of(again_encoders)), model.eval()(inputs_of(encoders)))
    if head.mode == "lora":
        assert sum(t.numel() for t in state.values()) < 0.5 * sum(t.numel() for t in model.state_dict().values())


def test_the_seed_decides_what_starts_at_random(clip):
    def weights(seed):
        model = assemble(clip, 3, HeadConfig(mode="lora", seed=seed), TRAINING)[1]
        return torch.cat([t.flatten() for name, t in model.state_dict().items() if "lora_A" in name or "mlp" in name])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
