"""The 8-bit products against float64, and beside cuBLASLt's through PyTorch."""

import torch

from device_test import DEVICE, Worst, guarded, main, same_bits, time_in_turns, untouched

KINDS = {
    "f32": (0, torch.float32),
    "f16": (1, torch.float16),
    "bf16": (2, torch.bfloat16),
    "e4m3": (3, torch.uint8),
}  # A8W8Output
TILES = (128, 192, 256, -128, -192)  # negative: the channels stay in shared memory
MOST_K_STAYING = {-128: 1152, -192: 768}
SCALE_COLUMNS = 128  # of e4m3 that share a scale
NAN = float("nan")
E4M3_NAN, E4M3_LARGEST = 0x7F, 0x7E


def round_up(value, step):
    return (value + step - 1) // step * step


class Problem:
    """Codes, and scales 2^(2 octaves) apart; what lies between rows is NaN, in int8 127."""

    def __init__(self, library, m, n, k, fp8, seed, positive=False, octaves=4.0, padding=16):
        self.library, self.m, self.n, self.k, self.fp8 = library, m, n, k, fp8
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
        generator = torch.Generator(device=DEVICE)
        generator.manual_seed(seed)

        def uniform(*shape):
            return torch.rand(*shape, device=DEVICE, generator=generator)

        def codes(rows, columns):
            if fp8:  # about normal
                x = (sum(uniform(rows, columns) for _ in range(4)) - 2) * 120
                x = x.abs() + 1 if positive else x
                return x.to(torch.float8_e4m3fn).view(torch.uint8)
            x = torch.randint(-127, 128, (rows, columns), device=DEVICE, generator=generator)
            return x.to(torch.int8).view(torch.uint8)

        def scales(base, *shape):
            return base * torch.exp2((2 * uniform(*shape) - 1) * octaves)

        self.weight = codes(n, k)
        host = self.weight.cpu()
        packed = torch.full((round_up(n, 32), k), E4M3_NAN, dtype=torch.uint8)
        library.host("pack_a8w8", host, n, k, packed)
        self.packed = packed.to(DEVICE)
        self.weight_scales = torch.full((round_up(n, 32),), NAN, device=DEVICE)
        self.weight_scales[:n] = scales(1 / (64 * k**0.5), n)
        self.bias = (uniform(n) - 0.5) * 4
        self.input = torch.full((m, k + padding), E4M3_NAN, dtype=torch.uint8, device=DEVICE)
        self.input[:, :k] = codes(m, k)
        self.scale_stride = round_up(m, 32)
        groups = (k + SCALE_COLUMNS - 1) // SCALE_COLUMNS if fp8 else 1
        self.input_scales = torch.full((groups, self.scale_stride), NAN, device=DEVICE)
        self.input_scales[:, :m] = scales(1 / 64, groups, m)
        self.count = torch.zeros(1, dtype=torch.int32, device=DEVICE)

    def run(self, kind, gelu, tile, output, output_scales=None, first=0, rows=None, count=None):
        """Into output [rows, stride]. `count` rows exist, as a number in device memory."""
        if count is not None:
            self.count.fill_(count)
        self.library.launch(
            "linear_a8w8",
            self.fp8,
            self.m - first if rows is None else rows,
            None if count is None else self.count,
            self.n,
            self.k,
            self.input[first:],
            self.input.stride(0),
            self.input_scales[:, first:],
            self.scale_stride,
            self.packed,
            self.weight_scales,
            self.bias,
            gelu,
            KINDS[kind][0],
            output,
            output.stride(0),
            output_scales,
            self.scale_stride,
            tile,
            self.multiprocessors,
        )

    def decode(self, codes):
        return codes.view(torch.float8_e4m3fn if self.fp8 else torch.int8).double()

    def reference(self):
        """x W^T with scales and bias in float64, and the sum of its terms' magnitudes."""
        scales = self.input_scales[:, : self.m].double()
        scales = scales.repeat_interleave(SCALE_COLUMNS, 0)[: self.k] if self.fp8 else scales
        x = self.decode(self.input[:, : self.k].contiguous()) * scales.T
        w = self.decode(self.weight) * self.weight_scales[: self.n, None].double()
        return x @ w.T + self.bias.double(), x.abs() @ w.abs().T


def bound(want, magnitude, relative, kind, gelu, scales):
    allowed = relative * magnitude + 1e-6 * want.abs()
    if gelu:
        want = want * 0.5 * torch.erfc(-want / 2**0.5)
        allowed = allowed * 1.13 + (1e-3 if kind == "e4m3" else 1e-4)
        if kind == "e4m3":  # kept in f16, rounded three times
            allowed = allowed + want.abs() * 1.5 / 1024
    if kind == "f16":
        allowed = allowed + want.abs() / 2048 + 1e-7
    elif kind == "bf16":
        allowed = allowed + want.abs() / 256
    elif kind == "e4m3":
        allowed = allowed + want.abs() / 16 * 1.001 + scales / 1024
    return want, allowed


def errors(problem, worst, kind, gelu, tile, relative, exact, count=None):
    """One product over guard bytes, `count` of the problem's rows if not None."""
    p, dtype = problem, KINDS[kind][1]
    rows = p.m if count is None else count
    what = f"m {p.m}, n {p.n}, k {p.k}, {kind}, gelu {gelu}, tile {tile}, rows {rows}"

    def run(**options):
        output = guarded(p.m + 8, p.n + 16, dtype)
        blocks = (p.n + SCALE_COLUMNS - 1) // SCALE_COLUMNS
        scales = torch.full((blocks, p.scale_stride), NAN, device=DEVICE)
        p.run(kind, gelu, tile, output, scales, **options)
        return output, scales

    output, scales = run(count=count)
    if not (untouched(output[rows:]) and untouched(output[:, p.n :])):
        yield f"{what}: wrote outside"
    written = output[:rows, : p.n]
    of_column = None
    if kind == "e4m3":
        if not bool(scales[:, rows:].isnan().all()):
            yield f"{what}: wrote scales outside"
        of_column = scales[:, :rows].T.double().repeat_interleave(SCALE_COLUMNS, 1)[:, : p.n]
        got = p.decode(written.contiguous()) * of_column
        magnitudes = written.int() & 0x7F
        for begin in range(0, p.n, SCALE_COLUMNS):
            if bool((magnitudes[:, begin : begin + SCALE_COLUMNS].amax(1) != E4M3_LARGEST).any()):
                yield f"{what}: columns from {begin} do not reach the largest code"
                break
    else:
        got = written.double()
    want, allowed = bound(exact[0][:rows], exact[1][:rows], relative, kind, gelu, of_column)
    if kind == "f16":  # beyond f16
        got = torch.where(want.abs() > 60000, want, got)
    wrong = worst.compare(got, want, allowed)
    if wrong:
        yield f"{what}: {wrong}"
    again, again_scales = run(count=count)
    if not (same_bits(output, again) and same_bits(scales, again_scales)):
        yield f"{what}: other bits in a second run"
    first = p.m // 8 * 4
    alone, alone_scales = run(first=first, rows=min(3, p.m - first))
    some = slice(first, min(first + 3, rows))
    length = max(0, some.stop - some.start)
    if not (
        same_bits(alone[:length, : p.n], output[some, : p.n])
        and (kind != "e4m3" or same_bits(alone_scales[:, :length], scales[:, some]))
    ):
        yield f"{what}: other bits of rows from {first} alone"


def products(library, worst, fp8, kind, shapes):
    # Of the sum of the terms' magnitudes. The tensor cores drop what lies 13 bits below the largest
    # addend, in each of the four instructions of 128 columns.
    relative = 4 * 2.0**-13 if fp8 else 1e-6
    for seed, (m, n, k) in enumerate(shapes):
        problem = Problem(library, m, n, k, fp8, seed, padding=16 * (seed % 2))
        exact = problem.reference()
        for tile in TILES:
            if kind == "e4m3" and abs(tile) == 192:
                continue  # has no whole blocks of 128 columns to encode
            if k > MOST_K_STAYING.get(tile, k):
                continue
            for gelu in (False, True):
                yield from errors(problem, worst, kind, gelu, tile, relative, exact)
            yield from errors(problem, worst, kind, False, tile, relative, exact, count=m * 2 // 3)
        yield from errors(problem, worst, kind, False, 0, relative, exact, count=0)


SHAPES = (
    (1, 16, 128),
    (128, 128, 128),
    (64, 384, 384),
    (257, 1008, 416),
    (1000, 2304, 768),
    (129, 1536, 384),
    (777, 400, 2624),
    (300, 768, 3072),
    (131, 144, 16),
    (5000, 1152, 384),
    (33, 3072, 1024),
)


def one_sign(library, worst):
    """4096 terms of one sign: all that the tensor cores drop adds up."""
    problem = Problem(library, 256, 256, 4096, True, 5, positive=True, octaves=0.5)
    exact = problem.reference()
    for tile in TILES[:3]:
        yield from errors(problem, worst, "f32", False, tile, 2.0**-10, exact)


def check(library, results):
    for fp8 in (True, False):
        worst, name = Worst(), "a8w8_fp8" if fp8 else "a8w8_int8"
        for kind in KINDS:
            if kind == "e4m3" and not fp8:
                continue
            results.check(f"{name} to {kind}", products(library, worst, fp8, kind, SHAPES))
        if fp8:
            results.check(f"{name}: one sign", one_sign(library, worst))
        print(f"{name}: largest error {worst.ratio:.3f} of its bound", flush=True)


def bench(library):
    print(
        "us; the peer is cuBLASLt through PyTorch: e4m3 with a scale a tensor to f16 (without fast"
    )
    print(
        "accumulation), int8 to int32. Ours has scales of row and block, and bias; in brackets the"
    )
    print("ratio of the peer to it.")
    print(
        "     M     N     K | fp8: peer   to f16        gelu, to e4m3 "
        "| int8: peer  to f16        gelu, to f16"
    )
    sizes = ((384, 1536), (768, 3072), (1024, 4096))
    layers = [(n, k) for h, i in sizes for n, k in ((3 * h, h), (h, h), (i, h), (h, i))]
    scale = torch.full((), 1 / 64, device=DEVICE)
    for m in (8192, 32768):
        for n, k in layers:
            sets = 3  # of operands, in turns
            problems = {
                fp8: [
                    Problem(library, m, n, k, fp8, seed, octaves=1.0, padding=0)
                    for seed in range(sets)
                ]
                for fp8 in (True, False)
            }
            half = torch.empty(m, n, dtype=torch.float16, device=DEVICE)
            whole = torch.empty(m, n, dtype=torch.int32, device=DEVICE)
            bytes_ = torch.empty(m, n, dtype=torch.uint8, device=DEVICE)
            blocks = (n + SCALE_COLUMNS - 1) // SCALE_COLUMNS
            scales = torch.empty(blocks, round_up(m, 32), device=DEVICE)

            def peer_fp8(i, p=problems[True]):
                a = p[i % sets].input.view(torch.float8_e4m3fn)
                b = p[i % sets].weight.view(torch.float8_e4m3fn).T
                torch._scaled_mm(
                    a, b, scale, scale, out_dtype=torch.float16, use_fast_accum=False, out=half
                )

            def peer_int8(i, p=problems[False]):
                a = p[i % sets].input.view(torch.int8)
                b = p[i % sets].weight.view(torch.int8).T
                torch._int_mm(a, b, out=whole)

            def ours(fp8, kind, gelu, output):
                return lambda i: problems[fp8][i % sets].run(kind, gelu, 0, output, scales)

            times = time_in_turns(
                {
                    "fp8": peer_fp8,
                    "fp8 f16": ours(True, "f16", False, half),
                    "fp8 gelu": ours(True, "e4m3", True, bytes_),
                    "int8": peer_int8,
                    "int8 f16": ours(False, "f16", False, half),
                    "int8 gelu": ours(False, "f16", True, half),
                },
                max(6, int(5e11 / (2 * m * n * k)) * 3),
            )
            line = f"{m:6} {n:5} {k:5}"
            for peer in ("fp8", "int8"):
                base = times.get(peer, NAN)
                line += f" | {base:10.1f}"
                for own in (f"{peer} f16", f"{peer} gelu"):
                    line += f"  {times[own]:6.1f} ({base / times[own]:.2f})"
            print(line, flush=True)


if __name__ == "__main__":
    main("a8w8", check, bench)
