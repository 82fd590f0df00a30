#!/usr/bin/env python3
"""Octavo over gRPC on one machine: starts octavo-server, then octavo-bench serve against it.

  python3 tests/bench/serve_device.py --build=build/release --model=DIR --device=cuda:0 \\
      --corpus=scifact/corpus.jsonl --queries=nq-open/NQ-open.dev.jsonl

Documents are texts of --corpus run together and cut to --tokens tokens each. Prints what
octavo-bench serve prints (serve_bench.h): queries alone, beside a saturating document stream, and
the stream alone; before that octavo-bench model on the same texts, in the same formats, without a
server, and at the end a line with the share of that the stream reaches and what the queries lose.
Needs tokenizers. --build is a build directory, or a folder that holds both programs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def program(build, *names):
    """The first of the paths that exists under the build directory."""
    for name in names:
        path = pathlib.Path(build) / name
        if path.exists():
            return str(path.resolve())
    sys.exit(f"{build} holds none of: {', '.join(names)}")


def write_documents(arguments, path):
    """JSON lines {"text"}, each of as many tokens as asked for, special tokens included."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(arguments.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with open(arguments.corpus, encoding="utf-8") as file:
        text = " ".join(json.loads(line)["text"].replace("\n", " ") for line in file)
    words = tokenizer.encode(text[: 12 * arguments.documents * arguments.tokens],
                             add_special_tokens=False)
    inside = arguments.tokens - 2
    count = min(arguments.documents, len(words.ids) // inside)
    if count < 2:
        sys.exit(f"{arguments.corpus} has too little text")
    exact = 0
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            first, last = words.offsets[i * inside][0], words.offsets[(i + 1) * inside - 1][1]
            document = text[first:last]
            exact += len(tokenizer.encode(document).ids) == arguments.tokens
            file.write(json.dumps({"text": document}) + "\n")
    log(f"{count} documents, {exact} of them of exactly {arguments.tokens} tokens")


class Server:
    """octavo-server, ready; `port` is where it listens."""

    def __init__(self, arguments):
        command = [program(arguments.build, "service/octavo-server", "octavo-server"),
                   f"--model={arguments.model}", f"--device={arguments.device}",
                   "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                   f"--document_format={arguments.document_format}",
                   f"--query_format={arguments.query_format}", *arguments.server_flag]
        log(" ".join(command))
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            self.fail("ended")
        self.port = json.loads(line)["port"]

    def fail(self, what):
        self.process.kill()
        self.log.seek(0)
        sys.exit(f"octavo-server {what}:\n{self.log.read()[-2000:]}")

    def close(self):
        self.process.terminate()
        return self.process.wait(timeout=30)


def bench(command, server):
    """The JSON lines of octavo-bench serve; until the server is up it is started again."""
    for _ in range(100):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if result.returncode == 0:
            return [json.loads(line) for line in result.stdout.splitlines()]
        if server.process.poll() is not None:
            server.fail("ended")
        if "UNAVAILABLE" not in result.stderr:
            break
        time.sleep(0.2)
    server.fail("is there, but octavo-bench says: " + result.stderr[-1000:])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--corpus", required=True, help="JSON lines with a \"text\"")
    parser.add_argument("--queries", required=True, help="JSON lines {question} or {text}")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--document_format", default="a8w8_int8")
    parser.add_argument("--query_format", default="a16w4_int4")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--documents", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60, help="of a run")
    parser.add_argument("--least_queries", type=int, default=1000, help="of a run")
    parser.add_argument("--rate", default="10%", help="of queries, as octavo-bench serve")
    parser.add_argument("--server_flag", action="append", default=[], help="may be repeated")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    octavo_bench = program(arguments.build, "tests/bench/octavo-bench", "octavo-bench")
    with tempfile.TemporaryDirectory() as directory:
        documents = f"{directory}/documents.jsonl"
        write_documents(arguments, documents)
        inputs = [f"--text={documents}", f"--queries={arguments.queries}"]
        model = subprocess.run(
            [octavo_bench, "model", f"--model={arguments.model}", f"--device={arguments.device}",
             f"--document_format={arguments.document_format}",
             f"--query_format={arguments.query_format}",
             f"--max_documents={arguments.documents}", "--worker", *inputs],
            input="documents\ndocuments\ndocuments\nqueries\nqueries\nquit\n",
            stdout=subprocess.PIPE, text=True, check=True)
        answers = [json.loads(line) for line in model.stdout.splitlines()]
        alone = max(answer["tokens_per_second"] for answer in answers[2:4])
        print(json.dumps({"bench": "serve_device", "run": "octavo-bench model",
                          "document_tokens_per_second": alone,
                          "p50_ms": answers[5]["p50_ms"], "p99_ms": answers[5]["p99_ms"]}),
              flush=True)

        server = Server(arguments)
        lines = bench([octavo_bench, "serve", f"--server=127.0.0.1:{server.port}",
                       "--documents=compare", f"--seconds={arguments.seconds}",
                       f"--least_queries={arguments.least_queries}",
                       f"--rate={arguments.rate}", *inputs], server)
        status = server.close()
    for line in lines:
        print(json.dumps(line), flush=True)
    runs = {line["run"]: line for line in lines}
    idle, both, stream = (runs[name] for name in
                          ("queries", "queries beside documents", "documents"))
    tokens = stream["document_tokens_per_second"]
    result = {"bench": "serve_device", "run": "summary", "device": arguments.device,
              "document_tokens_per_second": tokens, "share_of_octavo_bench_model": tokens / alone,
              "p50_ms_idle": idle["p50_ms"], "p99_ms_idle": idle["p99_ms"],
              "p50_ms_beside_documents": both["p50_ms"], "p99_ms_beside_documents": both["p99_ms"],
              "p99_beside_over_idle": both["p99_ms"] / idle["p99_ms"],
              "documents_kept": both["document_tokens_per_second"] / tokens,
              "server_exit_status": status}
    print(json.dumps(result), flush=True)
    for key, value in result.items():
        log(f"{key:32} {value:,.3f}" if isinstance(value, float) else f"{key:32} {value}")


if __name__ == "__main__":
    main()
