"""Clean, check and split raw posts into a folder of prepared ones.

python jobs/prepare.py --data posts.jsonl --output prepared/
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.cli import run_job
from emo.config import PrepareJobConfig
from emo.console import say
from emo.pipeline import prepare_into, raw_posts
from emo.plan import show_corpora, show_posts
from emo.run import claim, output_folder


def main(config: PrepareJobConfig) -> None:
    """Clean, check and split raw posts; every other job takes the result as --data."""
    if config.list:
        show_corpora()
        return
    folder = output_folder(config.output, "posts")
    claim(folder)
    manifest, _ = prepare_into(folder, config, raw_posts(config))
    show_posts(manifest)
    say(f"\nPrepared posts: {folder}")


if __name__ == "__main__":
    run_job(PrepareJobConfig, main)
