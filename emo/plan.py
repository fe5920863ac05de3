"""What a sweep says before it starts, and after it has ended."""

from collections.abc import Sequence
from typing import Any

from emo.config import ALL_SPLITS, SPLITS, TRAINS_ENCODERS, SweepConfig, TrainConfig
from emo.console import duration, figure, say, show_facts, show_table, warn
from emo.datasets import list_corpora
from emo.encoders import Branch, EncoderSpec
from emo.features import Features
from emo.metrics import METRICS
from emo.monitoring import metrics_address
from emo.posts import num_folds
from emo.reading import Cut
from emo.room import grows, grows_to, num_cpus, on_gpus


def show_posts(manifest: dict[str, Any]) -> None:
    """Counts, rejects, splits and warnings of a prepared corpus."""
    modalities = ", ".join(f"{count:,} with {name}" for name, count in manifest["modalities"].items())
    facts = [
        ("source", str(manifest["source"])),
        ("posts", f"{manifest['num_posts']:,} of {manifest['num_read']:,} read: {modalities}"),
        ("splits", ", ".join(f"{name} {manifest['splits'][name]['num_posts']:,}" for name in ALL_SPLITS)),
    ]
    if manifest["num_rejects"]:
        worst = sorted(manifest["reject_reasons"].items(), key=lambda item: -item[1])
        facts.append(
            (
                "set aside",
                f"{manifest['num_rejects']}: " + "; ".join(f"{count} x {reason}" for reason, count in worst[:3]),
            )
        )
    if manifest["num_redecoded_texts"]:
        facts.append(("not UTF-8", f"{manifest['num_redecoded_texts']} texts, read as Windows-1252"))
    show_facts("Posts", facts)
    _show_prevalence(manifest)
    for sentence in manifest["warnings"]:
        warn(sentence)


def show_corpora() -> None:
    """The corpora whose published layouts are known."""
    header = ["corpus", "title", "posts", "labels", "reads", "licence", "where to get it"]
    for row in list_corpora():
        show_facts(row[0], list(zip(header[1:], row[1:], strict=True)))


def _show_prevalence(manifest: dict[str, Any]) -> None:
    """How many posts of each split, and of each fold of the first deal, have each label, and their share of those that
    could have it."""
    splits = {name: manifest["splits"][name] for name in SPLITS if manifest["splits"][name]["num_posts"]}
    folds = {str(number): fold for number, fold in enumerate(manifest["folds"][: num_folds(manifest)])}
    for what, columns in (("split", splits), ("fold", folds)):
        if columns and manifest["labels"]:
            rows = [
                [name, *(_prevalence(each, k) for each in columns.values())]
                for k, name in enumerate(manifest["labels"])
            ]
            show_table(f"Labels by {what}", ["", *columns], rows)


def _prevalence(split: dict[str, Any], k: int) -> str:
    known = split["known"][k] if "known" in split else split["num_posts"]
    return f"{split['positives'][k]:,} ({split['positives'][k] / known:.1%})" if known else "unknown"


def show_plan(config: SweepConfig, specs: list[EncoderSpec], taking: Sequence[tuple[str, str]] = ()) -> None:
    """What is going to be done, and what it is estimated to take."""
    budget = config.budget
    refined = f", then {budget.refine_trials} more for the best {budget.refine_top}" if budget.refine_trials else ""
    total = budget.total_trials(len(specs))
    each = "each" if budget.turns == "fair" else "each on average, the later ones for the better half"
    workers = f"{num_cpus()} cores"
    if grows():
        told = [f"{amount:g} {'cores' if name == 'CPU' else f'{name}s'}" for name, amount in grows_to().items()]
        workers += f"; the cluster grows to {' and '.join(told) or 'as many as it may'}"
    show_facts(
        "Plan",
        [
            ("encoders", ", ".join(spec.name for spec in specs)),
            ("mode", config.mode),
            ("trials", f"{budget.trials} {each}{refined}: {total} in all"),
            ("thresholds", f"{budget.calibration_trials} Optuna trials for each of the best {config.top}, and exact"),
            ("workers", workers),
            ("metrics", metrics_address() or "none are collected"),
            ("output", str(config.output)),
            *taking,
        ],
    )


def show_cross_validation(config: SweepConfig, manifest: dict[str, Any], num_encoders: int) -> None:
    total, repeats = len(manifest["folds"]), manifest["fold_repeats"]
    dealt = f", dealt {repeats} times" if repeats > 1 else ""
    show_facts(
        "Cross-validation",
        [
            ("folds", f"{num_folds(manifest)}{dealt}: {total} sweeps, one after another"),
            ("trials", f"{config.budget.total_trials(num_encoders)} a sweep"),
            ("output", f"{config.output}/fold-0 to fold-{total - 1}"),
        ],
    )


def show_summary(folder: str, num_sweeps: int, seconds: float) -> None:
    """Where the results of a cross-validation lie."""
    say(f"\nDone in {duration(seconds)}.")
    show_facts(
        "Results",
        [
            ("report", f"{folder}/report.html"),
            ("leaderboard", f"{folder}/leaderboard.csv"),
            ("models", f"{folder}/fold-0/model to {folder}/fold-{num_sweeps - 1}/model, one of each fold"),
            ("final model", "the same command without --folds and --fold-repeats, into another folder"),
        ],
    )


def show_training(config: TrainConfig, output: str, taking: Sequence[tuple[str, str]] = ()) -> None:
    """What is going to be done, and what it is estimated to take."""
    head, training = config.head, config.training
    facts = [
        ("encoder", config.encoder),
        ("mode", head.mode),
        ("classifier", f"{head.num_layers} layers, hidden {head.hidden}, dropout {head.dropout:g}, {head.fusion}"),
        ("loss", head.loss),
        ("steps", f"{head.batch_size} posts each, learning rate {head.lr:g}, at most {head.max_epochs} epochs"),
    ]
    if head.mode in TRAINS_ENCODERS:
        workers = " to ".join(map(str, training.num_workers))
        facts.append(("workers", f"{workers}, each with {'a GPU' if on_gpus(training) else 'cores only'}"))
    show_facts("Plan", [*facts, ("output", output), *taking])


def show_leaderboard(board: dict[str, Any], title: str = "Leaderboard (test figures; the best on val first)") -> None:
    """The rows with the interval of their macro F1, and which neighbours the test posts can tell apart."""
    columns = {"micro_f1": "micro F1", "subset_accuracy": "subset\nacc.", "jaccard": "Jaccard", "hamming": "Hamming"}
    body = [
        [row["name"], str(row["num_models"]), figure(row["val/macro_f1"]), figure(row["test/macro_f1"])]
        + ["–".join(map(figure, row["intervals"]["test/macro_f1"]))]
        + [figure(row[f"test/{name}"]) for name in columns]
        for row in board["rows"]
    ]
    header = ["", "models", "val\nmacro F1", "test\nmacro F1", "95 %\ninterval", *columns.values()]
    show_table(title, header, body)
    verdicts = {True: "the first is better", False: "the second is better"}
    body = [
        [
            f"{pair['upper']} – {pair['lower']}",
            f"{pair['difference']:+.3f}",
            _interval(pair["interval"]),
            f"{pair['share_higher']:.1%}",
            verdicts[pair["better"] == pair["upper"]] if pair["better"] else "cannot be told apart",
        ]
        for pair in board["comparisons"]
    ]
    header = ["", "difference", "95 % interval", "first is higher in", "so"]
    show_table("Neighbours (test macro F1 in the same resamples of the posts)", header, body)


def _interval(pair: list[float]) -> str:
    return f"{figure(pair[0])} to {figure(pair[1])}"


def show_results(folder: str, seconds: float, took: str | None = None) -> None:
    """Where the results of a run lie, and what it took."""
    say(f"\nDone in {duration(seconds)}.")
    show_facts(
        "Results",
        [
            *([("took", took)] if took else []),
            ("report", f"{folder}/report.html"),
            ("leaderboard", f"{folder}/leaderboard.csv"),
            ("model", f"{folder}/model"),
            ("predict", f"python jobs/predict.py --model {folder}/model --data posts.jsonl"),
        ],
    )


def show_features(features: dict[Branch, Features]) -> None:
    show_table(
        "Features",
        ["checkpoint", "modality", "width", "projection", "revision"],
        [
            [
                branch.checkpoint,
                branch.modality,
                str(found.width),
                "–" if found.projection is None else str(found.projection.weight.shape[0]),
                str(branch.revision)[:12],
            ]
            for branch, found in features.items()
        ],
    )
    warn_of_cuts({branch: found.cut for branch, found in features.items()})


def warn_of_cuts(cuts: dict[Branch, Cut]) -> None:
    """Say where texts are longer than a branch reads."""
    for branch, cut in cuts.items():
        if cut.num_texts:
            what = "texts" if branch.modality == "text" else "lists of tags"
            lost = f", and {cut.num_captions:,} of them lose words of their caption" if cut.num_captions else ""
            warn(f"{cut.num_texts:,} {what} are longer than {branch.checkpoint} reads{lost}")


def show_predictions(folder: str, manifest: dict[str, Any]) -> None:
    counts = ", ".join(f"{label} {count}" for label, count in manifest["label_counts"].items())
    facts = [
        ("posts", f"{manifest['num_predicted']} of {manifest['num_read']} read"),
        ("labels given", counts),
        ("written to", f"{folder}/{manifest['data']}"),
    ]
    if manifest["num_rejects"]:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in manifest["reject_reasons"].items())
        facts.insert(1, ("set aside", f"{manifest['num_rejects']}: {reasons}"))
    show_facts("Predictions", facts)


def show_evaluation(evaluation: dict[str, Any]) -> None:
    """The figures of labelled predictions with their intervals, then those of each label."""
    body = []
    for name in METRICS:
        cells = figure(evaluation["metrics"][name]), _interval(evaluation["intervals"][name])
        body.append([name.replace("_", " "), *cells])
    show_table(f"Judged by {evaluation['num_labelled']:,} labelled posts", ["", "figure", "95 % interval"], body)
    counts, shares = ("support", "predicted"), ("precision", "recall", "f1", "average_precision")
    body = [
        [row["label"], *(f"{row[name]:,}" for name in counts), *(figure(row[name]) for name in shares)]
        for row in evaluation["labels"]
    ]
    header = ["", "support", "predicted", "precision", "recall", "F1", "average precision"]
    show_table("By label", header, body)
