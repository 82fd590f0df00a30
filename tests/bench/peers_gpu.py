#!/usr/bin/env python3
"""Octavo's encoders beside PyTorch's in 16 bit on one GPU, taking turns in one run.

  python3 tests/bench/peers_gpu.py --octavo=build/release/tests/bench/octavo-bench \\
      --shape=minilm,bert-base,bert-large --tokens=128,512 --format=f16,a8w8_fp8,a16w4_int4

The peer is an encoder of the same shape out of torch.nn.functional (peer_torch_gpu.py), with the
flash and the cuDNN backend of scaled_dot_product_attention, eager and through torch.compile; the
fastest of the four is what ratios are to. Documents: batches of equal length that follow each
other; Octavo's ids come from the host and its vectors go there, PyTorch's stay. Queries: one sequence of 16 tokens at a time on an idle device,
the peer as a CUDA graph, weights warm in the device's cache and cold. Weights are random unless
--model names a directory (of the first shape): then the vectors of both must agree too.

Prints a JSON line a result and a ratio, medians over the rounds; a table goes to standard error.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time

import torch

import peer_torch_gpu as peer
from peer_runners import BenchProcess

QUERY_TOKENS = 16
ANSWER_SECONDS = 30  # a turn of octavo-bench takes about one at most
LEAST_COSINE = {"f16": 0.9995, "bf16": 0.998}  # of vectors of a trained model to the peer's


def log(*words):
    print(*words, file=sys.stderr, flush=True)


class Octavo(BenchProcess):
    """octavo-bench model --worker (tests/bench/forward_bench.h)."""

    def __init__(self, arguments, source, formats, tokens):
        super().__init__("octavo-bench",
                         [arguments.octavo, "model", "--worker", source,
                          f"--device={arguments.device}", f"--batch={arguments.batch}",
                          f"--tokens={','.join(map(str, tokens))}",
                          f"--format={','.join(formats)}"])
        self.formats = self.description["formats"]
        self.skipped = self.description["skipped"]
        self.wrong = self.description["wrong"]

    def ask(self, *words):
        """A device that stands still ends the run, by name, and not the caller's patience."""
        watchdog = threading.Timer(ANSWER_SECONDS, self.process.kill)
        watchdog.start()
        try:
            return super().ask(" ".join(map(str, words)))
        except RuntimeError as error:
            late = f", {ANSWER_SECONDS} s later" if self.process.poll() == -9 else ""
            raise RuntimeError(f"{error} after \"{' '.join(map(str, words))}\"{late}") from error
        finally:
            watchdog.cancel()

    def vectors(self, name, tokens):
        """Of a format, or the ids for "ids"."""
        command = ["ids"] if name == "ids" else ["vectors", name]
        with tempfile.NamedTemporaryFile() as file:
            size = self.ask(*command, tokens, file.name)
            data = bytearray(open(file.name, "rb").read())
        dtype = torch.int32 if name == "ids" else torch.float32
        return torch.frombuffer(data, dtype=dtype).view(size["rows"], size["columns"])


def make_peers(arguments, shape, weights):
    """Encoders that run, by name; those that don't are named with the reason."""
    encoders = {}
    ids = torch.randint(1000, 30000, (2, 32), device=peer.DEVICE)
    expected = None
    for mode in arguments.modes:
        for backend in peer.BACKENDS:
            encoder = peer.Encoder(shape, weights, backend, mode == "compiled")
            start = time.perf_counter()
            try:
                got = encoder.forward(ids)
                torch.cuda.synchronize()
            except Exception as error:  # noqa: BLE001 - whatever torch raises is the finding
                print(json.dumps({"bench": "peers_gpu", "runner": encoder.name,
                                  "failed": str(error).strip().split("\n")[0][:300]}), flush=True)
                continue
            expected = got if expected is None else expected
            error = float((got - expected).norm() / expected.norm())
            if not error < 2e-2:
                raise RuntimeError(f"{encoder.name} is wrong: relative error {error}")
            log(f"{encoder.name}: ready in {time.perf_counter() - start:.1f} s")
            encoders[encoder.name] = encoder
    return encoders


def check_vectors(octavo, encoder, tokens):
    """With trained weights: least cosine of each format's vectors to the peer's."""
    ids = octavo.vectors("ids", tokens).to(peer.DEVICE).long()
    expected = encoder.forward(ids).cpu()
    result = {}
    for name in octavo.formats:
        vectors = octavo.vectors(name, tokens)
        if vectors.shape != expected.shape:
            raise RuntimeError(f"{name}: {vectors.shape} vectors in place of {expected.shape}")
        cosine = torch.nn.functional.cosine_similarity(vectors, expected).min().item()
        if not cosine >= LEAST_COSINE.get(name, 0.9):
            raise RuntimeError(f"{name}: a vector's cosine to PyTorch's is {cosine}")
        result[name] = cosine
    return result


class Turns:
    """Results by runner, one a round."""

    def __init__(self):
        self.values = {}

    def add(self, name, value):
        self.values.setdefault(name, []).append(value)

    def median(self, name):
        return statistics.median(self.values[name])

    def ratio(self, ours, theirs):
        """Median over the rounds of their time over ours."""
        return statistics.median(t / o for o, t in zip(self.values[ours], self.values[theirs]))


def rotated(items, number):
    items = list(items)
    shift = number % max(1, len(items))
    return items[shift:] + items[:shift]


def time_documents(arguments, octavo, encoders, shape, tokens):
    turns = Turns()
    ids = torch.randint(1000, 30000, (arguments.batch, tokens), device=peer.DEVICE)
    for encoder in encoders.values():
        start = time.perf_counter()
        finite = bool(encoder.forward(ids).isfinite().all())
        if not finite:
            raise RuntimeError(f"{encoder.name}: vectors are not finite")
        log(f"{encoder.name}, {tokens} tokens: ready in {time.perf_counter() - start:.1f} s")
    for number in range(arguments.rounds):
        for name in rotated([*encoders, *octavo.formats], number):
            if name in encoders:
                turns.add(name, peer.seconds_of_batches(encoders[name], ids, arguments.seconds))
            else:
                turns.add(name, octavo.ask("documents", name, tokens)["us"] * 1e-6)
    return turns


def time_queries(arguments, octavo, encoders):
    """By cache: wall time of a query; and of the peer's time on the device alone."""
    graphs = {}
    for name, encoder in encoders.items():
        try:
            graphs[name] = peer.GraphedQuery(encoder, QUERY_TOKENS)
        except Exception as error:  # noqa: BLE001
            print(json.dumps({"bench": "peers_gpu", "runner": name + " graph",
                              "failed": str(error).strip().split("\n")[0][:300]}), flush=True)
            torch.cuda.synchronize()
    results = {}
    for cache in ("warm", "cold"):
        wall, device = Turns(), Turns()
        for number in range(arguments.rounds):
            for name in rotated([*graphs, *octavo.formats], number):
                if name in graphs:
                    times = graphs[name].microseconds(cache == "cold", arguments.seconds)
                    wall.add(name, statistics.median(times[0]))
                    device.add(name, statistics.median(times[1]))
                else:
                    answer = octavo.ask("query", name, cache)
                    wall.add(name, answer["p50_us"])
                    if "device_us" in answer:
                        device.add(name, answer["device_us"])
        results[cache] = (wall, device)
    return results


def report(head, turns, peers, ours, unit):
    """A line a runner and a ratio for each of ours to the fastest peer, which is returned."""
    ran = [name for name in peers if name in turns.values]
    best = min(ran, key=turns.median) if ran else None
    for name in [*ran, *(name for name in ours if name in turns.values)]:
        line = {"bench": "peers_gpu", **head, "runner": name, unit: turns.median(name),
                f"{unit}_rounds": turns.values[name]}
        if "batch" in head:
            line["tokens_per_second"] = head["batch"] * head["tokens"] / turns.median(name)
        if name in ours and best is not None:
            line["peer"] = best
            line["ratio"] = turns.ratio(name, best)
        print(json.dumps(line), flush=True)
    return best


def print_table(title, turns, peers, ours, scale, unit):
    ran = [name for name in peers if name in turns.values]
    best = min(ran, key=turns.median) if ran else None
    log(f"\n{title}")
    for name in [*ran, *(name for name in ours if name in turns.values)]:
        ratio = f"{turns.ratio(name, best):7.2f}x" if best and name in ours else ""
        log(f"  {name:28} {scale(turns.median(name)):10.2f} {unit} {ratio}")


def compare(arguments, name, model):
    torch._dynamo.reset()
    dtype = getattr(torch, arguments.dtype)
    shape, weights = peer.SHAPES[name], None
    if model:
        shape, weights = peer.read_weights(model, dtype)
    else:
        weights = peer.random_weights(shape, dtype)
    source = f"--model={model}" if model else f"--shape={name}"
    octavo = Octavo(arguments, source, arguments.format, arguments.tokens)
    for line in octavo.skipped:
        print(json.dumps(line), flush=True)
        log(f"skipped: {line['format']}: {line['skipped'].splitlines()[0]}")
    if octavo.wrong:
        print(json.dumps({"bench": "peers_gpu", "shape": name, "wrong": octavo.wrong}), flush=True)
        log(f"WRONG, not timed: {octavo.wrong}")
    encoders = make_peers(arguments, shape, weights)
    if not encoders:
        raise RuntimeError("no encoder of PyTorch runs here")
    head = {"shape": name, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
            "dtype": arguments.dtype, "rounds": arguments.rounds}
    for tokens in arguments.tokens:
        if model:
            cosines = check_vectors(octavo, next(iter(encoders.values())), tokens)
            print(json.dumps({"bench": "peers_gpu", **head, "tokens": tokens,
                              "least_cosine_to_torch": cosines}), flush=True)
            log("least cosine to PyTorch's vectors:", cosines)
        turns = time_documents(arguments, octavo, encoders, shape, tokens)
        batch = {**head, "what": "documents", "tokens": tokens, "batch": arguments.batch}
        report(batch, turns, encoders, octavo.formats, "seconds")
        print_table(f"{name}, {arguments.batch} sequences of {tokens} tokens", turns, encoders,
                    octavo.formats, lambda s, n=arguments.batch * tokens: n / s / 1e6,
                    "M tokens/s")
    for cache, (wall, device) in time_queries(arguments, octavo, encoders).items():
        query = {**head, "what": "query", "tokens": QUERY_TOKENS, "cache": cache}
        report({**query, "clock": "host"}, wall, encoders, octavo.formats, "us")
        report({**query, "clock": "device"}, device, encoders, octavo.formats, "us")
        for clock, turns in (("host", wall), ("device", device)):
            print_table(f"{name}, a query of {QUERY_TOKENS} tokens, {cache}, {clock} clock",
                        turns, encoders, octavo.formats, lambda us: us, "us")
    octavo.close()
    return octavo.wrong


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--octavo", required=True, help="path of octavo-bench")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", default="minilm,bert-base,bert-large",
                        type=lambda text: text.split(","))
    parser.add_argument("--model", help="directory whose weights the first shape has")
    parser.add_argument("--tokens", default="128,512",
                        type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--format", default="f16,bf16,a8w8_fp8,a8w8_int8,a16w4_int4",
                        type=lambda text: text.split(","))
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16",
                        help="of the peer")
    parser.add_argument("--modes", default="eager,compiled", help="of the peer",
                        type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a turn")
    arguments = parser.parse_args()
    unknown = set(arguments.shape) - set(peer.SHAPES)
    if unknown:
        parser.error("unknown shapes: " + ", ".join(sorted(unknown)))
    return arguments


def main():
    arguments = parse_arguments()
    peer.allow_recompiling()
    wrong = [compare(arguments, name, arguments.model if number == 0 else None)
             for number, name in enumerate(arguments.shape)]
    sys.exit(1 if any(wrong) else 0)


if __name__ == "__main__":
    main()
