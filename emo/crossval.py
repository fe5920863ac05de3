"""Cross-validation: a whole sweep for each fold, in a run folder of its own, and what they say together."""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from emo import comparison, storage
from emo.choosing import check_choices, chosen_encoders
from emo.config import SweepConfig, UserError
from emo.console import say, warn
from emo.crossval_page import write_page
from emo.leaderboard import Row, read_decisions, write_board
from emo.pipeline import posts_of
from emo.plan import show_cross_validation, show_leaderboard, show_posts, show_summary
from emo.posts import num_folds
from emo.run import FINISHED, Run, describe_encoder, give_up_folder, open_run, write_config
from emo.work import Manifest

FOLDS = "folds.json"
"""What tells the folder of a cross-validation from that of one run."""


def cross_validate(config: SweepConfig, sweep_into: Callable[[SweepConfig], None]) -> None:
    """Sweep every fold into ``fold-<i>/`` of the output, or those that a former process left undone, and sum them up.

    ``sweep_into`` runs one sweep into the folder that its config names.
    """
    started = time.monotonic()
    run, config = open_run(config)
    if config.resume and not is_cross_validation(run.folder):
        raise UserError(f"--resume: {run.folder} holds one run and no cross-validation; go on with it by its --fold.")
    if run.is_finished():
        say(f"{run.folder} is finished; nothing is left to do. Its report: {run.path('report.html')}")
        return
    posts = posts_of(config)
    show_posts(posts.manifest)
    check_folds(config, posts.manifest)
    check_choices(config, posts)
    specs = chosen_encoders(config, posts)
    folders = [f"fold-{fold}" for fold in range(len(posts.manifest["folds"]))]
    show_cross_validation(config, posts.manifest, len(specs))
    if config.cost.estimate == "only":
        sweep_into(of_fold(config, run.path(folders[0]), 0))
        say(f"\nThat is the first of {len(folders)} sweeps, which take about as long each, one after another.")
        give_up_folder(run)
        return
    about = {"num_folds": num_folds(posts.manifest), "num_repeats": posts.manifest["fold_repeats"], "folders": folders}
    storage.write_json(run.path(FOLDS), about)
    storage.write_json(run.path("posts.json"), posts.manifest)
    write_config(run, config, [describe_encoder(spec, {}) for spec in specs], {})
    run.log("resumed" if run.events else "started")
    for fold, folder in enumerate(folders):
        say(f"\nFold {fold}: sweep {fold + 1} of {len(folders)}")
        sweep_into(of_fold(config, run.path(folder), fold))
    board = summarise(run)
    show_leaderboard(board, f"Leaderboard (means over {len(folders)} folds; the best on val first)")
    write_page(run.folder)
    run.log(FINISHED)
    show_summary(run.folder, len(folders), time.monotonic() - started)


def is_cross_validation(folder: str) -> bool:
    return storage.exists(storage.join(folder, FOLDS))


def check_one_run(folder: str) -> None:
    """A UserError where a cross-validation was named, and one of its runs is wanted."""
    if is_cross_validation(folder):
        raise UserError(f"--run {folder} is a cross-validation; name the run of one fold, such as {folder}/fold-0.")


def check_folds(config: SweepConfig, manifest: Manifest) -> None:
    """A UserError where prepared posts were dealt into other folds than those that are asked for."""
    asked = config.prepare.folds, config.prepare.fold_repeats
    dealt = num_folds(manifest), manifest["fold_repeats"]
    if asked != dealt:
        has = f"--folds {dealt[0]} --fold-repeats {dealt[1]}" if dealt[0] else "no folds"
        raise UserError(
            f"--folds {asked[0]} --fold-repeats {asked[1]} differs from what --data was prepared with: {has}; repeat "
            "that, or prepare the posts again."
        )


def of_fold(config: SweepConfig, folder: str, fold: int) -> SweepConfig:
    """The sweep of one fold, which goes on where it has begun; what is to be refreshed is so by the first."""
    begun = storage.exists(storage.join(folder, "config.json"))
    return replace(config, output=folder, fold=fold, resume=begun, refresh=config.refresh and fold == 0)


def summarise(run: Run) -> dict[str, Any]:
    """``leaderboard.json`` and ``.csv`` over all folds.

    Figures are means over folds. A resample draws posts of the whole corpus, each with all the tests that it is part
    of, so that intervals are those of the means.
    """
    about = storage.read_json(run.path(FOLDS))
    folders = [run.path(folder) for folder in about["folders"]]
    boards = [storage.read_json(storage.join(folder, "leaderboard.json")) for folder in folders]
    _check_same_posts(folders)
    by_name = [{row["name"]: row for row in board["rows"]} for board in boards]
    names = [name for name in by_name[0] if all(name in rows for rows in by_name)]
    if left_out := sorted({name for rows in by_name for name in rows} - set(names)):
        warn(f"left out of the summary, since some folds have no model of it: {', '.join(left_out)}")
    labels = tuple(boards[0]["labels"])
    number = _numbers(folders, by_name, about["num_folds"])
    found: dict[str, list[dict[str, comparison.Figures]]] = {"val": [], "test": []}
    for folder, rows in zip(folders, by_name, strict=True):
        for split, decisions in read_decisions(folder, [rows[name] for name in names]).items():
            judged = decisions.judged(np.array([number[post_id] for post_id in decisions.post_ids]))
            found[split].append(comparison.resampled([judged], len(number), labels))
    folds = [
        {"folder": folder, "num_test": board["num_test"], "best": board["best"]["encoder"]}
        for folder, board in zip(about["folders"], boards, strict=True)
    ]
    return write_board(
        run.folder,
        {name: about[name] for name in ("num_folds", "num_repeats")}
        | {"labels": list(labels), "num_test": len(number), "folds": folds},
        [mean_row([rows[name] for rows in by_name]) for name in names],
        {split: comparison.mean(parts) for split, parts in found.items()},
    )


def mean_row(rows: list[Row]) -> Row:
    """A row of the summary: means over folds, and the standard deviation of test macro F1 between them."""
    kept = {name: rows[0][name] for name in ("name", "kind", "modalities")}
    values = {name: [row[name] for row in rows] for name in rows[0] if name.startswith(("val/", "test/"))}
    means = {name: None if None in each else float(np.mean(each)) for name, each in values.items()}
    by_fold = values["test/macro_f1"]
    num_models = sum(row["num_models"] for row in rows)
    spread = float(np.std(by_fold, ddof=1))
    return {**kept, "num_models": num_models, **means, "test/macro_f1_sd": spread, "by_fold": by_fold}


def _check_same_posts(folders: list[str]) -> None:
    keys = {storage.read_json(storage.join(folder, "posts.json"))["fingerprint"] for folder in folders}
    if len(keys) > 1:
        raise UserError(
            "--data, or how it is read, changed between folds, so that they tell nothing together; start again."
        )


def _numbers(folders: list[str], by_name: list[dict[str, Row]], num_folds: int) -> dict[str, int]:
    """A number for each post, by the order of their ids; every post is tested once in each repeat."""
    tested = []
    for folder, rows in zip(folders, by_name, strict=True):
        row = next(iter(rows.values()))
        tested.append(read_decisions(folder, [row | {"models": row["models"][:1]}])["test"].post_ids)
    deals = [sorted(itertools.chain(*tested[start : start + num_folds])) for start in range(0, len(tested), num_folds)]
    assert all(deal == deals[0] for deal in deals)
    return {post_id: number for number, post_id in enumerate(deals[0])}
