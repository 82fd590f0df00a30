#!/usr/bin/env python3
"""What a million document tokens cost on a GPU, in joules, and the clocks it holds meanwhile.

  python3 tests/bench/energy_gpu.py --octavo=build/release/tests/bench/octavo-bench \\
      --shape=bert-base --tokens=128 --format=f16,a8w8_fp8,a8w8_int8,a16w4_int4

Each format of Octavo, and PyTorch's encoder in 16 bit (peer_torch_gpu.py, the faster of its two
attention backends), computes batches for --seconds without a pause. Energy is the board's
own counter (NVML), read at both ends; clocks, power and temperature are sampled every 50 ms, of
which the median is printed, and the least clock after the first second. A JSON line a runner; a
table goes to standard error. Needs nvidia-ml-py.
"""

import argparse
import json
import statistics
import sys
import threading
import time

import pynvml
import torch

import peer_torch_gpu as peer
from peers_gpu import Octavo, log, make_peers

SAMPLE_SECONDS = 0.05
SETTLED_SECONDS = 1.0


class Meter:
    """Energy and clocks while its `with` block runs."""

    def __init__(self, index):
        pynvml.nvmlInit()
        self.device = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.samples = []
        self.done = threading.Event()

    def joules(self):
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self.device) * 1e-3

    def sample(self):
        begin = time.perf_counter()
        while not self.done.wait(SAMPLE_SECONDS):
            self.samples.append((
                time.perf_counter() - begin,
                pynvml.nvmlDeviceGetClockInfo(self.device, pynvml.NVML_CLOCK_SM),
                pynvml.nvmlDeviceGetPowerUsage(self.device) * 1e-3,
                pynvml.nvmlDeviceGetTemperature(self.device, pynvml.NVML_TEMPERATURE_GPU)))

    def __enter__(self):
        self.samples.clear()
        self.done.clear()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        self.begin = self.joules(), time.perf_counter()
        return self

    def __exit__(self, *error):
        self.energy = self.joules() - self.begin[0]
        self.seconds = time.perf_counter() - self.begin[1]
        self.done.set()
        self.thread.join()

    def report(self):
        settled = [s for s in self.samples if s[0] > SETTLED_SECONDS] or self.samples
        clocks = [sample[1] for sample in settled]
        return {"joules": self.energy, "watts": self.energy / self.seconds,
                "metered_seconds": self.seconds, "sm_mhz": statistics.median(clocks),
                "least_sm_mhz": min(clocks),
                "sampled_watts": statistics.median(s[2] for s in settled),
                "celsius": max(s[3] for s in settled)}


def measure_peer(arguments, meter):
    dtype = getattr(torch, arguments.dtype)
    shape = peer.SHAPES[arguments.shape]
    encoders = make_peers(arguments, shape, peer.random_weights(shape, dtype))
    ids = torch.randint(1000, 30000, (arguments.batch, arguments.tokens), device=peer.DEVICE)
    fastest = min(encoders.values(), key=lambda e: peer.seconds_of_batches(e, ids, 0.2))
    with meter:
        seconds = peer.seconds_of_batches(fastest, ids, arguments.seconds)
    return fastest.name, seconds


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--octavo", required=True, help="path of octavo-bench")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", default="bert-base", choices=list(peer.SHAPES))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--format", default="f16,bf16,a8w8_fp8,a8w8_int8,a16w4_int4",
                        type=lambda text: text.split(","))
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16",
                        help="of the peer")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--modes", default="compiled", help="of the peer: eager, compiled",
                        type=lambda text: text.split(","))
    parser.add_argument("--no-peer", action="store_true", help="leave PyTorch out")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    peer.allow_recompiling()
    meter = Meter(int(arguments.device.partition(":")[2] or 0))
    tokens = arguments.batch * arguments.tokens
    results = []

    def add(runner, seconds):
        line = {"bench": "energy_gpu", "gpu": torch.cuda.get_device_name(), "runner": runner,
                "shape": arguments.shape, "batch": arguments.batch, "tokens": arguments.tokens,
                "tokens_per_second": tokens / seconds, **meter.report()}
        line["joules_per_million_tokens"] = line["watts"] * seconds / tokens * 1e6
        print(json.dumps(line), flush=True)
        results.append(line)

    source = f"--shape={arguments.shape}"
    octavo = Octavo(arguments, source, arguments.format, tokens=[arguments.tokens])
    for line in octavo.skipped:
        print(json.dumps(line), flush=True)
    for name in octavo.formats:
        with meter:
            answer = octavo.ask("documents", name, arguments.tokens, arguments.seconds)
        add(name, answer["us"] * 1e-6)
    octavo.close()
    if not arguments.no_peer:
        add(*measure_peer(arguments, meter))

    log(f"{arguments.shape}, {arguments.batch} sequences of {arguments.tokens} tokens")
    log(f"{'':28}{'J/M tokens':>11}{'M tokens/s':>12}{'W':>7}{'SM MHz':>8}{'least':>7}{'C':>5}")
    for line in results:
        log(f"{line['runner']:28}{line['joules_per_million_tokens']:11.1f}"
            f"{line['tokens_per_second'] / 1e6:12.2f}{line['watts']:7.0f}{line['sm_mhz']:8.0f}"
            f"{line['least_sm_mhz']:7.0f}{line['celsius']:5.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
