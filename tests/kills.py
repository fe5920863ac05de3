"""Killing processes of one's own, and nobody else's."""

import contextlib
import os

import psutil


def kill_tree(root: int) -> None:
    """Kill -9 a process and all its descendants at once, so that no worker ends what it has begun."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def train_workers() -> list[psutil.Process]:
    """The Ray Train workers of the Rays that this process started."""
    return below(os.getpid(), "RayTrainWorker")


def below(root: int, named: str) -> list[psutil.Process]:
    """The descendants of a process with these words in their command line."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if named in " ".join(process.cmdline()):
                    found.append(process)
    return found
