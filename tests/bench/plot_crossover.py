#!/usr/bin/env python3
"""Draws octavo-bench crossover: tokens/s and latency against tokens in a batch, as SVG.

  octavo-bench crossover --shape=minilm >> crossover.jsonl   # and bert-base
  python3 tests/bench/plot_crossover.py crossover.jsonl crossover.svg

A column a model; both axes are logarithmic. Under each pair of plots stands up to where 4-bit weights
pay against 16 bit, and which of the two quantized formats is faster up to where. The SVG follows the reader's light or
dark mode.
"""

import json
import math
import sys
from xml.sax.saxutils import escape

COLORS = {"f32": ("#6b7280", "#9ca3af"), "bf16": ("#2563eb", "#60a5fa"),
          "f16": ("#2563eb", "#60a5fa"), "a8w8_fp8": ("#b45309", "#fbbf24"),
          "a8w8_int8": ("#c2410c", "#fb923c"), "a16w4_int4": ("#047857", "#34d399")}
WIDTH, HEIGHT = 400, 250  # of one plot, without its margins
LEFT, RIGHT, TOP, BOTTOM, GAP = 64, 86, 40, 80, 72
NOTE = 16  # of a line under the plots


def read(lines):
    """Shapes in order: {shape: {"run": description, format: [(tokens, us)]}}."""
    shapes, run = {}, None
    for line in lines:
        if not line.strip():
            continue
        record = json.loads(line)
        if record.get("bench") == "crossover":
            run = record
            shapes[record["shape"]] = {"run": run, "formats": {}}
        elif "us" in record:
            formats = shapes[record["shape"]]["formats"]
            formats.setdefault(record["format"], []).append((record["tokens"], record["us"]))
    for shape in shapes.values():
        for points in shape["formats"].values():
            points.sort()
    return shapes


def pays_up_to(formats, name, other):
    """Most tokens up to which `name` is always faster than `other`; 0 if it never is."""
    theirs, last = dict(formats[other]), 0
    for tokens, us in formats[name]:
        if us >= theirs.get(tokens, math.inf):
            break
        last = tokens
    return last


def notes(formats):
    """What the lines say, in words."""
    said = []
    for name, other in (("a16w4_int4", "bf16"), ("a16w4_int4", "f16"),
                        ("a16w4_int4", "a8w8_fp8"), ("a16w4_int4", "a8w8_int8")):
        if name in formats and other in formats:
            last, most = pays_up_to(formats, name, other), formats[name][-1][0]
            said.append(f"{name} is slower than {other} throughout" if last == 0
                        else f"{name} is faster than {other} throughout" if last == most
                        else f"{name} is faster than {other} up to {last} tokens")
    return said


def number(value):
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


class Plot:
    def __init__(self, x, y, title, unit, series):
        self.x, self.y, self.title, self.unit, self.series = x, y, title, unit, series
        values = [v for points in series.values() for _, v in points]
        self.low = 10 ** math.floor(math.log10(min(values)))
        self.high = 10 ** math.ceil(math.log10(max(values)))
        self.most = max(t for points in series.values() for t, _ in points)

    def at(self, tokens, value):
        span = math.log(self.high / self.low)
        return (self.x + WIDTH * math.log(tokens) / math.log(max(self.most, 2)),
                self.y + HEIGHT * (1 - math.log(value / self.low) / span))

    def draw(self):
        out = [f'<text class="h" x="{self.x}" y="{self.y - 12}">{escape(self.title)}</text>']
        value = self.low
        while value <= self.high * 1.001:
            _, y = self.at(1, value)
            out.append(f'<path class="g" d="M{self.x} {y:.1f}h{WIDTH}"/>')
            out.append(f'<text class="t" x="{self.x - 6}" y="{y + 4:.1f}" text-anchor="end">'
                       f'{number(value)}</text>')
            value *= 10
        tokens = 1
        while tokens <= self.most:
            x, _ = self.at(tokens, self.low)
            out.append(f'<path class="g" d="M{x:.1f} {self.y}v{HEIGHT}"/>')
            out.append(f'<text class="t" x="{x:.1f}" y="{self.y + HEIGHT + 16}" '
                       f'text-anchor="middle">{tokens}</text>')
            tokens *= 4
        middle = self.y + HEIGHT / 2
        out.append(f'<text class="t" x="{self.x + WIDTH / 2}" y="{self.y + HEIGHT + 33}" '
                   'text-anchor="middle">tokens in a batch</text>')
        out.append(f'<text class="t" transform="translate({self.x - 46} {middle}) rotate(-90)" '
                   f'text-anchor="middle">{escape(self.unit)}</text>')
        ends = sorted((self.at(*points[-1])[1], name) for name, points in self.series.items())
        below = -math.inf
        for y, name in ends:
            below = max(y, below + 14)  # labels do not overlap
            style = name if name in COLORS else "f32"
            path = " ".join("{:.1f},{:.1f}".format(*self.at(*p)) for p in self.series[name])
            out.append(f'<polyline class="l {style}" points="{path}"/>')
            out.append(f'<text class="n {style}" x="{self.x + WIDTH + 6}" y="{below + 4:.1f}">'
                       f'{escape(name)}</text>')
        return out


def style():
    light = "".join(f".l.{n}{{stroke:{c[0]}}}.n.{n}{{fill:{c[0]}}}" for n, c in COLORS.items())
    dark = "".join(f".l.{n}{{stroke:{c[1]}}}.n.{n}{{fill:{c[1]}}}" for n, c in COLORS.items())
    return ("text{font:12px system-ui,sans-serif;fill:#1f2937}.h{font-weight:600;font-size:14px}.s{font-size:11px}"
            ".b{fill:#ffffff}.g{stroke:#e5e7eb;fill:none}.l{fill:none;stroke-width:2}" + light +
            "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.b{fill:#0d1117}"
            ".g{stroke:#30363d}" + dark + "}")


def draw(shapes):
    column, row = LEFT + WIDTH + RIGHT, HEIGHT + GAP
    width = column * len(shapes)
    lines = max(len(notes(shape["formats"])) for shape in shapes.values())
    height = TOP + 2 * row + BOTTOM - GAP + NOTE * (lines - 1)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" role="img"><style>{style()}</style>',
           f'<rect class="b" width="{width}" height="{height}"/>']
    for i, (name, shape) in enumerate(shapes.items()):
        formats, x = shape["formats"], i * column + LEFT
        rates = {f: [(t, t / us * 1e6) for t, us in p] for f, p in formats.items()}
        times = {f: [(t, us / 1e3) for t, us in p] for f, p in formats.items()}
        out += Plot(x, TOP, f"{name}: throughput", "tokens/s", rates).draw()
        out += Plot(x, TOP + row, f"{name}: latency", "ms a batch", times).draw()
        for line, note in enumerate(notes(formats)):
            y = height - 28 - NOTE * (lines - 1 - line)
            out.append(f'<text x="{x}" y="{y}">{escape(note)}</text>')
    run = next(iter(shapes.values()))["run"]
    where = run["processor"]
    if run.get("device", "cpu") == "cpu":
        where += f', {run["threads"]} threads'
    out.append(f'<text class="s" x="{LEFT}" y="{height - 10}">{escape(where)}</text></svg>')
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        shapes = read(file)
    if not any(shape["formats"] for shape in shapes.values()):
        sys.exit(f"{sys.argv[1]} holds no results of octavo-bench crossover")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(draw(shapes))


if __name__ == "__main__":
    main()
