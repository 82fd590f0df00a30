#!/usr/bin/env python3
"""Writes unicode_tables.inc: Unicode as the Hugging Face tokenizers library sees it.

That library takes its properties from several Rust crates, each with a Unicode version of its own,
so no single version of the Unicode database describes it. This script therefore asks the library
itself about every code point and records what it did. Needs the pip package `tokenizers`.

    python3 runtime/generate_unicode_tables.py > runtime/unicode_tables.inc
"""

import os
import sys

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

# Bits of CharacterClass::flags; the names are in unicode.h.
CONTROL, CLEAN_SPACE, CHINESE, MARK = 1, 2, 4, 8
WHITESPACE, PUNCTUATION, WORD, REGEX_SPACE = 16, 32, 64, 128
DECOMPOSES, LOWER_EXPANDS = 256, 512

HANGUL_FIRST, HANGUL_LAST = 0xAC00, 0xD7A3
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def bert_normalizer(**enabled):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False,
                   lowercase=False)
    options.update(enabled)
    return normalizers.BertNormalizer(**options).normalize_str


def added_token_tokenizer(**options):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.add_tokens([AddedToken("@@", normalized=False, **options)])
    return tokenizer


def observe_flags():
    clean = bert_normalizer(clean_text=True)
    chinese = bert_normalizer(handle_chinese_chars=True)
    strip = bert_normalizer(strip_accents=True)
    nfd = normalizers.NFD().normalize_str
    lower = bert_normalizer(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    characters = [chr(c) for c in CODE_POINTS]
    # A single-word token is not matched beside a word character: then the text is one unknown word.
    beside = added_token_tokenizer(single_word=True).encode_batch_fast(
        ["@@" + c for c in characters])
    # A token that strips on the left swallows white space: then the text is the token alone.
    stripped = added_token_tokenizer(lstrip=True).encode_batch_fast([c + "@@" for c in characters])

    flags, decomposition, lowered = {}, {}, {}
    for i, (code, c) in enumerate(zip(CODE_POINTS, characters)):
        bits = 0
        cleaned = clean(c)
        if cleaned == "":
            bits |= CONTROL
        elif cleaned == " ":
            bits |= CLEAN_SPACE
        else:
            assert cleaned == c, hex(code)
        spaced = chinese(c)
        assert spaced in (c, " " + c + " "), hex(code)
        if spaced != c:
            bits |= CHINESE
        decomposition[code] = nfd(c)
        if decomposition[code] != c:
            bits |= DECOMPOSES
        elif strip(c) == "":
            bits |= MARK
        lowered[code] = lower(c)
        if len(lowered[code]) != 1:
            bits |= LOWER_EXPANDS
        words = [piece for piece, _ in split("a" + c + "a")]
        if words == ["a", "a"]:
            bits |= WHITESPACE
        elif words == ["a", c, "a"]:
            bits |= PUNCTUATION
        else:
            assert words == ["a" + c + "a"], hex(code)
        if beside[i].ids == [0]:
            bits |= WORD
        if len(stripped[i].ids) == 1:
            bits |= REGEX_SPACE
        flags[code] = bits

    for code in CODE_POINTS:  # Stripping is NFD without the marks.
        kept = [c for c in decomposition[code] if not flags[ord(c)] & MARK]
        assert strip(chr(code)) == "".join(kept), hex(code)
    return flags, decomposition, lowered


def observe_order(decomposition):
    """Ranks of the canonical combining classes, from which pairs NFD exchanges; 0 for starters."""
    nfd = normalizers.NFD().normalize_str
    lowest, highest = "\u0334", "\u0345"

    def above(a, b):
        return nfd(a + b) == b + a != a + b

    marks = [chr(code) for code in CODE_POINTS if decomposition[code] == chr(code)
             and (above(chr(code), lowest) or above(highest, chr(code)))]
    classes = []  # a sorted list of lists of marks
    for mark in marks:
        low, high = 0, len(classes)
        while low < high:
            middle = (low + high) // 2
            if above(mark, classes[middle][0]):
                low = middle + 1
            elif above(classes[middle][0], mark):
                high = middle
            else:
                classes[middle].append(mark)
                break
        else:
            classes.insert(low, [mark])
    for one, other in zip(classes, classes[1:]):
        assert above(other[0], one[0]) and above(other[-1], one[-1])
    return {ord(mark): rank + 1 for rank, members in enumerate(classes) for mark in members}


def check_hangul(decomposition):
    for code in range(HANGUL_FIRST, HANGUL_LAST + 1):
        lead, rest = divmod(code - HANGUL_FIRST, 588)
        vowel, tail = divmod(rest, 28)
        expected = chr(0x1100 + lead) + chr(0x1161 + vowel) + (chr(0x11A7 + tail) if tail else "")
        assert decomposition[code] == expected, hex(code)


def two_stage(values, block_size):
    """(index of the block of each block_size code points, the distinct blocks concatenated)."""
    blocks, first, second = {}, [], []
    for start in range(0, 0x110000, block_size):
        block = tuple(values[start:start + block_size])
        if block not in blocks:
            blocks[block] = len(blocks)
            second.extend(block)
        first.append(blocks[block])
    return first, second


def smallest_two_stage(values, bytes_of):
    def cost(shift):
        first, second = two_stage(values, 1 << shift)
        return len(first) * (1 if max(first) < 256 else 2) + len(second) * bytes_of
    shift = min(range(5, 9), key=cost)
    return (shift, *two_stage(values, 1 << shift))


def emit(kind, name, values, per_line=None):
    kinds = {"auto": "uint8_t" if max(values) < 256 else "uint16_t"}
    print(f"inline constexpr {kinds.get(kind, kind)} {name}[{len(values)}] = {{")
    line = "   "
    for value in values:
        text = f" {value},"
        if len(line) + len(text) > 100:
            print(line)
            line = "   "
        line += text
    print(line)
    print("};\n")


def main():
    flags, decomposition, lowered = observe_flags()
    order = observe_order(decomposition)
    check_hangul(decomposition)

    classes = {(0, 0, 0): 0}
    class_of = [0] * 0x110000
    for code in CODE_POINTS:
        delta = 0 if flags[code] & LOWER_EXPANDS else ord(lowered[code]) - code
        row = (flags[code], order.get(code, 0), delta)
        class_of[code] = classes.setdefault(row, len(classes))
    assert len(classes) <= 256, len(classes)

    # Each expansion is stored once as its length and its code points.
    expansions, expansion_at, index_of = [0], {}, [0] * 0x110000

    def store(text):
        if text not in expansion_at:
            expansion_at[text] = len(expansions)
            expansions.extend([len(text)] + [ord(c) for c in text])
        return expansion_at[text]

    for code in CODE_POINTS:
        if flags[code] & DECOMPOSES and not HANGUL_FIRST <= code <= HANGUL_LAST:
            index_of[code] = store(decomposition[code])
    lower_expansions = [(code, store(lowered[code])) for code in CODE_POINTS
                        if flags[code] & LOWER_EXPANDS]

    print("// Generated by generate_unicode_tables.py; do not edit.")
    print(f"// Observed from the Hugging Face tokenizers library, version {tokenizers.__version__}.")
    print("// clang-format off\n")
    shift, first, second = smallest_two_stage(class_of, 1)
    print(f"inline constexpr int kClassShift = {shift};")
    emit("auto", "kClassBlocks", first)
    emit("auto", "kClassIndex", second)
    print("// {flags, rank of the canonical combining class, distance to the lower case}")
    print(f"inline constexpr CharacterClass kClasses[{len(classes)}] = {{")
    for bits, rank, delta in classes:
        print(f"    {{{bits}, {rank}, {delta}}},")
    print("};\n")
    shift, first, second = smallest_two_stage(index_of, 2)
    print("// Where a code point's canonical decomposition begins in kExpansions; Hangul is computed.")
    print(f"inline constexpr int kDecompositionShift = {shift};")
    emit("auto", "kDecompositionBlocks", first)
    emit("auto", "kDecompositionIndex", second)
    print("// A length, then as many code points.")
    emit("int32_t", "kExpansions", expansions)
    print("// Lower cases of more than one code point: {code point, index in kExpansions}.")
    print(f"inline constexpr int32_t kLowerExpansions[{len(lower_expansions)}][2] = {{")
    for code, index in lower_expansions:
        print(f"    {{{code}, {index}}},")
    print("};")
    print(f"{len(classes)} classes, {len(expansions)} expansion values, "
          f"{max(order.values())} combining classes", file=sys.stderr)


if __name__ == "__main__":
    main()
