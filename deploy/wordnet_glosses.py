#!/usr/bin/env python3
"""Writes WordNet's glosses as documents, one JSON object {"_id", "title", "text"} a line.

    wordnet_glosses.py --count=20000 --out=FILE [--wordnet=/usr/share/wordnet]

_id is the synset (part of speech and offset, "n02121620"), title its words, text its gloss. The
synsets are spread evenly over the files, so that each part of speech has its share; the same count
gives the same file.
"""

import argparse
import json
import os
import pathlib
import re
import sys

PARTS = ("noun", "verb", "adj", "adv")


def synsets(path):
    """Yields (id, words, gloss) in file order; the layout is wndb(5WN)'s."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("  "):
                continue  # the licence
            data, _, gloss = line.partition(" | ")
            fields = data.split(" ")
            # offset, file number, type, word count (hexadecimal), then a word and a number each
            count = int(fields[3], 16)
            words = (re.sub(r"\((a|p|ip)\)$", "", word) for word in fields[4 : 4 + 2 * count : 2])
            part = "a" if fields[2] == "s" else fields[2]
            yield part + fields[0], [word.replace("_", " ") for word in words], gloss.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--wordnet", type=pathlib.Path, default="/usr/share/wordnet")
    args = parser.parse_args()

    documents = []
    for part in PARTS:
        path = args.wordnet / f"data.{part}"
        if not path.exists():
            sys.exit(f"{path} is missing: run deploy/install_packages.sh (wordnet-base)")
        documents += synsets(path)
    count = min(args.count, len(documents))
    partial = args.out.with_name(args.out.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        for i in range(count):
            identifier, words, gloss = documents[i * len(documents) // count]
            row = {"_id": identifier, "title": ", ".join(words), "text": gloss}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, args.out)
    print(f"{args.out}: {count} of {len(documents)} glosses", file=sys.stderr)


if __name__ == "__main__":
    main()
