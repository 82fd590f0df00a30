#!/usr/bin/env python3
"""Tests of record_metrics.py."""

import gzip
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

import record_metrics

PAGE = """# HELP octavo_tokens_total Tokens embedded.
# TYPE octavo_tokens_total counter
octavo_tokens_total{lane="query",format="f32"} %d
# HELP octavo_ready 1 while SERVING.
# TYPE octavo_ready gauge
octavo_ready 1
# HELP octavo_batch_tokens Tokens in a batch.
# TYPE octavo_batch_tokens histogram
octavo_batch_tokens_count{lane="query"} 2
octavo_batch_tokens_sum{lane="query"} 70.5
octavo_batch_tokens_bucket{lane="query",le="64"} 1
octavo_batch_tokens_bucket{lane="query",le="+Inf"} 2
"""


class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        Handler.requests += 1
        body = (PAGE % Handler.requests).encode()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def samples(text, head):
    return [tuple(map(float, line[len(head):].split())) for line in text.splitlines()
            if line.startswith(head + " ")]


class RecordMetricsTest(unittest.TestCase):
    def test_equal_values_are_thinned_and_changes_keep_their_time(self):
        series = record_metrics.Series(repeat=10)
        for when in range(35):
            series.add(when, "1" if when < 28 else str(when))
        self.assertEqual(series.all()[:4], [(0, "1"), (10, "1"), (20, "1"), (27, "1")])
        self.assertEqual(series.all()[4:], [(when, str(when)) for when in range(28, 35)])
        steady = record_metrics.Series(repeat=10)
        for when in range(6):
            steady.add(when, "0")
        self.assertEqual(steady.all(), [(0, "0"), (5, "0")], "the last scrape is there")

    def test_a_scrape_that_fails_is_seen(self):
        recording = record_metrics.Recording(repeat=10)
        recording.add(1.0, PAGE % 5)
        recording.add(2.0, None)
        text = "".join(recording.open_metrics())
        self.assertEqual(samples(text, "up"), [(1, 1), (0, 2)])
        self.assertEqual((recording.scrapes, recording.answered), (2, 1))

    def test_records_a_server_while_a_command_runs(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "load.om.gz")
            program = [sys.executable, record_metrics.__file__, f"--url={url}", f"--out={path}",
                       "--interval=0.05"]
            done = subprocess.run(program + ["--", sys.executable, "-c",
                                             "import time; time.sleep(0.3); raise SystemExit(3)"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 3, "the command's status")
            text = gzip.open(path, "rt").read()
            counted = samples(text, 'octavo_tokens_total{lane="query",format="f32"}')
            self.assertGreater(len(counted), 6)
            self.assertEqual([value for value, _ in counted], list(range(1, len(counted) + 1)))
            self.assertEqual([when for _, when in counted], sorted(when for _, when in counted))
            self.assertIn("# TYPE octavo_tokens counter\n", text)
            self.assertIn("# TYPE octavo_batch_tokens histogram\n", text)
            self.assertTrue(text.endswith("# EOF\n"))
            if shutil.which("promtool"):
                plain = os.path.join(directory, "load.om")
                with open(plain, "w") as file:
                    file.write(text)
                blocks = os.path.join(directory, "blocks")
                made = subprocess.run(
                    ["promtool", "tsdb", "create-blocks-from", "openmetrics", plain, blocks],
                    capture_output=True, text=True)
                self.assertEqual(made.returncode, 0, made.stdout + made.stderr)
                self.assertTrue(os.listdir(blocks))
            server.shutdown()
            nothing = subprocess.run(program + ["--seconds=0.1", "--url=http://127.0.0.1:1/metrics"],
                                     capture_output=True)
            self.assertEqual(nothing.returncode, 1, "no scrape was answered")
        server.server_close()


if __name__ == "__main__":
    unittest.main()
