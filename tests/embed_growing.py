"""Prepares and embeds posts with more actors than the cluster that it joins has room for, or ever will.

python embed_growing.py POSTS CHECKPOINT CACHE
"""

import sys

from emo.session import prepare_environment, start_ray

prepare_environment()

from emo import encode, features
from emo.config import PrepareConfig
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.prepare import prepare
from emo.reading import TextVariant
from emo.sources import find_sources

ROWS = 10

if __name__ == "__main__":
    posts, checkpoint, cache = sys.argv[1:]
    start_ray()
    encode.ROWS_PER_PART = encode.ROWS_PER_ACTOR = ROWS
    config = PrepareConfig(labels="auto")
    prepare(find_sources((posts,), config, cache), f"{cache}/posts", config, seed=0)
    branch = resolve(Branch(modality="text", family="bert", checkpoint=checkpoint))
    print(features.embed(f"{cache}/posts", branch, cache, text=TextVariant("append")).folder)
