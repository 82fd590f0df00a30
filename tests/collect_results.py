#!/usr/bin/env python3
"""Turns one CTest run into lines "passed|failed|skipped<TAB>name<TAB>reason" on standard output.

    collect_results.py JUNIT_FILE GTEST_FOLDER PART

Tests inside a Google Test program are counted one by one, from the XML it left in GTEST_FOLDER; a
program that left none, or failed after its tests passed, counts by what CTest says of it.
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as xml


def row(outcome, part, name, reason=""):
    print(f"{outcome}\t{part}: {name}\t{' '.join(reason.split())[:300]}")


def gtest_cases(path):
    """Yields (name, outcome, reason) of each test of one program."""
    for suite in xml.parse(path).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            failures = case.findall("failure")
            skip = case.find("skipped")
            if failures:
                yield name, "failed", failures[0].get("message", "")
            elif case.get("status") == "notrun":
                yield name, "skipped", "disabled"
            elif skip is not None or case.get("result") == "skipped":
                message = skip.get("message", "") if skip is not None else ""
                # The message begins with the source line it was written on.
                yield name, "skipped", message.partition("\n")[2] or message
            else:
                yield name, "passed", ""


def read_gtest(path):
    try:
        return list(gtest_cases(path))
    except xml.ParseError:
        return []  # cut off: the program died while it wrote


def telling_line(case):
    """What a sanitizer reports, else the last line printed."""
    lines = (case.findtext("system-out") or "").strip().splitlines()
    reports = [line for line in lines if re.search(r"Sanitizer: |: runtime error: ", line)]
    return (reports or lines[-1:] or [""])[0]


def main():
    junit, folder, part = sys.argv[1:]
    for test in xml.parse(junit).getroot().iter("testcase"):
        name, status = test.get("name"), test.get("status")
        path = pathlib.Path(folder) / f"{name}.xml"
        cases = read_gtest(path) if path.exists() else []
        for case, outcome, reason in cases:
            row(outcome, part, f"{name}: {case}", reason)
        if status in ("notrun", "disabled"):
            row("skipped", part, name, telling_line(test) or status)
        elif status == "fail":
            if not any(outcome == "failed" for _, outcome, _ in cases):
                failure = test.find("failure")
                reason = failure.get("message", "") if failure is not None else ""
                row("failed", part, name, f"{reason} {telling_line(test)}")
        elif not cases:
            row("passed", part, name)


if __name__ == "__main__":
    main()
