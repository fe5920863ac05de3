"""Compute the features of posts, once for each branch of each encoder.

python jobs/embed.py --data posts.jsonl --encoders clip-base bert-base
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.choosing import chosen_encoders
from emo.cli import run_job
from emo.config import EmbedConfig
from emo.pipeline import encoded, posts_of
from emo.plan import show_features, show_posts


def main(config: EmbedConfig) -> None:
    """Encode posts into the feature cache, where sweeps find them."""
    posts = posts_of(config)
    show_posts(posts.manifest)
    _, features = encoded(config, posts, chosen_encoders(config, posts))
    show_features(features)


if __name__ == "__main__":
    run_job(EmbedConfig, main)
