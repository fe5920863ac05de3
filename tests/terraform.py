"""Terraform upon a copy of infra/terraform, with its state on disk.

PYTEST_DONT_REWRITE, since tests import it before pytest takes it for a plugin.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

TERRAFORM = shutil.which("terraform")
_SOURCE = Path(__file__).parent.parent / "infra" / "terraform"
_ON_DISK = 'terraform {\n  backend "local" {}\n}\n'


def terraform(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Its exit status, and what it said without colours."""
    assert TERRAFORM
    variables = {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "TF_REGISTRY_DISCOVERY_RETRY": "0"}
    return subprocess.run(
        [TERRAFORM, *command],
        cwd=folder,
        env=os.environ | variables | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def copied(folder: Path) -> Path:
    """The configuration in a folder of its own, so that neither a state nor a lock file comes into the repository."""
    shutil.copytree(_SOURCE, folder / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    (folder / "terraform" / "backend_override.tf").write_text(_ON_DISK)
    return folder / "terraform"


def initialised(folder: Path) -> Path:
    """Its modules and provider installed; the test is skipped where the provider is not to be had.

    TF_PLUGIN_DIR names a folder of providers where the registry cannot be reached.
    """
    plugins = [f"-plugin-dir={os.environ['TF_PLUGIN_DIR']}"] if "TF_PLUGIN_DIR" in os.environ else []
    made = terraform(folder, "init", "-no-color", "-input=false", *plugins)
    if "provider packages" in made.stderr:
        pytest.skip(f"the AWS provider is not to be had: {' '.join(made.stderr.split())[:300]}")
    assert made.returncode == 0, made.stderr
    return folder
