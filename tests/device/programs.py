"""Runs the test programs that loop over Backends(), those of their tests that are a device's, and
holds that every row of its tables was among them.

  programs.py test FOLDER RESULTS        the tests
  programs.py sanitize FOLDER RESULTS    some of them under compute-sanitizer

FOLDER is a build directory, or one that pack.sh made. OCTAVO_TEST_PROGRAMS, names with spaces
between, leaves the others out; OCTAVO_TEST_LIMIT is the seconds that each may take."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

BACKEND = "cuda"
# Those whose tests are named by row or by backend, and others, which run whole.
BY_NAME = ("linear_test", "attention_test", "rows_test", "forward_test", "backends_test",
           "recording_test")
WHOLE = ("backend_test", "plan_test", "engine_test", "runtime_devices_test")
TABLES = {"linear": "linear_test", "attention": "attention_test"}
# Checked in time even where every access is watched.
SANITIZED = {
    "linear_test": "*LeavesTheRowsOfADeviceCountAlone/cuda_*",
    "attention_test": "*AValueThatIsNotFiniteShows/*_{rows}",
    "rows_test": "*/cuda",
}
TOOLS = ("memcheck", "racecheck")
WANTED = os.environ.get("OCTAVO_TEST_PROGRAMS", "").split()
LIMIT_SECONDS = int(os.environ.get("OCTAVO_TEST_LIMIT", "300"))


def find(folder, name):
    for place in ("tests/kernels", "tests/runtime", "tests/bench", "."):
        path = pathlib.Path(folder) / place / name
        if path.exists():
            return str(path.resolve())
    return None


class Results:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def add(self, outcome, name, detail=""):
        self.file.write(f"{outcome}\t{name}\t{' '.join(detail.split())[:200]}\n")
        self.file.flush()


def rows_of_tables(folder):
    """{table: [row, ...]} as the program lists its own."""
    bench = find(folder, "octavo-bench")
    listed = subprocess.run([bench, "rows", f"--device={BACKEND}"], stdout=subprocess.PIPE,
                            text=True, check=True)
    tables = {}
    for line in listed.stdout.splitlines():
        row = json.loads(line)
        tables.setdefault(row["table"], []).append(row["row"])
    return tables


def run_tests(command, name, results):
    """[(test, outcome, detail)] of a program, [] if it ended without a report."""
    with tempfile.TemporaryDirectory() as directory:
        report = f"{directory}/report.json"
        try:
            ended = subprocess.run([*command, f"--gtest_output=json:{report}"],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            results.add("failed", name, f"took longer than {LIMIT_SECONDS} s")
            return []
        if not os.path.exists(report):
            results.add("failed", name, f"ended with status {ended.returncode}: "
                        + ended.stdout[-150:])
            return []
        with open(report, encoding="utf-8") as file:
            suites = json.load(file)["testsuites"]
    tests = []
    for suite in suites:
        for test in suite["testsuite"]:
            full = f"{name}: {suite['name']}.{test['name']}"
            if "failures" in test:
                tests.append((full, "failed", test["failures"][0]["failure"]))
            elif test["result"] == "SKIPPED":
                reason = test.get("skipped", [{}])[0].get("message", "")
                tests.append((full, "skipped", reason))
            else:
                tests.append((full, "passed", ""))
    return tests


def test(folder, results):
    tables = rows_of_tables(folder)
    names = [f"*{BACKEND}_*", f"*/{BACKEND}*"]
    names += [f"*/*{row}" for rows in tables.values() for row in rows]
    for name in (*BY_NAME, *WHOLE):
        if WANTED and name not in WANTED:
            continue
        path = find(folder, name)
        if path is None:
            results.add("failed", name, "is not built")
            continue
        start = time.perf_counter()
        tests = run_tests([path, f"--gtest_filter={':'.join(names)}"] if name in BY_NAME
                          else [path], name, results)
        counts = [sum(t[1] == what for t in tests) for what in ("passed", "failed", "skipped")]
        print(f"{name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped, "
              f"{time.perf_counter() - start:.0f} s", flush=True)
        for full, outcome, detail in tests:
            results.add(outcome, full, detail)
        if name in BY_NAME and not tests:
            results.add("failed", name, f"no test of {BACKEND} ran")
        for table, program in TABLES.items():
            for row in tables.get(table, []) if program == name else []:
                ran = [t for t in tests if t[0].endswith(row) and t[1] == "passed"]
                if not ran:
                    results.add("failed", f"{name}: row {row}", "none of its tests passed")


def sanitize(folder, results):
    tables = rows_of_tables(folder)
    for name, pattern in SANITIZED.items():
        if WANTED and name not in WANTED:
            continue
        path = find(folder, name)
        pattern = ":".join(pattern.replace("*_{rows}", row) for row in tables["attention"]) \
            if "{rows}" in pattern else pattern
        for tool in TOOLS:
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "99",
                       "--print-limit", "5", path, f"--gtest_filter={pattern}"]
            what = f"{tool}: {name}"
            start = time.perf_counter()
            try:
                ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True, timeout=LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                results.add("failed", what, f"took longer than {LIMIT_SECONDS} s")
                continue
            ran = ended.stdout.count("[       OK ]")
            print(f"{what}: status {ended.returncode}, {ran} tests passed, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)
            if ended.returncode == 0 and ran > 0:
                results.add("passed", what, f"{ran} tests")
                continue
            found = [line for line in ended.stdout.splitlines() if line.startswith("=========")]
            print(*found[:12], sep="\n  ", flush=True)
            results.add("failed", what, f"status {ended.returncode}, {ran} tests passed")


if __name__ == "__main__":
    {"test": test, "sanitize": sanitize}[sys.argv[1]](sys.argv[2], Results(sys.argv[3]))
