"""Published layouts, written small: which corpus each one is, and every raw post that it holds."""

import csv
import gzip
import io
import json
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emo.config import PLUTCHIK, UserError
from emo.datasets import CORPORA, Files, find_corpus, flickr, goemotions, list_corpora, read_corpus
from emo.labels import normal

GO, FLICKR = goemotions.LABELS, flickr.LABELS
EC = "ID\tTweet\tanger\tanticipation\tdisgust\tfear\tjoy\tlove\toptimism\tpessimism\tsadness\tsurprise\ttrust\n"
NONE = "\t".join(["NONE"] * 11)
RAW = "text,id,author,subreddit,link_id,parent_id,created_utc,rater_id,example_very_unclear," + ",".join(GO) + "\n"
FER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
GREY = " ".join(["7"] * 48 * 48)
MSED = "Title,Caption,Sentiment,Emotion,Desire\n"


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def rating(text: str, name: str, author: str, *chosen: str, unclear: bool = False) -> str:
    buffer = io.StringIO()
    flags = [int(label in chosen) for label in GO]
    csv.writer(buffer).writerow([text, name, author, "sub", "t3_a", "t1_b", "1546300800.0", "4", unclear, *flags])
    return buffer.getvalue()


DAIR = [{"text": "i feel fine", "label": 1}, {"text": "i feel low", "label": 0}]


def dair(stem: str, split: str | None, source: str) -> list[dict]:
    posts = [
        {"id": f"{stem}-1", "text": "i feel fine", "labels": ["joy"], "split": split, "source": f"{source}:1"},
        {"id": f"{stem}-2", "text": "i feel low", "labels": ["sadness"], "split": split, "source": f"{source}:2"},
    ]
    return [{key: value for key, value in post.items() if value} for post in posts]


LAYOUTS: dict[str, tuple[str, dict[str, bytes | str], list[dict]]] = {
    "xed": (
        "xed",
        {
            "en-annotated.tsv": b'"Oh !\t1, 4, 7\r\nWhy?\t8, 1\r\ncaf\xe9\t5\r\nno label\t\r\nfar\t9\r\nshort\r\n',
            "neu_en.txt": "9\tI see.\n\t\t\t\t\n9\tMind you\t\t\t\n9\tLast",
            "README.md": "# XED",
        },
        [
            {
                "id": "en-annotated-1",
                "text": '"Oh !',
                "labels": ["anger", "fear", "surprise"],
                "source": "en-annotated.tsv:1",
            },
            {"id": "en-annotated-2", "text": "Why?", "labels": ["trust", "anger"], "source": "en-annotated.tsv:2"},
            {"id": "en-annotated-3", "text": b"caf\xe9", "labels": ["joy"], "source": "en-annotated.tsv:3"},
            {"id": "en-annotated-4", "source": "en-annotated.tsv:4", "reject": "no label"},
            {"id": "en-annotated-5", "source": "en-annotated.tsv:5", "reject": "9 is not the number of a label"},
            {
                "id": "en-annotated-6",
                "source": "en-annotated.tsv:6",
                "reject": "wrong number of fields: 1 where there are 2 columns",
            },
            {"id": "neu_en-1", "text": "I see.", "labels": ["neutral"], "source": "neu_en.txt:1"},
            {"id": "neu_en-2", "source": "neu_en.txt:2", "reject": "no sentence"},
            {"id": "neu_en-3", "text": "Mind you", "labels": ["neutral"], "source": "neu_en.txt:3"},
            {"id": "neu_en-4", "text": "Last", "labels": ["neutral"], "source": "neu_en.txt:4"},
        ],
    ),
    "xed, the repository": (
        "xed",
        {
            "AnnotatedData/fi-annotated.tsv": "Hei\t5\n",
            "AnnotatedData/neu_fi.txt": "12\tNiin\t2\t428\tfi/1.xml.gz\n13\tJuu\n",
            "Projections/it-projections.tsv": "ciao\t{'5'}\n",
        },
        [
            {"id": "fi-annotated-1", "text": "Hei", "labels": ["joy"], "source": "AnnotatedData/fi-annotated.tsv:1"},
            {"id": "neu_fi-1", "text": "Niin", "labels": ["neutral"], "source": "AnnotatedData/neu_fi.txt:1"},
            {
                "id": "neu_fi-2",
                "source": "AnnotatedData/neu_fi.txt:2",
                "reject": "wrong number of fields: 2 where there are 5 columns",
            },
        ],
    ),
    "xed, projections": (
        "xed",
        {"it-projections.tsv": "ciao\t{'5', '1'}\n"},
        [
            {
                "id": "it-projections-1",
                "text": "ciao",
                "labels": ["joy", "anger"],
                "source": "it-projections.tsv:1",
            }
        ],
    ),
    "goemotions": (
        "goemotions",
        {
            "original/labels.txt": "\n".join(GO),
            "original/train.tsv": 'I "like" it\t0,17\teeaaa\nWhat\t28\teebbb\nNo\t27\t\n',
            "original/dev.tsv": "Hm\t27\teeccc\n",
            "original/test.tsv": "Ow\t2\teeddd\n",
        },
        [
            {
                "id": "eeaaa",
                "text": 'I "like" it',
                "labels": ["admiration", "joy"],
                "split": "train",
                "source": "original/train.tsv:1",
            },
            {"id": "train-2", "source": "original/train.tsv:2", "reject": "'28' are not numbers of labels"},
            {"id": "train-3", "source": "original/train.tsv:3", "reject": "no id"},
            {"id": "eeccc", "text": "Hm", "labels": ["neutral"], "split": "val", "source": "original/dev.tsv:1"},
            {"id": "eeddd", "text": "Ow", "labels": ["anger"], "split": "test", "source": "original/test.tsv:1"},
        ],
    ),
    "goemotions, the folder itself": (
        "goemotions",
        {"emotions.txt": "\n".join(GO) + "\n", "test.tsv": "Ow\t2\teeddd\n"},
        [{"id": "eeddd", "text": "Ow", "labels": ["anger"], "split": "test", "source": "test.tsv:1"}],
    ),
    "goemotions, every rater": (
        "goemotions",
        {
            "goemotions_1.csv": RAW
            + rating("two\nlines", "a1", "ann", "joy", "love")
            + rating("b", "b1", "[deleted]", unclear=True)
            + "broken,row\n",
            "goemotions_2.csv": RAW
            + rating("two\nlines", "a1", "ann", "joy")
            + rating("two\nlines", "a1", "ann", unclear=True),
        },
        [
            {
                "id": "goemotions_1-3",
                "source": "goemotions_1.csv:5",
                "reject": "wrong number of fields: 2 where there are 37 columns",
            },
            {
                "id": "a1",
                "text": "two\nlines",
                "group": "ann",
                "votes": {"joy": 2, "love": 1},
                "annotators": 3,
                "source": "goemotions_1.csv:2",
            },
            {"id": "b1", "text": "b", "source": "goemotions_1.csv:4"},
        ],
    ),
    "semeval2018": (
        "semeval2018",
        {
            "English/E-c/2018-E-c-En-train.txt": EC
            + '2017-En-1\t"no\t1'
            + "\t0" * 10
            + "\n2017-En-2\tx\t2"
            + "\t0" * 10,
            "English/E-c/2018-E-c-En-dev.txt": EC + "2017-En-3\tcalm\t0" + "\t0" * 10 + "\n",
            "English/E-c/2018-E-c-En-test.txt": EC + f"2017-En-4\tlove\t{NONE}\n",
            "English/E-c/2018-E-c-En-test-gold.txt": EC + "2017-En-4\tlove\t0" + "\t0" * 3 + "\t1\t1" + "\t0" * 5,
            "Spanish/E-c/2018-E-c-Es-test.txt": EC + f"2018-Es-1\thola\t{NONE}\n",
        },
        [
            {
                "id": "2017-En-3",
                "text": "calm",
                "split": "val",
                "labels": [],
                "source": "English/E-c/2018-E-c-En-dev.txt:2",
            },
            {
                "id": "2017-En-4",
                "text": "love",
                "split": "test",
                "labels": ["joy", "love"],
                "source": "English/E-c/2018-E-c-En-test-gold.txt:2",
            },
            {
                "id": "2017-En-1",
                "text": '"no',
                "split": "train",
                "labels": ["anger"],
                "source": "English/E-c/2018-E-c-En-train.txt:2",
            },
            {
                "id": "2018-E-c-En-train-2",
                "source": "English/E-c/2018-E-c-En-train.txt:3",
                "reject": "anger is '2', neither 0 nor 1",
            },
            {"id": "2018-Es-1", "text": "hola", "split": "test", "source": "Spanish/E-c/2018-E-c-Es-test.txt:2"},
        ],
    ),
    "brighter": (
        "brighter",
        {
            "train/deu.csv": "id,text,anger,disgust,fear,joy,sadness,surprise\n"
            'd1,"So, so",0,0,0,0,0,0\nd2,x,0,,0,1,0,0\n',
            "train/eng.csv": "id,text,anger,fear,joy,sadness,surprise\ne1,Well,0,0,1,0,1\ne2,y,1\n",
            "dev/eng.csv": "id,text,anger,fear,joy,sadness,surprise\ne3,z,0,0,0,0,0\ne4,y,1\n",
            "test/eng.csv": "id,text,anger,fear,joy,sadness,surprise\ne5,w,,,,,\n",
        },
        [
            {"id": "d1", "text": "So, so", "split": "train", "labels": [], "source": "train/deu.csv:2"},
            {
                "id": "d2",
                "text": "x",
                "split": "train",
                "labels": ["joy"],
                "unknown": ["disgust"],
                "source": "train/deu.csv:3",
            },
            {
                "id": "e1",
                "text": "Well",
                "split": "train",
                "labels": ["joy", "surprise"],
                "unknown": ["disgust"],
                "source": "train/eng.csv:2",
            },
            {
                "id": "train/eng-2",
                "source": "train/eng.csv:3",
                "reject": "wrong number of fields: 3 where there are 7 columns",
            },
            {
                "id": "e3",
                "text": "z",
                "split": "val",
                "labels": [],
                "unknown": ["disgust"],
                "source": "dev/eng.csv:2",
            },
            {
                "id": "dev/eng-2",
                "source": "dev/eng.csv:3",
                "reject": "wrong number of fields: 3 where there are 7 columns",
            },
            {"id": "e5", "text": "w", "split": "test", "source": "test/eng.csv:2"},
        ],
    ),
    "brighter, Hugging Face": (
        "brighter",
        {
            "eng/dev-00000-of-00001.parquet": parquet(
                [
                    {"id": "e1", "text": "Well", "anger": 1, "disgust": None, "fear": 0, "joy": 0, "sadness": 0}
                    | {"surprise": 0, "emotions": ["anger"]}
                ]
            ),
            "README.md": "",
        },
        [
            {
                "id": "e1",
                "text": "Well",
                "split": "val",
                "labels": ["anger"],
                "unknown": ["disgust"],
                "source": "eng/dev-00000-of-00001.parquet:1",
            }
        ],
    ),
    "dair-emotion": (
        "dair-emotion",
        {
            "split/train-00000-of-00001.parquet": parquet(DAIR),
            "split/validation-00000-of-00001.parquet": parquet(DAIR),
            "unsplit/train-00000-of-00001.parquet": parquet(DAIR),
        },
        dair("train-00000-of-00001", "train", "split/train-00000-of-00001.parquet")
        + dair("validation-00000-of-00001", "val", "split/validation-00000-of-00001.parquet"),
    ),
    "dair-emotion, unsplit": (
        "dair-emotion",
        {"unsplit/train-00000-of-00001.parquet": parquet(DAIR)},
        dair("train-00000-of-00001", None, "unsplit/train-00000-of-00001.parquet"),
    ),
    "dair-emotion, jsonl": (
        "dair-emotion",
        {"data/test.jsonl.gz": gzip.compress(lines(DAIR)), "data/data.jsonl.gz": gzip.compress(lines(DAIR))},
        dair("test", "test", "data/test.jsonl.gz"),
    ),
    "dair-emotion, csv": (
        "dair-emotion",
        {
            "training.csv": "text,label\n" + "i feel odd,5\n" * 50 + "i feel,6\n",
            "validation.csv": "text,label\ni feel shy,4\n",
        },
        [
            {
                "id": f"training-{n}",
                "text": "i feel odd",
                "labels": ["surprise"],
                "split": "train",
                "source": f"training.csv:{n + 1}",
            }
            for n in range(1, 51)
        ]
        + [
            {"id": "training-51", "source": "training.csv:52", "reject": "'6' is not the number of a label"},
            {
                "id": "validation-1",
                "text": "i feel shy",
                "labels": ["fear"],
                "split": "val",
                "source": "validation.csv:2",
            },
        ],
    ),
    "ck-plus": (
        "ck-plus",
        {
            "cohn-kanade-images/S005/001/S005_001_00000001.png": b"",
            "cohn-kanade-images/S005/001/S005_001_00000011.png": b"",
            "cohn-kanade-images/S005/001/.DS_Store": b"",
            "Emotion/S005/001/S005_001_00000011_emotion.txt": "   3.0000000e+00\n",
            "cohn-kanade-images/S005/002/S005_002_00000004.png": b"",
            "cohn-kanade-images/S010/001/S010_001_00000002.png": b"",
            "Emotion/S010/001/S010_001_00000002_emotion.txt": "   0.0000000e+00\n",
            "cohn-kanade-images/S010/002/S010_002_00000002.png": b"",
            "Emotion/S010/002/S010_002_00000002_emotion.txt": "   8.0000000e+00\n",
            "cohn-kanade-images/S010/003/notes.txt": b"",
        },
        [
            {
                "id": "S005_001",
                "image": "cohn-kanade-images/S005/001/S005_001_00000011.png",
                "group": "S005",
                "labels": ["disgust"],
                "source": "Emotion/S005/001/S005_001_00000011_emotion.txt:1",
            },
            {
                "id": "S005_002",
                "image": "cohn-kanade-images/S005/002/S005_002_00000004.png",
                "group": "S005",
                "source": "cohn-kanade-images/S005/002/S005_002_00000004.png:1",
            },
            {
                "id": "S010_001",
                "image": "cohn-kanade-images/S010/001/S010_001_00000002.png",
                "group": "S010",
                "labels": [],
                "source": "Emotion/S010/001/S010_001_00000002_emotion.txt:1",
            },
            {
                "id": "S010_002",
                "source": "Emotion/S010/002/S010_002_00000002_emotion.txt:1",
                "reject": "'8.0000000e+00' is not the number of a label",
            },
            {"id": "S010_003", "source": "cohn-kanade-images/S010/003:1", "reject": "no frames"},
        ],
    ),
    "ck-plus, CK+48": (
        "ck-plus",
        {f"CK+48/happy/S010_004_0000{number:04}.png": b"" for number in (17, 18, 19)}
        | {"CK+48/contempt/S138_008_00000007.png": b""},
        [
            {
                "id": "S138_008",
                "image": "CK+48/contempt/S138_008_00000007.png",
                "group": "S138",
                "labels": ["contempt"],
                "source": "CK+48/contempt/S138_008_00000007.png:1",
            },
            {
                "id": "S010_004",
                "image": "CK+48/happy/S010_004_00000019.png",
                "group": "S010",
                "labels": ["happiness"],
                "source": "CK+48/happy/S010_004_00000019.png:1",
            },
        ],
    ),
    "fer-plus": (
        "fer-plus",
        {
            "fer2013new.csv": FER
            + "Training,fer0000000.png,4,0,0,1,3,0,0,0,2,0\nPublicTest,,0,0,0,0,0,0,0,0,0,10\n"
            + "PrivateTest,fer0000002.png,0,10,0,0,0,0,0,0,0,0\nTraining,fer0000003.png,0,0,0,0,0,0,0,0,10,0\n"
            + "Training,fer0000004.png,x,0,0,0,0,0,0,0,0,0\nTraining,fer0000005.png,9,0,0,0,0,0,0,0,1,0\n",
            "fer2013.csv": f"emotion,pixels,Usage\n0,{GREY},Training\n0,{GREY},PublicTest\n0,{GREY} 8,PrivateTest\n"
            + f"3,{GREY},Training\n" * 2,
        },
        [
            {
                "id": "fer0000000",
                "image": "PNG L (48, 48) 7",
                "split": "train",
                "votes": {"neutral": 4, "sadness": 1, "anger": 3},
                "annotators": 10,
                "source": "fer2013new.csv:2",
            },
            {"id": "fer2013new-2", "source": "fer2013new.csv:3", "reject": "not a face, say most votes"},
            {"id": "fer2013new-3", "source": "fer2013new.csv:4", "reject": "pixels are not 48 x 48 numbers up to 255"},
            {
                "id": "fer0000003",
                "image": "PNG L (48, 48) 7",
                "split": "train",
                "votes": {},
                "annotators": 10,
                "source": "fer2013new.csv:5",
            },
            {"id": "fer2013new-5", "source": "fer2013new.csv:6", "reject": "neutral is 'x', not a count"},
            {"id": "fer2013new-6", "source": "fer2013new.csv:7", "reject": "no row of pixels"},
        ],
    ),
    "fer-plus, images": (
        "fer-plus",
        {
            "fer2013new.csv": FER + "PublicTest,fer0000000.png,4,0,0,1,3,0,0,0,2,0\n" * 2,
            "data/FER2013Valid/fer0000000.png": b"",
            "data/FER2013Valid/label.csv": 'fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,0,0,0,2,0\n',
            "data/FER2013Train/fer0000001.png": b"",
        },
        [
            {
                "id": "fer0000000",
                "image": "data/FER2013Valid/fer0000000.png",
                "split": "val",
                "votes": {"neutral": 4, "sadness": 1, "anger": 3},
                "annotators": 10,
                "source": "fer2013new.csv:2",
            },
            {
                "id": "fer2013new-2",
                "image": "data/FER2013Valid/fer0000000.png",
                "split": "val",
                "votes": {"neutral": 4, "sadness": 1, "anger": 3},
                "annotators": 10,
                "source": "fer2013new.csv:3",
            },
        ],
    ),
    "fer-plus, folders": (
        "fer-plus",
        {
            "FER2013Train/label.csv": 'fer0000000.png,"(0, 0, 48, 48)",0,0,10,0,0,0,0,0,0,0\n',
            "FER2013Test/label.csv": 'fer0000009.png,"(0, 0, 48, 48)",0,0,0,0,0,0,0,0,0,0\n',
        },
        [
            {
                "id": "fer0000000",
                "image": "FER2013Train/fer0000000.png",
                "split": "train",
                "votes": {"surprise": 10},
                "annotators": 10,
                "source": "FER2013Train/label.csv:1",
            },
            {"id": "FER2013Test/label-1", "source": "FER2013Test/label.csv:1", "reject": "no votes"},
        ],
    ),
    "flickr-emotion": (
        "flickr-emotion",
        {
            "agg/awe_1.csv": "awe,http://farm1.example.org/2/333_ab_b.jpg,1,4\nawe,http://farm1.example.org/2/444_cd.jpg,3,2\n",
            "agg/fear_1.csv": "fear,http://farm1.example.org/2/555_ef.jpg,0,none\nfear,http://x.org/666_gh.jpg,0,5\n",
            "images/333_ab_b.jpg": b"",
            "images/fear/666_gh.jpg": b"",
            "metadata.jsonl": lines([{"id": 333, "title": "Peak", "description": "Top\n", "tags": ["alps", "snow"]}]),
        },
        [
            {
                "id": "awe-333",
                "text": "Peak\nTop\n",
                "tags": ["alps", "snow"],
                "image": "images/333_ab_b.jpg",
                "votes": {"awe": 4},
                "annotators": 5,
                "group": "333",
                "source": "agg/awe_1.csv:1",
            },
            {
                "id": "awe-444",
                "image": "http://farm1.example.org/2/444_cd.jpg",
                "votes": {"awe": 2},
                "annotators": 5,
                "unknown": [label for label in FLICKR if label != "awe"],
                "group": "444",
                "source": "agg/awe_1.csv:2",
            },
            {"id": "fear_1-1", "source": "agg/fear_1.csv:1", "reject": "agree is 'none', not a count"},
            {
                "id": "fear-666",
                "image": "images/fear/666_gh.jpg",
                "votes": {"fear": 5},
                "annotators": 5,
                "group": "666",
                "source": "agg/fear_1.csv:2",
            },
        ],
    ),
    "vso": (
        "vso",
        {
            "3244ANPs.txt": "dark\n\tdark_night [sentiment: -1.41] [#imgs: 1,660,000]\n"
            "\tbig_sky [sentiment: 0.00] [#imgs: 9]\n",
            "bi_concepts1553/dark_night/77_ab.jpg": b"",
            "bi_concepts1553/dark_night/notes.txt": b"",
            "bi_concepts1553/big_sky/78_cd.jpg": b"",
            "bi_concepts1553/old_tree/77_ab.jpg": b"",
        },
        [
            {
                "id": "big_sky/78_cd",
                "image": "bi_concepts1553/big_sky/78_cd.jpg",
                "group": "78",
                "source": "bi_concepts1553/big_sky/78_cd.jpg:1",
            },
            {
                "id": "dark_night/77_ab",
                "image": "bi_concepts1553/dark_night/77_ab.jpg",
                "labels": ["negative"],
                "group": "77",
                "source": "bi_concepts1553/dark_night/77_ab.jpg:1",
            },
            {
                "id": "old_tree/77_ab",
                "image": "bi_concepts1553/old_tree/77_ab.jpg",
                "group": "77",
                "source": "bi_concepts1553/old_tree/77_ab.jpg:1",
            },
        ],
    ),
    "vso, MVSO": (
        "vso",
        {
            "image_url_mappings/english.csv": "ANP,image_url,title,description,tags\n"
            "happy_dog,http://f.org/1/91_a.jpg,Rex,,dog;park\nhappy_dog,,,,\n",
            "image_url_mappings/italian.csv": "ANP,image_url\nmare_mosso,http://f.org/1/92_b.jpg\n",
            "mvso_sentiment/english.csv": "happy_dog,1.7\n",
            "images/happy_dog/91_a.jpg": b"",
        },
        [
            {
                "id": "english/happy_dog/91",
                "text": "Rex",
                "tags": "dog;park",
                "image": "images/happy_dog/91_a.jpg",
                "labels": ["positive"],
                "group": "91",
                "source": "image_url_mappings/english.csv:2",
            },
            {"id": "english-2", "source": "image_url_mappings/english.csv:3", "reject": "no pair and URL"},
            {
                "id": "italian/mare_mosso/92",
                "image": "http://f.org/1/92_b.jpg",
                "group": "92",
                "source": "image_url_mappings/italian.csv:2",
            },
        ],
    ),
    "msed": (
        "msed",
        {
            "train/train.csv": MSED + 'Cat,"A cat, asleep",neutral,neutral,none\nDog,Dog,positive,glee,none\n',
            "dev/dev.csv": MSED + "Rain,Rain,negative,Sad,none\n",
            "dev/images/1.jpg": b"",
        },
        [
            {
                "id": "train-1",
                "text": "Cat\nA cat, asleep",
                "image": "train/images/1.jpg",
                "labels": ["neutral"],
                "split": "train",
                "source": "train/train.csv:2",
            },
            {"id": "train-2", "source": "train/train.csv:3", "reject": "unknown emotion: 'glee'"},
            {
                "id": "dev-1",
                "text": "Rain",
                "image": "dev/images/1.jpg",
                "labels": ["sad"],
                "split": "val",
                "source": "dev/dev.csv:2",
            },
        ],
    ),
}


def write(uri: str, files: dict[str, bytes | str]) -> str:
    fs, root = fsspec.core.url_to_fs(uri)
    for name, content in files.items():
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", content.encode() if isinstance(content, str) else content)
    return uri


def seen(post: dict) -> dict:
    """The post with the image's bytes, if it has some, put into words."""
    if not isinstance(post.get("image"), bytes):
        return post
    image = Image.open(io.BytesIO(post["image"]))
    return post | {"image": f"{image.format} {image.mode} {image.size} {image.getpixel((5, 40))}"}


def read(uri: str, name: str = "auto") -> list[dict]:
    corpus = find_corpus(uri, name)
    assert corpus
    return [seen(post) for post in read_corpus(corpus, uri)]


def recognised(uri: str) -> list[str]:
    return [corpus.name for corpus in CORPORA if corpus.recognises(Files(uri))]


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "data [1]")
        return
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    fs = fsspec.filesystem("memory")
    if fs.exists(name):
        fs.rm(name, recursive=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_post_of_a_layout(place, layout):
    name, files, posts = LAYOUTS[layout]
    write(place, files)
    assert recognised(place) == [name]
    found = read(place)
    assert found == posts
    assert read(place, name) == read(f"{place}/") == found
    assert len({post["id"] for post in found}) == len(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_those_of_the_corpus(tmp_path, layout):
    name, _, posts = LAYOUTS[layout]
    labels = next(corpus.labels for corpus in CORPORA if corpus.name == name)
    assert labels == tuple(map(normal, labels))
    for post in posts:
        assert {*post.get("labels", ()), *post.get("votes", ()), *post.get("unknown", ())} <= set(labels)


@pytest.mark.parametrize(
    ("layout", "target", "ids"),
    [
        ("xed", "neu_en.txt", ["neu_en-1", "neu_en-2", "neu_en-3", "neu_en-4"]),
        ("goemotions", "original/test.tsv", ["eeddd"]),
        ("goemotions", "original", ["eeaaa", "train-2", "train-3", "eeccc", "eeddd"]),
        ("goemotions", "original/t*.tsv", ["eeaaa", "train-2", "train-3", "eeddd"]),
        ("brighter", "test/eng.csv", ["e5"]),
        ("brighter", "*/eng.csv", ["e1", "train/eng-2", "e3", "dev/eng-2", "e5"]),
        ("dair-emotion", "split/validation-00000-of-00001.parquet", [f"validation-00000-of-00001-{n}" for n in (1, 2)]),
        ("msed", "dev/dev.csv", ["dev-1"]),
        ("flickr-emotion", "agg/fear_1.csv", ["fear_1-1", "fear-666"]),
    ],
)
def test_one_file_or_a_glob(place, layout, target, ids):
    name, files, _ = LAYOUTS[layout]
    uri = f"{write(place, files)}/{target}"
    assert recognised(uri) == [name]
    assert [post["id"] for post in read(uri)] == ids


def test_one_file_keeps_its_split_and_finds_its_images(place):
    write(place, LAYOUTS["brighter"][1] | LAYOUTS["msed"][1])
    assert read(f"{place}/dev/eng.csv")[0]["split"] == "val"
    assert read(f"{place}/dev/dev.csv")[0]["image"] == "images/1.jpg"
    write(place, LAYOUTS["dair-emotion"][1])
    assert all("split" not in post for post in read(f"{place}/unsplit"))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"posts.jsonl": lines([{"id": 1, "text": "x", "labels": ["joy"]}])},
        {"train.csv": "text,label\nI am Bob,3\n", "test.csv": "text,label\nOh,1\n"},
        {"train.csv": "text,label\ni am bob,6\n"},
        {"train.csv": "text,label\n"},
        {"train.tsv": "a\tb\n", "labels.txt": "joy\nanger\n"},
        {"train/a.csv": "id,text,author,joy,anger,fear,sadness\n1,x,me,0,1,0,0\n"},
        {
            "my-annotated.tsv": "text\tlabels\nx\tjoy\n",
            "awe_1.csv": "id,text\n1,x\n",
            "fer2013.csv": "emotion,pixels,Usage",
        },
        {"anger/1.png": b"", "cohn-kanade-images/notes.txt": b""},
    ],
)
def test_other_data_is_no_published_corpus(place, files):
    write(place, files)
    assert recognised(place) == []
    assert find_corpus(place) is None


def test_generic_asks_nothing_of_the_data(tmp_path):
    assert find_corpus(str(tmp_path / "none"), "generic") is None


def test_a_name_that_is_not_known():
    with pytest.raises(UserError, match=r"'xde' is not known; choose from auto, generic, mm-emo, xed"):
        find_corpus("data", "xde")


def test_a_name_that_does_not_fit(tmp_path):
    write(str(tmp_path), {f"notes-{number}.md": "" for number in range(10)})
    with pytest.raises(
        UserError, match=r"is not msed: looked for train/train.csv.*; found notes-0.md, .* and 2 more\.$"
    ):
        find_corpus(str(tmp_path), "msed")
    with pytest.raises(UserError, match=r"found notes-3.md\.$"):
        find_corpus(str(tmp_path / "notes-3.md"), "xed")
    with pytest.raises(UserError, match=r"found nothing\.$"):
        find_corpus(str(tmp_path / "none"), "xed")


@pytest.mark.parametrize(
    "uri",
    ["hf://datasets/luciapassaro/MM-Emo", "hf://datasets/luciapassaro/MM-Emo@main", "/data/mm_emo/", "mm-emo/x.csv"],
)
def test_mm_emo_is_known_by_name_and_read_by_its_columns(uri):
    corpus = find_corpus(uri)
    assert corpus
    assert (corpus.name, corpus.labels, corpus.read) == ("mm-emo", PLUTCHIK, None)
    assert find_corpus("elsewhere", "mm-emo") is corpus
    with pytest.raises(UserError, match="read by their columns"):
        read_corpus(corpus, uri)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no way there")

    monkeypatch.setattr(type(Files("hf://datasets/a/b").fs), "ls", fail)
    write(str(tmp_path), {"en-annotated.tsv": "x\t1\n".encode("utf-16"), "data/train.jsonl.gz": b"no gzip"})
    with pytest.raises(UserError, match=r"en-annotated\.tsv is UTF-16"):
        find_corpus(str(tmp_path), "xed")
    with pytest.raises(UserError, match=r"data/train\.jsonl\.gz cannot be read"):
        find_corpus(str(tmp_path), "dair-emotion")
    with pytest.raises(UserError, match=r"^hf://datasets/a/b cannot be listed: no way there\.$"):
        find_corpus("hf://datasets/a/b")
    write(str(tmp_path), {"split/train-0.parquet": b"PAR1"})
    with pytest.raises(UserError, match=r"split/train-0\.parquet is not a whole Parquet file"):
        find_corpus(str(tmp_path), "dair-emotion")


def test_posts_come_as_they_are_asked_for(tmp_path, monkeypatch):
    write(str(tmp_path), {"en-annotated.tsv": "x\t1\n" * 3, "neu_en.txt": "9\ty\n"})
    opened = []
    monkeypatch.setattr(Files, "_open", lambda files, name, was=Files._open: opened.append(name) or was(files, name))
    corpus = find_corpus(str(tmp_path))
    assert corpus
    opened.clear()
    posts = read_corpus(corpus, str(tmp_path))
    assert opened == []
    next(posts)
    assert opened == ["en-annotated.tsv"]


def test_a_layout_is_recognised_without_walking_the_data(tmp_path, monkeypatch):
    write(str(tmp_path), {f"{top}/{sub}/x.jpg": b"" for top in "abcdef" for sub in "abc"} | {"notes.csv": "id,text\n"})
    listed = []
    monkeypatch.setattr(
        Files, "_list", lambda files, folder, was=Files._list: listed.append(folder) or was(files, folder)
    )
    assert find_corpus(str(tmp_path)) is None
    assert set(listed) == {""}


def test_bad_bytes_stay_bytes(tmp_path):
    write(str(tmp_path), {"en-annotated.tsv": b"\xef\xbb\xbfcaf\xe9\t5\nna\xc3\xafve\t5\n"})
    assert [post["text"] for post in read(str(tmp_path))] == [b"caf\xe9", "naïve"]
    write(str(tmp_path / "half"), {"data/test.jsonl": b'{"text": "half \\ud83d", "label": 1}\n{oops\n'})
    assert find_corpus(str(tmp_path / "half")) is None
    write(
        str(tmp_path / "half"),
        {"data/test.jsonl": lines(DAIR * 30) + b'{"text": "half \\ud83d", "label": 1}\n{oops\n[]'},
    )
    assert read(str(tmp_path / "half"))[-3:] == [
        {"id": "test-61", "text": "half \ud83d", "labels": ["joy"], "split": "test", "source": "data/test.jsonl:61"},
        {"id": "test-62", "source": "data/test.jsonl:62", "reject": "not valid JSON"},
        {"id": "test-63", "source": "data/test.jsonl:63", "reject": "not a JSON object"},
    ]


def test_list_corpora():
    rows = list_corpora()
    assert len(rows) == len(CORPORA) == len({row[0] for row in rows}) == 11
    assert ("semeval2018", "22,458", "11", "text") in [(row[0], *row[2:5]) for row in rows]
    assert all(len(row) == 7 and all(isinstance(cell, str) for cell in row) for row in rows)
