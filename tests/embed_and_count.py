"""Embeds posts as a job does, and writes down what each actor encodes; for a test that kills it.

python embed_and_count.py POSTS CHECKPOINT CACHE COUNTS
"""

import sys

from emo.session import prepare_environment, start_ray

prepare_environment()

import pyarrow as pa

from emo import features
from emo.encode import Encode
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.reading import TextVariant

posts, checkpoint, cache, counts = sys.argv[1:]


class Counted(Encode):
    def __call__(self, batch: pa.Table) -> pa.Table:
        made = super().__call__(batch)
        with open(counts, "a") as file:
            file.write(f"{batch.num_rows}\n")
        return made


if __name__ == "__main__":
    start_ray()
    features.Encode = Counted
    branch = resolve(Branch(modality="text", family="bert", checkpoint=checkpoint))
    print("start", flush=True)
    print(features.embed(posts, branch, cache, text=TextVariant("append")).folder)
