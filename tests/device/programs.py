"""Runs the test programs that loop over Backends(), those of their tests that are a device's, and
holds that every row of its tables was among them.

  programs.py test FOLDER RESULTS        the tests
  programs.py sanitize FOLDER RESULTS    some of them under compute-sanitizer

They run side by side, the longest of them cut into processes of some of the tests each: most of
their time is the reference in double on one core. FOLDER is a build directory, or one that pack.sh
made. OCTAVO_TEST_PROGRAMS, names with spaces between, leaves the others out; OCTAVO_TEST_LIMIT is
the seconds that each process may take, OCTAVO_TEST_WORKERS how many run at once."""

import concurrent.futures
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
    "attention_test": "*AValueThatIsNotFiniteShows/*_{row}",
    "rows_test": "*/cuda",
}
BATCH_FORMATS = "f16,a8w8_fp8,a8w8_int8,a16w4_int4"
BATCHES_SECONDS = 60  # about a quarter is enough
TOOLS = ("racecheck", "memcheck")  # the slower first
SHARDS = {"linear_test": 16, "attention_test": 8, "rows_test": 4, "engine_test": 4}
SANITIZED_SHARDS = {"linear_test": 8, "rows_test": 4}
WANTED = os.environ.get("OCTAVO_TEST_PROGRAMS", "").split()
LIMIT_SECONDS = int(os.environ.get("OCTAVO_TEST_LIMIT", "300"))
WORKERS = int(os.environ.get("OCTAVO_TEST_WORKERS", str(os.cpu_count())))


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


class Job:
    """A share of a program's tests, or of them under a tool. `shard` is its number and of how many
    (gtest's own sharding)."""

    def __init__(self, folder, name, tests, shard, tool=None):
        self.name, self.tool = name, tool
        self.path = find(folder, name)
        self.command = [self.path, f"--gtest_filter={':'.join(tests)}"]
        if tool is not None:
            self.command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "99",
                            "--print-limit", "5", *self.command]
        self.environment = {**os.environ, "GTEST_SHARD_INDEX": str(shard[0]),
                            "GTEST_TOTAL_SHARDS": str(shard[1])}
        self.failure = None  # why it is no success, whatever its tests say
        self.tests = []  # (test, outcome, detail)
        self.seconds = 0.0

    def run(self):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            report = f"{directory}/report.json"
            try:
                ended = subprocess.run([*self.command, f"--gtest_output=json:{report}"],
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       env=self.environment, timeout=LIMIT_SECONDS)
                self.read(report, ended)
            except subprocess.TimeoutExpired:
                self.failure = f"took longer than {LIMIT_SECONDS} s"
        self.seconds = time.perf_counter() - start
        return self

    def read(self, report, ended):
        if not os.path.exists(report):
            self.failure = f"ended with status {ended.returncode}: " + ended.stdout[-150:]
            return
        with open(report, encoding="utf-8") as file:
            suites = json.load(file)["testsuites"]
        for suite in suites:
            for test in suite["testsuite"]:
                full = f"{self.name}: {suite['name']}.{test['name']}"
                if "failures" in test:
                    self.tests.append((full, "failed", test["failures"][0]["failure"]))
                elif test["result"] == "SKIPPED":
                    reason = test.get("skipped", [{}])[0].get("message", "")
                    self.tests.append((full, "skipped", reason))
                else:
                    self.tests.append((full, "passed", ""))
        # A tool's own finding, or an end after the last test.
        if ended.returncode != 0 and all(t[1] != "failed" for t in self.tests):
            found = [line for line in ended.stdout.splitlines() if line.startswith("=========")]
            print(*found[:12], sep="\n  ", flush=True)
            self.failure = f"status {ended.returncode}: " + " ".join(found[:2])


def run_side_by_side(jobs, results):
    """Runs all, those named first first, and prints a line a program; {program: its tests}."""
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        ended = list(pool.map(Job.run, jobs))
    tests = {}
    for key in dict.fromkeys((job.tool, job.name) for job in ended):
        what = ": ".join(word for word in key if word is not None)
        of_key = [job for job in ended if (job.tool, job.name) == key]
        tests[what] = [test for job in of_key for test in job.tests]
        counts = [sum(t[1] == outcome for t in tests[what])
                  for outcome in ("passed", "failed", "skipped")]
        print(f"{what}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped, "
              f"{sum(job.seconds for job in of_key):.0f} s in {len(of_key)} processes, the longest "
              f"{max(job.seconds for job in of_key):.0f} s", flush=True)
        for job in of_key:
            if job.failure is not None:
                results.add("failed", what, job.failure)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return tests


def make_jobs(folder, name, tests, results, tool=None):
    if WANTED and name not in WANTED:
        return []
    if find(folder, name) is None:
        results.add("failed", name, "is not built")
        return []
    shards = (SHARDS if tool is None else SANITIZED_SHARDS).get(name, 1)
    return [Job(folder, name, tests, (shard, shards), tool) for shard in range(shards)]


def test(folder, results):
    tables = rows_of_tables(folder)
    names = [f"*{BACKEND}_*", f"*/{BACKEND}*"]
    names += [f"*/*{row}" for rows in tables.values() for row in rows]
    jobs = []
    for name in (*BY_NAME, *WHOLE):
        jobs += make_jobs(folder, name, names if name in BY_NAME else ["*"], results)
    for name, tests in run_side_by_side(jobs, results).items():
        for full, outcome, detail in tests:
            results.add(outcome, full, detail)
        if name in BY_NAME and not tests:
            results.add("failed", name, f"no test of {BACKEND} ran")
        for table, program in TABLES.items():
            for row in tables.get(table, []) if program == name else []:
                ran = [t for t in tests if t[0].endswith(row) and t[1] == "passed"]
                if not ran:
                    results.add("failed", f"{name}: row {row}", "none of its tests passed")
    check_batches(folder, results)


def check_batches(folder, results):
    """Whole encoders, batches following each other without a pause: kernels that wait for each
    other across launches can stand still there and nowhere else."""
    name = "octavo-bench"
    if WANTED and name not in WANTED:
        return
    start = time.perf_counter()
    try:
        ended = subprocess.run(
            [find(folder, "octavo-bench"), "model", f"--device={BACKEND}:0", "--shape=minilm",
             "--batch=256", "--tokens=128,512", f"--format={BATCH_FORMATS}", "--rounds=8"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BATCHES_SECONDS)
        outcome = "passed" if ended.returncode == 0 else "failed"
        detail = "" if ended.returncode == 0 else ended.stdout[-200:]
    except subprocess.TimeoutExpired:
        outcome, detail = "failed", f"stood still for {BATCHES_SECONDS} s"
    results.add(outcome, f"{name}: batches without a pause", detail)
    print(f"{name}: {outcome}, {time.perf_counter() - start:.0f} s", flush=True)


def sanitize(folder, results):
    rows = rows_of_tables(folder)["attention"]
    jobs = []
    for tool in TOOLS:
        for name, pattern in SANITIZED.items():
            tests = [pattern.format(row=row) for row in rows] if "{row}" in pattern else [pattern]
            jobs += make_jobs(folder, name, tests, results, tool)
    for what, tests in run_side_by_side(jobs, results).items():
        for full, outcome, detail in tests:
            if outcome != "passed":
                results.add(outcome, f"{what.split(':')[0]}: {full}", detail)
        passed = sum(t[1] == "passed" for t in tests)
        results.add("passed" if passed else "failed", what, f"{passed} tests")


if __name__ == "__main__":
    {"test": test, "sanitize": sanitize}[sys.argv[1]](sys.argv[2], Results(sys.argv[3]))
