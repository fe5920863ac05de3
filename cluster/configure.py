"""Writes cluster/settings.yaml and the pinned versions into every file of cluster/ and infra/ that names them.

A line below the mark ``# settings: <name>`` has that setting as its value:

    # settings: image
    image: "registry.example.com/emo:0.1.0-ray2.60.0-py311-cu128"

python cluster/configure.py            # writes them
python cluster/configure.py --check    # only says which files are out of step; exits with 1 if any is
"""

import json
import re
import sys
from pathlib import Path

import yaml

from emo import __version__
from emo.joining import pinned_ray

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^\s*# settings: (\w+)$")
VALUE = re.compile(r"""^(\s*(?:- (?!\S+: )|(?:- )?(?:ARG )?[\w./"-]+\s*(?::\s|=)\s*))(.*)$""")


def settings() -> dict[str, str | list[str]]:
    """The file's settings, and those that follow from them and from what requirements.txt pins."""
    has = yaml.safe_load((ROOT / "cluster/settings.yaml").read_text())
    ray, runs_on = pinned_ray(), f"py{has['python'].replace('.', '')}-{has['accelerator']}"
    tag = f"{__version__}-ray{ray}-{runs_on}"
    return (
        has
        | {
            "ray": ray,
            "base_image": f"rayproject/ray:{ray}-{runs_on}",
            "image": f"{has['repository']}:{tag}",
            "tag": tag,
        }
        | commands(has)
    )


def commands(has: dict[str, str]) -> dict[str, str]:
    """What nodes and their users run, with the settings in it."""
    registry, bucket = has["repository"].partition("/")[0], has["bucket"]
    return {
        "cache": f"{bucket}/cache",
        "runs": f"{bucket}/runs",
        "sweep_command": f"python /home/ray/app/jobs/sweep.py --data {bucket}/data --output {bucket}/runs/sweep "
        + has["sweep_flags"],
        "docker_folders": f"-e EMO_CACHE={bucket}/cache -e EMO_RUNS={bucket}/runs",
        "gcp_docker_folders": f"-e EMO_CACHE={has['gcp_bucket']}/cache -e EMO_RUNS={has['gcp_bucket']}/runs",
        "docker_login": f"aws ecr get-login-password --region {has['region']} | "
        f"docker login --username AWS --password-stdin {registry}",
        "ssh_proxy": f"aws ssm start-session --region {has['region']} --target %h "
        "--document-name AWS-StartSSHSession --parameters portNumber=%p",
        "gcp_docker_login": f"gcloud auth configure-docker {registry} --quiet",
        "gcp_ssh_proxy": "gcloud compute start-iap-tunnel %h %p --listen-on-stdin "
        f"--project={has['gcp_project']} --zone={has['gcp_zone']}",
        "gcp_disk": f"zones/{has['gcp_zone']}/diskTypes/pd-balanced",
    }


def configured(text: str, values: dict[str, str | list[str]], quotes: bool = True) -> str:
    """A file's text with its marked lines set; a ValueError names a mark that no setting or value goes with."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not (mark := MARK.match(line)):
            continue
        name, target = mark[1], VALUE.match(lines[number + 1])
        if name not in values or not target:
            raise ValueError(f"line {number + 1}: no {'value below' if name in values else 'setting'} {name!r}")
        lines[number + 1] = target[1] + (json.dumps(values[name]) if quotes else str(values[name]))
    return "\n".join(lines)


def marked_files() -> list[Path]:
    files = sorted(path for folder in ("cluster", "infra") for path in (ROOT / folder).rglob("*"))
    return [path for path in files if path.suffix in (".yaml", ".yml", ".tf") or path.name == "Dockerfile"]


def main(check: bool) -> int:
    """How many files were (or, with ``check``, are) out of step."""
    values, changed = settings(), []
    for path in marked_files():
        text = path.read_text()
        if (new := configured(text, values, quotes=path.name != "Dockerfile")) != text:
            changed.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new)
    print(f"{'out of step' if check else 'written'}: {', '.join(changed) or 'none'}")
    return len(changed) if check else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
