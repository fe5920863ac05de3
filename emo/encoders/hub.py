"""Checkpoints on the Hugging Face hub and in folders: which revision, and how they are loaded without surprises.

No code that comes with a checkpoint runs unless its branch names the revision that may; no weights are made up, and
those of a folder are never unpickled.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from emo import storage
from emo.config import UserError
from emo.encoders import Branch


def resolve(branch: Branch) -> Branch:
    """The branch with its revision written down: the hub's commit, or the digest of a local folder."""
    if storage.is_remote(branch.checkpoint):
        return replace(branch, revision=folder_digest(Path(storage.local_copy(branch.checkpoint))))
    if Path(branch.checkpoint).is_dir():  # in full, since workers and later runs may start elsewhere
        folder = Path(branch.checkpoint).absolute()
        return replace(branch, checkpoint=str(folder), revision=folder_digest(folder))
    with plain_errors(branch):
        return replace(branch, revision=_config(branch)["_commit_hash"])


def local(branch: Branch) -> Branch:
    """The branch with a checkpoint that transformers can open."""
    return replace(branch, checkpoint=storage.local_copy(branch.checkpoint))


def save_config(branch: Branch, folder: str) -> None:
    """Write a checkpoint's own config as it is, with the code in a folder that may run."""
    config = {name: value for name, value in _config(branch).items() if name != "_commit_hash"}
    os.makedirs(folder, exist_ok=True)
    Path(folder, "config.json").write_text(json.dumps(config, indent=2))
    if branch.remote_code is not None and Path(branch.checkpoint).is_dir():
        for file in Path(branch.checkpoint).glob("*.py"):
            shutil.copy(file, folder)


def _config(branch: Branch) -> dict[str, Any]:
    import transformers

    options = source_options(branch.checkpoint, branch.revision)
    return transformers.PreTrainedConfig.get_config_dict(branch.checkpoint, **options)[0]


def source_options(checkpoint: str, revision: str | None) -> dict[str, Any]:
    """How transformers finds a checkpoint at its revision."""
    return {} if Path(checkpoint).is_dir() else {"revision": revision or "main"}


def code_options(remote_code: str | None) -> dict[str, Any]:
    """Whether the checkpoint's own code may run, and which."""
    return {"trust_remote_code": False} if remote_code is None else {
        "trust_remote_code": True,
        "code_revision": remote_code,
    }  # fmt: skip


def folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@contextmanager
def plain_errors(branch: Branch) -> Iterator[None]:
    """What transformers raises over an unreadable checkpoint as one sentence, and its warnings not at all."""
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise unreadable(branch.checkpoint, branch.family, f"--encoders {branch.family}:/path", error) from error


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


def load_tokenizer(transformers: Any, checkpoint: str, options: dict[str, Any]) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, **options)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("it has no tokenizer files, so every word would be unknown.")
    return tokenizer


def load_image_processor(transformers: Any, checkpoint: str, options: dict[str, Any]) -> Any:
    return transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **options)


def checkpoint_activations(model: Any) -> None:
    """Have every model of transformers in here that can compute its activations again in the backward pass."""
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
