"""What the device tests share: the kernels, results by name, timing in turns."""

import ctypes
import os
import sys
import traceback

import torch

DEVICE = "cuda"
ELEMENTS = {  # octavo::Element
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.int8: 3,
    torch.float8_e4m3fn: 5,
}
GUARD = 0xA5  # what a byte is that no kernel may write

_KINDS = {"i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float, "p": ctypes.c_void_p}
_SIGNATURES = {  # of kernels_c.cc
    "octavo_attention": "ipppllpliipiiiifiiplp",
    "octavo_norm": "llppfpppipiplpp",
    "octavo_encode": "llpipiplpp",
    "octavo_mean_pool": "pipllpp",
    "octavo_pack_a8w8": "piip",
    "octavo_linear_a8w8": "ilpiiplplpppiiplpliip",
    "octavo_pack_int4": "iiipppp",
    "octavo_linear_a16w4_int4": "piiiiplipplipiiplp",
}


class Library:
    """The functions of kernels_c.cc. Tensors are passed by address, None as null, and the current
    stream as the last argument of whatever launches."""

    def __init__(self, path):
        library = ctypes.CDLL(os.path.abspath(path))
        for name, signature in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [_KINDS[kind] for kind in signature]
            function.restype = ctypes.c_int64 if name == "octavo_pack_int4" else ctypes.c_int
            setattr(self, "_" + name, function)

    @staticmethod
    def _plain(arguments):
        return [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]

    def launch(self, name, *arguments):
        stream = torch.cuda.current_stream().cuda_stream
        error = getattr(self, "_octavo_" + name)(*self._plain(arguments), stream)
        if error != 0:
            raise RuntimeError(f"{name}: CUDA error {error}")

    def host(self, name, *arguments):
        return getattr(self, "_octavo_" + name)(*self._plain(arguments))


class Results:
    """Prints what fails, and writes a line for each named check to the file that run.sh reads."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def add(self, outcome, name, detail=""):
        self.file.write(f"{outcome}\t{name}\t{detail}\n")
        self.file.flush()

    def check(self, name, failures):
        """`failures` yields what is wrong; an exception is wrong as well."""
        found = []
        try:
            for failure in failures:
                if len(found) < 3:
                    print(f"{name}: {failure}", flush=True)
                found.append(failure)
        except Exception as error:  # pylint: disable=broad-except
            traceback.print_exc()
            found.append(repr(error))
        self.add("failed" if found else "passed", name, f"{len(found)} wrong" if found else "")


class Worst:
    """The largest error seen, in units of its bound."""

    def __init__(self):
        self.ratio = 0.0

    def compare(self, got, want, bound):
        """None, or what is wrong. A NaN is wrong."""
        ratio = ((got - want).abs() / bound).nan_to_num(1e9)
        if ratio.numel() == 0:
            return None
        at = int(ratio.argmax())
        largest = float(ratio.reshape(-1)[at])
        self.ratio = max(self.ratio, largest)
        if largest <= 1:
            return None
        row, column = divmod(at, ratio.shape[-1])
        values = f"{float(got[row, column])}, expected {float(want[row, column])}"
        return (
            f"{int((ratio > 1).sum())} of {ratio.numel()} beyond the bound, the worst "
            f"{largest:.3g} times it at [{row}, {column}]: {values}"
        )


def guarded(rows, columns, dtype):
    """A matrix of guard bytes."""
    size = torch.empty((), dtype=dtype).element_size()
    return torch.full((rows, columns * size), GUARD, dtype=torch.uint8, device=DEVICE).view(dtype)


def untouched(matrix):
    return bool((matrix.contiguous().view(torch.uint8) == GUARD).all())


def same_bits(a, b):
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def time_in_turns(runs, repetitions, rounds=7, before=lambda: None):
    """Median microseconds of each of `runs`, {name: function of the repetition}: every one captured
    in a graph of `repetitions` calls, the graphs launched in turns, each after `before`, which
    is not timed. The first round warms up."""
    graphs = {}
    for name, run in runs.items():
        stream = torch.cuda.Stream()
        try:
            with torch.cuda.stream(stream):
                run(0)
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    for i in range(repetitions):
                        run(i)
            graphs[name] = graph
        except RuntimeError as error:
            print(f"{name} does not run here: {str(error).splitlines()[0][:100]}", flush=True)
        torch.cuda.synchronize()
    times = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
            before()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) * 1e3 / repetitions)
    return {name: sorted(t[1:])[len(t) // 2] for name, t in times.items()}


def main(family, check, bench):
    """FILE.py check|bench LIBRARY RESULTS"""
    what, path, results_path = sys.argv[1:4]
    results = Results(results_path)
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        results.add("skipped", f"{family}: {what}", "needs a GPU of compute capability 9.0")
        return
    library = Library(path)
    if what == "check":
        check(library, results)
    else:
        print(f"{family}, {torch.cuda.get_device_name(0)}, PyTorch {torch.__version__}")
        bench(library)
