#!/usr/bin/env python3
"""Octavo beside ONNX Runtime, OpenVINO and PyTorch on the same model, texts and processors.

  python3 tests/bench/peers_cpu.py --build=build/release --model=DIR --data=$OCTAVO_DATA \\
      --shape=minilm

Everyone is loaded once, validated against float32 and then takes turns, round after round, so that
a change of the machine's speed falls on all. Documents: SciFact abstracts, ids made before the
clock starts; the peers get length-sorted batches, padded, of the size in which each is fastest, and
OpenVINO the precision, too. Queries: one NQ question at a time,
tokenizing included; Octavo's also over gRPC, from a server that this script starts. Prints a JSON
line a runner (medians over the rounds) and a JSON line a ratio; tables go to standard error.

The models are all-MiniLM-L6-v2 or one of BERT-base's shape with random weights (peer_models.py).
Needs numpy, tokenizers, torch, transformers, onnx, onnxruntime, openvino and nncf.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import time

from peer_models import SHAPES, MINILM_SHA256, log, sha256
from peer_runners import PEERS, OverGrpc, Workload, float32_vectors, make_octavo, make_peer

# Mean cosine to float32 once the mean of the float32 vectors is taken from both. With random
# weights the vectors of any two documents have a cosine of 0.99, so a plain cosine would pass
# another text's vector; centred, that one has about 0. Rounding leaves more: least is what 4-bit
# weights that were never trained leave, 0.85 of queries.
LEAST_CENTRED_COSINE = 0.5


def default_cache():
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(root) / "octavo" / "peers"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", required=True, help="build directory of Octavo")
    parser.add_argument("--model", required=True, help="directory of all-MiniLM-L6-v2")
    parser.add_argument("--data", default=os.environ.get("OCTAVO_DATA"),
                        help="evaluation data (default: $OCTAVO_DATA)")
    parser.add_argument("--shape", choices=list(SHAPES), default="minilm",
                        help="minilm is the model itself, bert-base has random weights")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache())
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int,
                        help="default: " + ", ".join(f"{s.documents} for {s.name}"
                                                     for s in SHAPES.values()))
    parser.add_argument("--peers", default=",".join(PEERS),
                        help="comma-separated: " + " ".join(PEERS))
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")],
                        default=[1, 2, 4, 8, 16],
                        help="documents in a peer's batch: each gets its fastest of these")
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
    if sha256(os.path.join(arguments.model, "model.safetensors")) != MINILM_SHA256:
        parser.error(f"{arguments.model} does not hold all-MiniLM-L6-v2 (model.safetensors)")
    if arguments.documents is None:
        arguments.documents = SHAPES[arguments.shape].documents
    if arguments.documents < 2:
        parser.error("--documents: at least 2, to be told from each other")
    return arguments


def centred_cosines(vectors, expected):
    centre = expected.mean(0)
    vectors, expected = vectors - centre, expected - centre
    lengths = ((vectors ** 2).sum(1) * (expected ** 2).sum(1)) ** 0.5
    return (vectors * expected).sum(1) / lengths


def validate(runner, reference):
    """Cosines to float32, mean and least, of documents and queries; and what is wrong, if so."""
    result, wrong = {}, None
    for what, expected in reference.items():
        vectors = runner.vectors(what)
        if vectors.shape != expected.shape:
            return result, f"{what}: {vectors.shape} in place of {expected.shape}"
        cosines = (vectors * expected).sum(1)
        centred = centred_cosines(vectors, expected)
        result[f"{what}_cosine_mean"] = float(cosines.mean())
        result[f"{what}_cosine_min"] = float(cosines.min())
        result[f"{what}_centred_cosine_mean"] = float(centred.mean())
        if not (centred.mean() >= LEAST_CENTRED_COSINE):  # NaN is wrong too
            wrong = wrong or f"{what}: mean centred cosine to float32 {centred.mean():.3f}"
    return result, wrong


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
        line = {"bench": "peers_cpu", "shape": arguments.shape, "runner": runner.name,
                "threads": arguments.threads, "rounds": arguments.rounds}
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


def print_ratios(runners, seconds, latencies, results, arguments, np):
    """Medians of the ratios of each round, in which both ran within seconds of each other."""
    def p50(name):
        return np.array([np.percentile(times, 50) for times in latencies[name]])

    def cell(value, form):
        return "-".rjust(10) if value is None else format(value, form).rjust(10)

    table = ["runner".ljust(18) + "".join(title.rjust(10) for title in (
        "tokens/s", "ours is", "p50 ms", "p99 ms", "ours is", "gRPC is"))]
    for runner in runners:
        name, line = runner.name, {
            "bench": "peers_cpu", "shape": arguments.shape, "ratio_to": runner.name}
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


def make_runners(arguments, model, workload):
    """Ours first; each is loaded when it is asked for."""
    yield make_octavo(arguments, model, workload)
    yield OverGrpc(arguments, model, workload)
    for name in PEERS:
        if name in arguments.peers.split(","):
            yield make_peer(name, arguments, model, workload)


def main():
    arguments = parse_arguments()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import numpy as np
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    model = SHAPES[arguments.shape](arguments.model, arguments.cache)
    workload = Workload(arguments, model, np)
    log(f"{model.name}: {len(workload.documents)} documents, {workload.tokens} tokens; "
        f"{len(workload.queries)} queries; {arguments.threads} threads")
    reference = float32_vectors(model, workload)

    runners, checks = [], {}
    with contextlib.ExitStack() as running:
        for runner in make_runners(arguments, model, workload):
            running.callback(runner.close)
            if runner.vectors:
                checks[runner.name], wrong = validate(runner, reference)  # and warms it up
                log(f"{runner.name}: {checks[runner.name]}")
                if wrong and runner.name == "octavo":
                    sys.exit(f"octavo: {wrong}; nothing was timed")
                if wrong:
                    print(json.dumps({"bench": "peers_cpu", "shape": model.name,
                                      "runner": runner.name, "skipped": wrong}), flush=True)
                    continue
            runners.append(runner)
        seconds, latencies = take_turns(runners, arguments)
    results = summarize(runners, seconds, latencies, checks, arguments, workload, np)
    print_ratios(runners, seconds, latencies, results, arguments, np)


if __name__ == "__main__":
    main()
