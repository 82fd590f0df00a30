#!/usr/bin/env python3
"""Times the Hugging Face tokenizers library on the texts octavo-bench tokenizer gives it.

    peer_tokenizer.py --tokenizer tokenizer.json --texts FILE

FILE holds a little-endian uint32 length and that many bytes of UTF-8, repeated. Prints one JSON
object: ids a second of processor time, on one thread, for each way to encode (the best of two passes), and the number
and the sha256 of the ids (each text's count, then its ids, int32).
"""

import argparse
import array
import hashlib
import json
import os
import struct
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers  # noqa: E402


def read_texts(path):
    with open(path, "rb") as file:
        data = file.read()
    texts, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        texts.append(data[at + 4:at + 4 + size].decode("utf-8"))
        at += 4 + size
    return texts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--texts", required=True)
    arguments = parser.parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(arguments.tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = read_texts(arguments.texts)

    batches = [texts[i:i + 256] for i in range(0, len(texts), 256)]
    ways = {
        "encode": lambda: [tokenizer.encode(text) for text in texts],
        "encode_batch": lambda: [e for batch in batches for e in tokenizer.encode_batch(batch)],
        "encode_batch_fast":
            lambda: [e for batch in batches for e in tokenizer.encode_batch_fast(batch)],
    }
    ids = array.array("i")
    for encoding in ways["encode_batch"]():
        ids.append(len(encoding.ids))
        ids.extend(encoding.ids)
    count = len(ids) - len(texts)
    rates = {}
    for name, run in ways.items():
        taken = []
        for _ in range(2):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
        rates[name] = count / min(taken)
    print(json.dumps({"version": tokenizers.__version__, "ids": count, "ids_per_s": rates,
                      "sha256": hashlib.sha256(ids.tobytes()).hexdigest()}))


if __name__ == "__main__":
    main()
