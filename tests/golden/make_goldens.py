#!/usr/bin/env python3
"""Makes the reference embeddings of tests/golden: sentence-transformers, float32, on the CPU.

    make_goldens.py --model=DIR --data=DIR [--out=DIR] [--check]

Needs pip install sentence-transformers==6.2.0 numpy. --model is the directory deploy/fetch_model.sh
prints, --data the unpacked evaluation data (OCTAVO_DATA). --check makes the vectors again and
compares them with the committed file instead of writing it. README.md says what the files hold.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np

DOCUMENTS = 1000
QUESTIONS = 1000
NAME = "minilm_scifact_nq"


def spread(count, total):
    """`count` of `total` row numbers, evenly spread, the first row among them."""
    return [i * total // count for i in range(count)]


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def choose(data):
    """The chosen document ids and question lines, and their texts in file order."""
    corpus = read_lines(data / "scifact/corpus.jsonl")
    documents = [corpus[i] for i in spread(DOCUMENTS, len(corpus))]
    questions = read_lines(data / "nq-open/NQ-open.dev.jsonl")
    lines = spread(QUESTIONS, len(questions))
    texts = [d["title"] + " " + d["text"] for d in documents]
    texts += [questions[i]["question"] for i in lines]
    return [d["_id"] for d in documents], lines, texts


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def embed(model_directory, texts):
    """float32 [texts, dimensions]. One thread: sums then have one order on every machine."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(model_directory), device="cpu")
    vectors = model.encode(
        texts, batch_size=32, convert_to_numpy=True, show_progress_bar=sys.stderr.isatty()
    )
    assert vectors.dtype == np.float32
    return vectors, model.max_seq_length


def versions():
    from importlib.metadata import version

    return {name: version(name) for name in ("sentence-transformers", "transformers", "torch")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()

    ids, lines, texts = choose(args.data)
    vectors, max_seq_length = embed(args.model, texts)
    half = vectors.astype("<f2")
    vectors_path = args.out / f"{NAME}.f16"
    if args.check:
        committed = np.fromfile(vectors_path, dtype="<f2").reshape(half.shape)
        differing = int((committed != half).sum())
        cosine = (committed.astype(np.float64) * vectors).sum(1) / (
            np.linalg.norm(committed.astype(np.float64), axis=1) * np.linalg.norm(vectors, axis=1)
        )
        print(f"{differing} of {half.size} values differ, least cosine {cosine.min():.9f}")
        return 0 if cosine.min() > 0.999999 else 1

    half.tofile(vectors_path)
    manifest = {
        "model": args.model.name,
        "weights_sha256": sha256((args.model / "model.safetensors").read_bytes()),
        "max_seq_length": max_seq_length,
        "made_with": versions(),
        "vectors": vectors_path.name,
        "vectors_sha256": sha256(vectors_path.read_bytes()),
        "rows": half.shape[0],
        "dimensions": half.shape[1],
        "texts_sha256": sha256("".join(text + "\n" for text in texts).encode()),
        "documents": {"file": "scifact/corpus.jsonl", "ids": ids},
        "questions": {"file": "nq-open/NQ-open.dev.jsonl", "lines": lines},
    }
    (args.out / f"{NAME}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{vectors_path}: {half.shape[0]} x {half.shape[1]} float16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
