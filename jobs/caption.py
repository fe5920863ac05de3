"""Describe the images of posts in words, which text encoders can read.

python jobs/caption.py --data posts.jsonl --captioner Salesforce/blip2-opt-2.7b
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from itertools import islice

from emo.captions import caption_posts, resolve_captioner
from emo.cli import run_job
from emo.config import CaptionConfig, EmbedConfig
from emo.console import say, show_facts
from emo.encode import read_captions
from emo.pipeline import prepared_posts

NUM_EXAMPLES = 5


def main(config: CaptionConfig) -> None:
    """Caption posts' images into the cache, where embed and sweep find them."""
    captioner = resolve_captioner(config.captioner, config.revision)
    told = EmbedConfig(data=config.data, cache=config.cache, prepare=config.prepare, seed=config.seed)
    posts, _ = prepared_posts(told)
    folder, found, reused = caption_posts(
        posts,
        captioner,
        config.cache,
        max_tokens=config.max_tokens,
        prompt=config.prompt,
        refresh=config.refresh,
    )
    say(f"captions: {'reused from' if reused else 'written to'} {folder}")
    examples = islice(read_captions(folder).items(), NUM_EXAMPLES)
    show_facts(
        "Captions",
        [
            ("captioner", f"{captioner.checkpoint} ({captioner.family}, {captioner.revision[:12]})"),
            ("captions", f"{found['num_captions']:,} of {found['num_images']:,} images"),
            ("rate", f"{found['captions_per_second']:,} a second, as they were made"),
            *examples,
        ],
    )


if __name__ == "__main__":
    run_job(CaptionConfig, main)
