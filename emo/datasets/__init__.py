"""Published corpora by their layout: which one lies at a URI, and its raw posts. A new corpus is a module here."""

from collections.abc import Iterator

from emo.config import UserError
from emo.datasets import (
    brighter,
    ck_plus,
    dair_emotion,
    fer_plus,
    flickr,
    goemotions,
    mm_emo,
    msed,
    semeval2018,
    vso,
    xed,
)
from emo.datasets.corpus import Corpus, Post
from emo.datasets.files import Files

CORPORA: tuple[Corpus, ...] = (
    mm_emo.CORPUS,  # first, since its name is enough and its store may be out of reach
    xed.CORPUS,
    goemotions.CORPUS,
    semeval2018.CORPUS,
    brighter.CORPUS,
    dair_emotion.CORPUS,
    ck_plus.CORPUS,
    fer_plus.CORPUS,
    flickr.CORPUS,
    vso.CORPUS,
    msed.CORPUS,
)
AUTO, GENERIC = "auto", "generic"

__all__ = ["AUTO", "CORPORA", "GENERIC", "Corpus", "Files", "find_corpus", "list_corpora", "read_corpus"]


def find_corpus(uri: str, name: str = AUTO) -> Corpus | None:
    """The corpus of that name, or the one whose layout lies at ``uri``; None for a corpus that is read by its columns.

    A UserError names the corpora there are, or says which files were looked for and which were found.
    """
    if name == GENERIC:
        return None
    files = Files(uri)
    if name == AUTO:
        return next((corpus for corpus in CORPORA if corpus.recognises(files)), None)
    corpus = next((each for each in CORPORA if each.name == name), None)
    if corpus is None:
        known = ", ".join((AUTO, GENERIC, *(each.name for each in CORPORA)))
        raise UserError(f"--corpus {name!r} is not known; choose from {known}.")
    if corpus.read and not corpus.recognises(files):
        raise UserError(f"--data {uri} is not {name}: looked for {corpus.layout}; found {_found(files)}.")
    return corpus


def read_corpus(corpus: Corpus, uri: str) -> Iterator[Post]:
    """The corpus's raw posts in a fixed order, read as they are asked for; what cannot be read has a reject."""
    if corpus.read is None:
        raise UserError(f"{corpus.name} has no layout of its own; its files are read by their columns.")
    return corpus.read(Files(uri))


def list_corpora() -> list[tuple[str, ...]]:
    """A row for each corpus: name, title, posts, number of labels, modalities, licence, where to get it."""
    return [
        (
            each.name,
            each.title,
            "" if each.num_posts is None else f"{each.num_posts:,}",
            "" if each.labels is None else str(len(each.labels)),
            ", ".join(each.modalities),
            each.licence,
            each.home,
        )
        for each in CORPORA
    ]


def _found(files: Files, most: int = 8) -> str:
    names = [files.only] if files.only else list(files.list())
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "") or "nothing"
