"""What `ray up` runs on a node, written down instead: the commands ``ssh`` and ``rsync`` in a folder for PATH."""

import json
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

ANSWERS = {
    "command -v docker": "/usr/bin/docker",
    "printenv HOME": "/home/ray",
    ".Config.Env": '["HOME=/home/ray"]',
    "/proc/meminfo": "MemAvailable: 32000000 kB",
    ".State.Running": "false",
}
"""What a node without containers says to parts of commands."""
SENT = "sent"


def install(folder: Path) -> None:
    for name in ("ssh", "rsync"):
        script = folder / name
        script.write_text(f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(Path(__file__).parent)!r}]\n")
        with script.open("a") as file:
            file.write("import fake_ssh\nfake_ssh.run(*sys.argv)\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)


def run(program: str, *arguments: str) -> None:
    """Be the program for once: write the arguments down, keep what is sent, and answer."""
    folder = Path(program).parent
    with (folder / "log").open("a") as log:
        log.write(json.dumps([Path(program).name, *arguments]) + "\n")
    if program.endswith("rsync"):
        source, target = Path(arguments[-2]), arguments[-1]
        if source.is_file():
            (folder / SENT).mkdir(exist_ok=True)
            shutil.copy(source, folder / SENT / Path(target).name)
        return
    print(next((answer for part, answer in ANSWERS.items() if part in arguments[-1]), ""))


def commands(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def on_the_node(calls: Iterable[list[str]]) -> list[str]:
    """The commands that ssh was to run there, without how to get there."""
    return [arguments[-1] for program, *arguments in calls if program == "ssh"]
