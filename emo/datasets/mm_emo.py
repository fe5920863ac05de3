"""MM-Emo (Passaro et al.): multimodal posts with Plutchik's emotions, known by name and read by its columns."""

from emo.config import PLUTCHIK
from emo.datasets.corpus import Corpus
from emo.datasets.files import Files


def recognises(files: Files) -> bool:
    """Whether one of the URI's last two parts is the corpus's name; the store is not asked."""
    parts = files.uri.rstrip("/").casefold().split("/")[-2:]
    return any(part.replace("_", "-").partition("@")[0] == "mm-emo" for part in parts)


CORPUS = Corpus(
    name="mm-emo",
    title="MM-Emo, multimodal posts (Passaro et al.)",
    labels=PLUTCHIK,
    num_posts=None,
    modalities=("text", "image", "tags"),
    licence="see its page",
    home="https://huggingface.co/datasets/luciapassaro/MM-Emo",
    single_label=False,
    layout="a folder or repository called MM-Emo, with Parquet, CSV or JSONL files whose columns the flags can name",
    recognises=recognises,
    read=None,
)
