#!/usr/bin/env python3
"""Compares our token ids with those of the Hugging Face tokenizers library: zero differences.

    tokenizer_parity.py --program tokenizer_ids [--generated 100000]

Reads tokenizers and texts from $OCTAVO_DATA and the tokenizer of $OCTAVO_MODEL. Besides real
vocabularies it uses one in which every character is a token, so that no difference in
normalization hides behind the unknown token. Exit code 77 (skipped) if the library or the
tokenizer files are missing.
"""

import argparse
import array
import bz2
import copy
import functools
import glob
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
SKIPPED = 77
ALL_CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


class Comparison:
    """Runs texts through both and counts what differs."""

    def __init__(self, program, directory, sample):
        self.program = program
        self.sample = sample
        self.directory = directory
        self.texts = self.ids = self.differences = 0

    def write(self, name, document):
        path = os.path.join(self.directory, name + ".json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False)
        return path

    def ours(self, path, texts, arguments):
        encoded = (text.encode("utf-8") for text in texts)
        request = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
        run = subprocess.run([self.program, path, *arguments], input=request,
                             stdout=subprocess.PIPE, check=True)
        values = array.array("i", run.stdout)
        result, at = [], 0
        for _ in texts:
            count = values[at]
            result.append(values[at + 1:at + 1 + count].tolist() if count >= 0 else None)
            at += 1 + max(count, 0)
        assert at == len(values), "a wrong number of answers"
        return result

    def compare(self, name, path, texts, truncation=None):
        """truncation: None for ids without special tokens, else ("end" or "start", limit)."""
        texts = texts[::self.sample]
        import tokenizers
        start = time.monotonic()
        library = tokenizers.Tokenizer.from_file(path)
        library.no_padding()
        library.no_truncation()
        if truncation:
            direction = {"end": "right", "start": "left"}[truncation[0]]
            library.enable_truncation(truncation[1], direction=direction)
            arguments = [truncation[0], str(truncation[1])]
        else:
            arguments = ["ordinary"]
        differences = ids = 0
        for first in range(0, len(texts), 100000):
            part = texts[first:first + 100000]
            theirs = library.encode_batch_fast(part, add_special_tokens=truncation is not None)
            for text, mine, other in zip(part, self.ours(path, part, arguments), theirs):
                expected = other.ids
                ids += len(expected)
                if mine != expected:
                    differences += 1
                    if differences <= 5:
                        print(f"  {name}: {text[:200]!r}\n    ours   {mine and mine[:60]}\n"
                              f"    theirs {expected[:60]}")
        self.texts += len(texts)
        self.ids += ids
        self.differences += differences
        limit = f", {truncation[0]} {truncation[1]}" if truncation else ""
        print(f"{name}{limit}: {len(texts)} texts, {ids} ids, {differences} differences, "
              f"{time.monotonic() - start:.1f} s", flush=True)


def read_jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def real_texts(data):
    """{name of a set: texts}; sets that are not there are left out."""
    sets = {}

    def add(name, path, read):
        paths = sorted(glob.glob(os.path.join(data, path)))
        if paths:
            sets[name] = [text for found in paths for text in read(found)]
        else:
            print(f"skipped: {name}, no {path} in OCTAVO_DATA")

    def retrieval(path):
        return [(row.get("title", "") + " " + row["text"]).strip() for row in read_jsonl(path)]

    def udhr(path):
        return [text if isinstance(text, str) else "\n".join(text)
                for text in (row["text"] for row in read_jsonl(path))]

    def chunks(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        return [text[i:i + 20000] for i in range(0, len(text), 20000)]

    def emoji(path):
        with open(path, encoding="utf-8") as file:
            rows = [line.split(";")[0].split() for line in file
                    if line.strip() and not line.startswith("#")]
        return ["".join(chr(int(code, 16)) for code in row) for row in rows]

    def normalization(path):
        with bz2.open(path, "rt", encoding="utf-8") as file:
            rows = [line.split(";")[:5] for line in file if line[0] not in "#@\n"]
        return ["".join(chr(int(code, 16)) for code in column.split())
                for row in rows for column in row]

    add("udhr", "udhr/udhr.jsonl", udhr)
    add("xquad", "xquad/*/*.jsonl", retrieval)
    add("scifact", "scifact/*.jsonl", retrieval)
    add("cranfield", "cranfield/*.jsonl", retrieval)
    add("stress", "stress/*.txt", chunks)
    add("emoji", "unicode/emoji-test.txt", emoji)
    add("NormalizationTest", "unicode/NormalizationTest.txt.bz2", normalization)
    return sets


@functools.lru_cache(maxsize=None)
def alphabets():
    """What generated strings are drawn from: lists of pieces of text."""
    def block(first, last):
        return [chr(code) for code in range(first, last + 1)
                if not 0xD800 <= code <= 0xDFFF]

    def category(*names):
        return [chr(code) for code in ALL_CODE_POINTS
                if unicodedata.category(chr(code)).startswith(names)]

    return {
        "letters": [chr(code) for code in range(0x61, 0x7B)],
        "capitals": [chr(code) for code in range(0x41, 0x5B)],
        "digits": list("0123456789"),
        "ascii": block(0, 127),
        "latin": block(0xA0, 0x24F) + ["\u0130", "\u1e9e", "\ufb01", "\u01c5"],
        "greek": block(0x370, 0x3FF) + block(0x1F00, 0x1FFF),
        "cyrillic": block(0x400, 0x52F),
        "hebrew and arabic": block(0x590, 0x6FF),
        "indic": block(0x900, 0xDFF),
        "thai and tibetan": block(0xE00, 0xFFF),
        "hangul": block(0xAC00, 0xAC80) + block(0x1100, 0x11FF),
        "kana": block(0x3040, 0x30FF) + block(0xFF66, 0xFF9F),
        "han": block(0x4E00, 0x4E80) + block(0x3400, 0x3420) + block(0x20000, 0x20010) +
               block(0xF900, 0xFA20) + block(0x2F800, 0x2F820),
        "marks": category("M"),
        "nonstarters": [c for c in category("M") if unicodedata.combining(c)],
        "spacing nonstarters": [c for c in category("Mc", "Me") if unicodedata.combining(c)] +
                               ["\U0001d165", "\U0001d16d", "\u302e", "\u302f"],
        "composed": [c for c in map(chr, ALL_CODE_POINTS) if unicodedata.decomposition(c) and
                     not unicodedata.decomposition(c).startswith("<")],
        "spaces": category("Z") + list(" \t\n\r\v\f\x1c\x1f\x85"),
        "controls": category("Cc", "Cf") + ["\x00", "\ufffd", "\ufeff", "\u200d", "\u00ad"],
        "punctuation": category("P"),
        "symbols": category("S"),
        "emoji": block(0x1F300, 0x1F350) + ["\ufe0f", "\u200d", "\U0001f3fb"],
        "anything": [chr(code) for code in ALL_CODE_POINTS],
        "private and unassigned": block(0xE000, 0xE010) + block(0x378, 0x379) +
                                  block(0x10FFF0, 0x10FFFF) + block(0xE0000, 0xE01FF),
        "added tokens": ["[MASK]", "[mask]", "[Mask]", "[ MASK ]", "[MASK", "MASK]", "[[MASK]]",
                         "[UNK]", "[unk]", "[CLS]", "[SEP]", "[PAD]", "[PAD][PAD]", "[", "]",
                         " [MASK] ", "[SEP].", "[M\u0301ASK]"],
    }


def generated_texts(count, seed, words, extra=()):
    rng = random.Random(seed)
    sources = alphabets()
    sources["words"] = words
    sources["spliced words"] = [a + b for a, b in zip(words[::2], words[1::2])]
    if extra:
        sources["extra"] = list(extra)
    names = sorted(sources)
    texts = []
    for _ in range(count):
        chosen = [sources[name] for name in rng.sample(names, rng.randint(1, 4))]
        if extra:
            chosen.append(sources["extra"])
        space = rng.random() * 0.5
        pieces = []
        for _ in range(rng.randint(1, 40)):
            if rng.random() < space:
                pieces.append(" ")
            source = chosen[int(rng.random() * len(chosen))]
            pieces.extend(rng.choices(source, k=(1, 1, 1, 2, 3, 6)[int(rng.random() * 6)]))
        if rng.random() < 0.02:  # around the longest word that is not unknown
            pieces.append(rng.choice("a\u00e9\u0301\u4e00\uac00") * rng.randint(97, 103))
        texts.append("".join(pieces))
    return texts


def character_vocabulary(document):
    """The tokenizer with characters for a vocabulary, alone and as continuations: all of those
    that normalization can change or yield, of the others (most Hangul, most of Han beyond the
    basic plane, private use) a few."""
    ranges = [(0, 0xAC40), (0xD7A4, 0xD7FF), (0xF900, 0x1FFFF), (0x20000, 0x20010),
              (0x2F800, 0x2FA1F), (0xE0000, 0xE01FF)]
    kept = [chr(code) for first, last in ranges for code in range(first, last + 1)]
    kept += [chr(code) for code in range(0x20000, 0x3FFFF, 16) if code > 0x20010]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += kept + ["##" + c for c in kept]
    document = copy.deepcopy(document)
    document["model"]["vocab"] = {token: id for id, token in enumerate(tokens)}
    return document


def with_added_tokens(document):
    """The tokenizer with added tokens that use every flag; and pieces of text that meet them."""
    document = copy.deepcopy(document)
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    contents = ["<ent>", "New York", "D\u00eda", "foo", "foobar", "\u0130x", "ab", "abc", "abcd",
                "\u4e2d\u6587", "na\u00efve", "_x_", "the", "...", "E\u0301t\u00e9", "\uac00\ub098"]
    for i, content in enumerate(contents):
        for variant in range(2):
            bits = (i * 7 + variant * 5) % 16
            document["added_tokens"].append({
                "id": 40000 + 2 * i + variant, "content": content + ("~" if variant else ""),
                "special": variant == 1, **{flag: bool(bits >> b & 1)
                                            for b, flag in enumerate(flags)}})
    forms = []
    for content in contents:
        for form in (content, content + "~", content.upper(), content.lower(),
                     unicodedata.normalize("NFD", content), " " + content + " ",
                     "\u3000" + content + "\t", content + content, "x" + content,
                     content + "\u0301", content + "_", content + "\x00" + content):
            forms.append(form)
    return document, forms


def with_normalizer(document, **options):
    document = copy.deepcopy(document)
    document["normalizer"].update(options)
    return document


def added_token(content, **flags):
    return {"id": 50000, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": False, **flags}


def other_documents(document):
    """(name, document, pieces of text that meet its tokens): structures the real files lack."""
    def changed(change):
        other = copy.deepcopy(document)
        change(other)
        return other

    def many_special_tokens(other):
        processor = other["post_processor"]
        processor["special_tokens"]["[SEP]"].update(ids=[102, 103], tokens=["[SEP]", "[MASK]"])
        pieces = processor["single"]
        pieces.insert(0, pieces[0])
        pieces.append(pieces[-1])

    def sparse_vocabulary(other):  # ids of new tokens meet ids of the vocabulary
        other["post_processor"] = None
        other["model"]["vocab"] = {"[UNK]": 0, "the": 3, "x": 5, "run": 4}
        other["added_tokens"] = [added_token("zz"), added_token("yy"),
                                 added_token("the", lstrip=True), added_token("ww")]

    spaces = [
        [added_token("  "), added_token("<a>", lstrip=True), added_token("<b>", rstrip=True)],
        [added_token(" ", single_word=True), added_token("\u3000x", lstrip=True)],
        [added_token(" <q>", normalized=True), added_token("<b>", rstrip=True),
         added_token("\t"), added_token("a ", rstrip=True)],
    ]
    pieces = [" ", "  ", "\u3000", "\t", "<a>  <b>", " <q> ", "\u3000x", "a "]
    result = [(f"added tokens of white space {i}",
               changed(lambda other: other["added_tokens"].extend(tokens)), pieces)
              for i, tokens in enumerate(spaces)]
    result.append(("several special tokens", changed(many_special_tokens), []))
    result.append(("BertProcessing", changed(lambda other: other.update(post_processor={
        "type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]})), []))
    result.append(("no normalizer", changed(lambda other: other.update(normalizer=None)), []))
    result.append(("sparse vocabulary", changed(sparse_vocabulary), ["zz", "yy", "ww", "the"]))
    return result


def tokenizer_files():
    paths = sorted(glob.glob(os.path.join(os.environ.get("OCTAVO_DATA", ""),
                                          "tokenizers", "*", "tokenizer*.json")))
    if os.environ.get("OCTAVO_MODEL"):
        paths.append(os.path.join(os.environ["OCTAVO_MODEL"], "tokenizer.json"))
    documents = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        if "model" in document:
            documents[path] = document
    return documents


def meaning(document):
    """What decides the ids: two files that agree in this need not both be tested at length."""
    keys = ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
    return json.dumps([document.get(key) for key in keys], sort_keys=True)


def compare_all(comparison, documents, count):
    sets = real_texts(os.environ.get("OCTAVO_DATA", ""))
    alone = [chr(code) for code in ALL_CODE_POINTS]
    between = ["a" + c + "b" for c in alone]
    path, document = next(iter(documents.items()))
    words = [token.removeprefix("##") for token in sorted(document["model"]["vocab"])]
    random.Random(1).shuffle(words)

    seen = {}
    for other_path, other in documents.items():
        short = os.path.join(*other_path.split(os.sep)[-2:])
        first = seen.setdefault(meaning(other), other_path)
        comparison.compare(f"{short}: generated", other_path,
                           generated_texts(count if first == other_path else 2000, 2, words))
        if first != other_path:
            print(f"{short} means the same as {first}")
            continue
        for name, texts in sets.items():
            comparison.compare(f"{short}: {name}", other_path, texts)
        comparison.compare(f"{short}: code points between letters", other_path, between)

    characters = character_vocabulary(document)
    exposing = comparison.write("characters", characters)
    comparison.compare("character vocabulary: code points alone", exposing, alone)
    comparison.compare("character vocabulary: code points between letters", exposing, between)
    for name in ("NormalizationTest", "emoji", "udhr"):
        if name in sets:
            comparison.compare(f"character vocabulary: {name}", exposing, sets[name])
    generated = generated_texts(max(count // 5, 1000), 3, words)
    comparison.compare("character vocabulary: generated", exposing, generated)
    variants = [dict(lowercase=False), dict(strip_accents=False), dict(clean_text=False),
                dict(lowercase=False, strip_accents=True, handle_chinese_chars=False),
                dict(clean_text=False, handle_chinese_chars=False, strip_accents=False,
                     lowercase=False)]
    for number, options in enumerate(variants):
        variant = comparison.write(f"variant{number}", with_normalizer(characters, **options))
        comparison.compare(f"character vocabulary, {options}: generated", variant,
                           generated[number::len(variants)] +
                           sets.get("NormalizationTest", [])[number::17])

    added, forms = with_added_tokens(document)
    path_added = comparison.write("added", added)
    comparison.compare("added tokens of all kinds: generated", path_added,
                       generated_texts(max(count // 5, 1000), 4, words, forms))
    cased = comparison.write("added_cased", with_normalizer(added, lowercase=False))
    comparison.compare("added tokens, cased: generated", cased,
                       generated_texts(max(count // 20, 1000), 5, words, forms))

    for number, (name, other, pieces) in enumerate(other_documents(document)):
        other_path = comparison.write(f"other{number}", other)
        texts = generated_texts(2000, 8, words, pieces)
        comparison.compare(name, other_path, texts)
        for direction in ("end", "start"):
            comparison.compare(name, other_path, texts, (direction, 12))

    # Short texts meet every limit from below, exactly and from above.
    short_texts = [text for text in generated_texts(4000, 6, words) if text]
    for direction in ("end", "start"):
        for limit in (3, 4, 16, 31, 64):
            comparison.compare("truncated: generated", path, short_texts, (direction, limit))
        comparison.compare("truncated: added tokens", path_added,
                           generated_texts(2000, 7, words, forms), (direction, 24))
        for name in ("scifact", "udhr"):
            if name in sets:
                comparison.compare(f"truncated: {name}", path, sets[name][:100], (direction, 256))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True, help="the tokenizer_ids program")
    parser.add_argument("--generated", type=int, default=100000)
    parser.add_argument("--sample", type=int, default=1,
                        help="compare every n-th text only (sanitizers are slow)")
    arguments = parser.parse_args()
    try:
        import tokenizers
    except ImportError:
        print("skipped: the Python package `tokenizers` is not installed")
        return SKIPPED
    documents = tokenizer_files()
    if not documents:
        print("skipped: no tokenizer.json; set OCTAVO_DATA or OCTAVO_MODEL")
        return SKIPPED
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        comparison = Comparison(arguments.program, directory, arguments.sample)
        compare_all(comparison, documents, arguments.generated)
    print(f"tokenizers {tokenizers.__version__}: {comparison.texts} texts, {comparison.ids} ids, "
          f"{comparison.differences} differences, {time.monotonic() - start:.0f} s")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
