"""A branch as what reads and encodes posts, wherever its checkpoint lies and whatever its family."""

from emo.config import UserError
from emo.encoders import REMOTE_CODE, SCRATCH, Branch, pretrained, scratch
from emo.encoders.base import Encoder, Reader
from emo.encoders.hub import local, plain_errors, save_config


def load_reader(branch: Branch) -> Reader:
    """What turns posts into tensors for a resolved branch; a UserError where its checkpoint cannot be read."""
    branch = local(branch)
    if branch.family in REMOTE_CODE and branch.remote_code is None:
        raise UserError(
            f"The checkpoint {branch.checkpoint} is Python code that runs with your rights; allow it with "
            "--trust-remote-code."
        )
    with plain_errors(branch):
        return scratch.load_reader(branch) if branch.family in SCRATCH else pretrained.load_reader(branch)


def load_encoder(branch: Branch, device: str = "cpu", *, with_weights: bool = True) -> Encoder:
    """A resolved branch on a device, ready to encode; a UserError where its checkpoint cannot be read.

    Without weights, the tower is built from the config alone, for weights that the caller loads. What learns from
    scratch starts at random, by torch's seed.
    """
    branch = local(branch)
    reader = load_reader(branch)
    with plain_errors(branch):
        if branch.family in SCRATCH:
            tower, projection = scratch.load_tower(branch, reader), None
        else:
            tower, projection = pretrained.load_tower(branch, reader, with_weights=with_weights)
    return Encoder(branch=branch, reader=reader, tower=tower.eval().to(device), projection=projection)


def save_untrained(branch: Branch, folder: str) -> None:
    """Write all but the weights of a branch into a local folder, from which ``with_weights=False`` builds it again;
    both branches of a checkpoint may share it."""
    branch = local(branch)
    with plain_errors(branch):
        if branch.family not in SCRATCH:
            save_config(branch, folder)
        load_reader(branch).save(folder)
