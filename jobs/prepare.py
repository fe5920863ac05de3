"""Clean, check and split raw posts into a folder of prepared ones.

python jobs/prepare.py --data posts.jsonl --output prepared/
"""

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.cli import run_job
from emo.config import PostsConfig
from emo.console import say
from emo.pipeline import prepare_into
from emo.plan import show_posts
from emo.run import claim, output_folder


def main(config: PostsConfig) -> None:
    """Clean, check and split raw posts; every other job takes the result as --data."""
    folder = output_folder(config.output, "posts")
    claim(folder)
    show_posts(prepare_into(folder, config))
    say(f"\nPrepared posts: {folder}")


if __name__ == "__main__":
    run_job(PostsConfig, main)
