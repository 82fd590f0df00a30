#!/usr/bin/env python3
"""Records a server's /metrics as a time series, for dashboards to be tried on.

  tests/bench/record_metrics.py --out=load.om.gz --seconds=60
  tests/bench/record_metrics.py --out=load.om.gz -- octavo-bench serve --documents=on --seconds=600

Scrapes --url every --interval seconds, for --seconds or, with a command, until that ends and a few
scrapes longer. Writes gzipped OpenMetrics with timestamps, which Prometheus takes back:

  gunzip load.om.gz && promtool tsdb create-blocks-from openmetrics load.om DIRECTORY

A value that does not change is written when it begins, before it changes, and every --repeat
seconds between: what a query sees is the same. `up` is 1 for each scrape that was answered. Ends
with status 1 if none was, or with the command's.
"""

import argparse
import gzip
import re
import subprocess
import sys
import time
import urllib.request

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)$")
SUFFIX = re.compile(r"_(bucket|sum|count|total)$")
SCRAPES_AFTER = 5  # once the command has ended


class Series:
    """The samples of one line of the page, thinned out."""

    def __init__(self, repeat):
        self.repeat = repeat
        self.samples = []  # (seconds, value as written)
        self.held = None  # the last, where its value is that of the one before

    def add(self, when, value):
        if not self.samples or value != self.samples[-1][1]:
            if self.held:
                self.samples.append(self.held)
            self.samples.append((when, value))
            self.held = None
        elif when - self.samples[-1][0] >= self.repeat:
            self.samples.append((when, value))
            self.held = None
        else:
            self.held = (when, value)

    def all(self):
        return self.samples + ([self.held] if self.held else [])


class Recording:
    def __init__(self, repeat):
        self.repeat = repeat
        self.families = {}  # name -> (type, help, {line's head: Series})
        self.scrapes = 0
        self.answered = 0

    def add(self, when, page):
        """A scrape; `page` is None where it failed."""
        self.scrapes += 1
        self._sample(when, "up", "gauge", "1 if the scrape was answered.", "up",
                     str(int(page is not None)))
        if page is None:
            return
        self.answered += 1
        types, helps = {}, {}
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                name, kind = line.split(" ", 3)[2:]
                types[name] = kind
            elif line.startswith("# HELP "):
                name, text = line.split(" ", 3)[2:]
                helps[name] = text
            elif match := SAMPLE.match(line):
                head, value = match.groups()
                name = head.split("{", 1)[0]
                family = name if name in types else SUFFIX.sub("", name)
                self._sample(when, family, types.get(family, "unknown"), helps.get(family, ""),
                             head, value)

    def _sample(self, when, family, kind, text, head, value):
        series = self.families.setdefault(family, (kind, text, {}))[2]
        series.setdefault(head, Series(self.repeat)).add(when, value)

    def open_metrics(self):
        for family, (kind, text, series) in self.families.items():
            # OpenMetrics names a counter without the suffix that its samples have.
            name = re.sub("_total$", "", family) if kind == "counter" else family
            yield f"# TYPE {name} {kind}\n"
            if text:
                yield f"# HELP {name} {text}\n"
            for head, line in series.items():
                for when, value in line.all():
                    yield f"{head} {value} {when:.3f}\n"
        yield "# EOF\n"

    def write(self, path):
        with open(path, "wb") as file:
            # No time of writing in it: the same recording has the same bytes.
            with gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
                for line in self.open_metrics():
                    zipped.write(line.encode())
        return sum(len(line.all()) for _, _, series in self.families.values()
                   for line in series.values())


def scrape(url, timeout):
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.read().decode()
    except OSError:
        return None


def record(url, interval, seconds, repeat, command):
    recording = Recording(repeat)
    load = subprocess.Popen(command) if command else None
    begin = time.monotonic()
    scrapes_after = 0
    while True:
        due = begin + recording.scrapes * interval
        time.sleep(max(0, due - time.monotonic()))
        recording.add(time.time(), scrape(url, min(interval, 5)))
        if load is not None and load.poll() is not None:
            scrapes_after += 1
        if load is None and time.monotonic() - begin + interval > seconds:
            return recording, 0
        if scrapes_after > SCRAPES_AFTER:
            return recording, load.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:9464/metrics")
    parser.add_argument("--out", required=True, help="the file to write, gzipped")
    parser.add_argument("--interval", type=float, default=1, help="seconds between scrapes")
    parser.add_argument("--seconds", type=float, default=600, help="length without a command")
    parser.add_argument("--repeat", type=float, default=30, help="seconds between equal values")
    parser.add_argument("command", nargs="*", help="runs while it is recorded, after --")
    options = parser.parse_args()
    recording, status = record(options.url, options.interval, options.seconds, options.repeat,
                               options.command)
    samples = recording.write(options.out)
    print(f"{options.out}: {recording.answered} of {recording.scrapes} scrapes, {samples} samples",
          file=sys.stderr)
    sys.exit(status or (recording.answered == 0))


if __name__ == "__main__":
    main()
