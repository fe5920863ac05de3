"""Describe the images of posts in words, which text encoders can read.

python jobs/caption.py --data posts.jsonl --captioner Salesforce/blip2-opt-2.7b
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from itertools import islice

from emo.cli import run_job
from emo.config import CaptionConfig
from emo.console import say, show_facts
from emo.pipeline import captioned, prepared_posts
from emo.reading import read_captions

NUM_EXAMPLES = 5


def main(config: CaptionConfig) -> None:
    """Caption posts' images into the cache, where embed and sweep find them."""
    posts, _ = prepared_posts(config)
    folder, found, reused = captioned(posts, config.caption, config.cache, refresh=config.refresh)
    say(f"captions: {'reused from' if reused else 'written to'} {folder}")
    examples = islice(read_captions(folder).items(), NUM_EXAMPLES)
    show_facts(
        "Captions",
        [
            ("captioner", f"{found['checkpoint']} ({found['family']}, {found['revision'][:12]})"),
            ("captions", f"{found['num_captions']:,} of {found['num_images']:,} images"),
            ("rate", f"{found['captions_per_second']:,} a second, as they were made"),
            *examples,
        ],
    )


if __name__ == "__main__":
    run_job(CaptionConfig, main)
