"""A cross-validation as one self-contained page: the leaderboard over all folds, each fold, and what was done."""

import shlex
from typing import Any

import numpy as np

from emo import pages, storage
from emo.config import UserError
from emo.looks import read_looks
from emo.report import WHAT_TRAINS
from emo.report_tables import COLUMNS


def write_page(folder: str) -> str:
    """Write ``report.html`` into the folder of a finished cross-validation; returns its URI."""
    if not storage.exists(storage.join(folder, "leaderboard.json")):
        raise UserError(f"{folder} has folds that are not done; each that is has a report of its own in it.")
    board, config, posts = (
        storage.read_json(storage.join(folder, f"{name}.json")) for name in ("leaderboard", "config", "posts")
    )
    looks = [len(read_looks(storage.join(folder, fold["folder"]))) for fold in board["folds"]]
    uri = storage.join(folder, "report.html")
    storage.write_bytes(uri, page(folder, board, config, posts, looks).encode())
    return uri


def page(folder: str, board: dict[str, Any], config: dict[str, Any], posts: dict[str, Any], looks: list[int]) -> str:
    """The whole page; ``looks`` says how often the test posts of each fold were read."""
    best = next((row for row in board["rows"] if row["kind"] == "encoder"), board["rows"][0])
    return pages.render(
        "crossval.html.jinja",
        board=board,
        best=best,
        settings=config["config"],
        versions=config["versions"],
        what_trains=WHAT_TRAINS,
        posts=posts,
        columns=COLUMNS,
        folds=fold_rows(board),
        looks=looks,
        folder=folder,
        quoted_model=shlex.quote(storage.join(folder, board["folds"][0]["folder"], "model")),
    )


def fold_rows(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each fold, the test macro F1 of every row of the leaderboard, of which the highest is the best."""
    values = np.array([row["by_fold"] for row in board["rows"]]).T
    return [
        fold | {"cells": [(value, value == max(each)) for value in each], "number": number}
        for number, (fold, each) in enumerate(zip(board["folds"], values.tolist(), strict=True))
    ]
