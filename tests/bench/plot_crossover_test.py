#!/usr/bin/env python3
"""Tests of plot_crossover.py."""

import json
import unittest
import xml.etree.ElementTree as ElementTree

import plot_crossover

RUN = {"bench": "crossover", "shape": "minilm", "processor": "a <b>", "threads": 2}


def record(name, tokens, us):
    return {"shape": "minilm", "format": name, "tokens": tokens, "us": us}


RECORDS = [RUN] + [record("bf16", t, 100.0 * t) for t in (1, 4, 16)] + [
    record("a16w4_int4", 4, 390.0), record("a16w4_int4", 1, 50.0),
    record("a16w4_int4", 16, 1700.0), record("a8w8_int8", 1, 120.0),
    record("a8w8_int8", 4, 300.0), record("a8w8_int8", 16, 400.0)]
LINES = [json.dumps(r) + "\n" for r in RECORDS]


class PlotCrossoverTest(unittest.TestCase):
    def test_reads_points_in_order(self):
        formats = plot_crossover.read(LINES + ["\n"])["minilm"]["formats"]
        self.assertEqual(formats["a16w4_int4"], [(1, 50.0), (4, 390.0), (16, 1700.0)])

    def test_says_up_to_where_a_format_pays(self):
        formats = plot_crossover.read(LINES)["minilm"]["formats"]
        self.assertEqual(plot_crossover.pays_up_to(formats, "a16w4_int4", "bf16"), 4)
        self.assertEqual(plot_crossover.notes(formats),
                         ["a16w4_int4 is faster than bf16 up to 4 tokens",
                          "a16w4_int4 is faster than a8w8_int8 up to 1 tokens"])
        formats["a16w4_int4"] = [(1, 101.0), (4, 1.0)]
        self.assertEqual(plot_crossover.pays_up_to(formats, "a16w4_int4", "bf16"), 0)
        del formats["a8w8_int8"]
        self.assertEqual(plot_crossover.notes(formats),
                         ["a16w4_int4 is slower than bf16 throughout"])

    def test_draws_a_line_a_format_in_each_plot(self):
        root = ElementTree.fromstring(plot_crossover.draw(plot_crossover.read(LINES)))
        space = "{http://www.w3.org/2000/svg}"
        lines = root.findall(space + "polyline")
        self.assertEqual(len(lines), 6)
        for line in lines:
            self.assertEqual(len(line.get("points").split()), 3)
        texts = [t.text for t in root.findall(space + "text")]
        self.assertIn("a <b>, 2 threads", texts)
        self.assertIn("a16w4_int4 is faster than bf16 up to 4 tokens", texts)


if __name__ == "__main__":
    unittest.main()
