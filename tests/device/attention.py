"""The attention kernels against float64, and beside PyTorch's flash and cuDNN backends."""

import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from device_test import DEVICE, ELEMENTS, Worst, main, time_in_turns

KERNELS = {"mma": 16, "wgmma": 128}  # queries of a block at most
NAN = float("nan")


class Heads:
    """A batch's shape: sequences of `lengths`, query and key-value heads of `size`."""

    def __init__(self, lengths, heads, key_value_heads, size):
        self.lengths, self.heads, self.size = lengths, heads, size
        self.key_value_heads = key_value_heads
        self.tokens = sum(lengths)
        self.columns = heads * size  # of q and of the output
        self.width = (heads + 2 * key_value_heads) * size  # q, k, v side by side


def attend(library, kernel, qkv, shape, work, output, back=-1, ahead=-1, bias=None, bias_zero=0):
    """bias [heads, distances]: column bias_zero + j - i is for query i and key j."""
    q, bytes_ = qkv.data_ptr(), qkv.element_size()
    k = q + shape.heads * shape.size * bytes_
    v = k + shape.key_value_heads * shape.size * bytes_
    library.launch(
        "attention",
        kernel == "wgmma",
        q,
        k,
        v,
        qkv.stride(0),
        qkv.shape[0],
        output,
        output.stride(0),
        ELEMENTS[qkv.dtype],
        ELEMENTS[output.dtype],
        work,
        work.shape[0],
        shape.heads,
        shape.heads // shape.key_value_heads,
        shape.size,
        1 / math.sqrt(shape.size),
        back,
        ahead,
        None if bias is None else bias.data_ptr() + 4 * bias_zero,
        0 if bias is None else bias.stride(0),
    )


def make_work(lengths, queries, first_queries=0, idle=0, only=None):
    """Blocks of `queries`, longest sequences first, those of one sequence starting with a shorter
    one of `first_queries`; then `idle` blocks without work."""
    rows, first = [], 0
    for i, length in enumerate(lengths):
        if only is None or i == only:
            begin, count = 0, first_queries or queries
            while begin < length:
                rows.append((first, length, begin, min(count, length - begin)))
                begin, count = begin + count, queries
        first += length
    rows.sort(key=lambda row: -row[1])
    rows += [(0, 0, 0, 0)] * idle
    return torch.tensor(rows, dtype=torch.int32, device=DEVICE)


def reference(qkv, shape, back=-1, ahead=-1, bias=None, bias_zero=0):
    """The output in float64, and the bound on an f32 output's error: of scores rounded once a step
    of their sums, and of weights rounded to 16 bits."""
    epsilon = 2.0**-24
    half = 2.0**-11 if qkv.dtype == torch.float16 else 2.0**-8
    outputs, bounds, first = [], [], 0
    share = shape.heads // shape.key_value_heads
    for n in shape.lengths:
        rows = qkv[first : first + n, : shape.width].double()
        first += n
        q, k, v = rows.split([shape.columns] + 2 * [shape.key_value_heads * shape.size], dim=1)
        q = q.reshape(n, shape.heads, shape.size).transpose(0, 1)
        k, v = (
            x.reshape(n, -1, shape.size).transpose(0, 1).repeat_interleave(share, 0) for x in (k, v)
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(shape.size)
        magnitude = (q.abs() @ k.abs().transpose(1, 2) / math.sqrt(shape.size)).amax(-1)
        at = torch.arange(n, device=DEVICE)
        distance = at[None, :] - at[:, None]
        visible = torch.ones_like(distance, dtype=torch.bool)
        if back >= 0:
            visible &= distance >= -back
        if ahead >= 0:
            visible &= distance <= ahead
        if bias is not None:
            scores = scores + bias[:, (distance + bias_zero).reshape(-1)].reshape(-1, n, n).double()
            magnitude = magnitude + 10
        weights = torch.where(visible, scores, -math.inf).softmax(-1)
        relative = 2 * (shape.size + 8) * epsilon * magnitude + 64 * epsilon + 4e-7 + half
        bound = (weights @ v.abs()) * relative[..., None]
        bound = bound + n * 2.0**-30 * v.abs().amax(1, keepdim=True)
        outputs.append((weights @ v).transpose(0, 1).reshape(n, -1))
        bounds.append(bound.transpose(0, 1).reshape(n, -1))
    return torch.cat(outputs), torch.cat(bounds)


def batch(shape, dtype, seed, query_scale=1.0):
    """Values a power of two apart from head to head; what lies beside the rows is NaN."""
    generator = torch.Generator(device=DEVICE)
    generator.manual_seed(seed)
    x = torch.randn(shape.tokens, shape.width + 8, device=DEVICE, generator=generator)
    x[:, : shape.columns] *= query_scale
    for head in range(shape.key_value_heads):
        begin = (shape.heads + shape.key_value_heads + head) * shape.size
        x[:, begin : begin + shape.size] *= 2.0 ** (3 * (head % 4) - 4)
    x[:, shape.width :] = NAN
    return x.to(dtype)


def errors(library, kernel, worst, x, shape, first_queries=0, **masks):
    """Into f32 and into the input's type, over NaN that must stay beside the rows."""
    want, bound = reference(x, shape, **masks)
    work = make_work(shape.lengths, KERNELS[kernel], first_queries, idle=3)
    for dtype in (torch.float32, x.dtype):
        output = torch.full((shape.tokens, shape.columns + 8), NAN, device=DEVICE, dtype=dtype)
        attend(library, kernel, x, shape, work, output, **masks)
        rounding = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
        allowed = bound + want.abs() * rounding + (0 if dtype == torch.float32 else 6e-8)
        wrong = worst.compare(output[:, : shape.columns].double(), want, allowed)
        if wrong:
            yield f"{dtype} output of {shape.lengths} {masks}: {wrong}"
        if not bool(output[:, shape.columns :].isnan().all()):
            yield f"{dtype} output of {shape.lengths}: wrote beside the rows"


def shapes(library, kernel, worst, size, dtype):
    def run(lengths, heads, key_value_heads, seed, query_scale=1.0, **options):
        shape = Heads(lengths, heads, key_value_heads, size)
        return errors(
            library, kernel, worst, batch(shape, dtype, seed, query_scale), shape, **options
        )

    mixed = [1, 63, 513, 64, 2, 65, 1, 128, 129, 1100]
    yield from run(mixed, 2, 2, 1)
    yield from run(mixed, 2, 2, 1, first_queries=5)
    yield from run(list(range(1, 41)), 2, 1, 3)
    yield from run([30, 170], 6, 2, 7)
    yield from run([150, 700], 1, 1, 10, query_scale=60.0)
    if dtype == torch.float16:
        yield from run([8192, 3], 2, 2, 4)


def extremes(library, kernel, worst, size, dtype):
    """Scores of 200, the largest weight last, a NaN that must be seen."""
    shape = Heads([64, 200, 1], 2, 2, size)
    x = batch(shape, dtype, 9)
    token = torch.arange(shape.tokens, device=DEVICE)
    x[:, : 4 * size] = 0
    for head in (0, 1):
        x[:, head * size] = 200 * math.sqrt(size) * 0.999
        x[:, (2 + head) * size] = torch.where(token % 3 == 0, 1.0, -1.0).to(dtype)
    yield from errors(library, kernel, worst, x, shape)
    for length in (129, 200, 257, 513):
        shape = Heads([length], 1, 1, size)
        x = batch(shape, dtype, 11)
        x[:, :size] = 1.0 + 0.25 * (torch.arange(size, device=DEVICE) % 4)
        x[:, size : 2 * size] = (5.0 * torch.arange(length, device=DEVICE) / length)[:, None]
        yield from errors(library, kernel, worst, x, shape)
    for part in range(3):
        shape = Heads([150], 1, 1, size)
        x = batch(shape, dtype, 20)
        x[70, part * size + 5] = NAN
        output = torch.zeros(150, size, device=DEVICE)
        attend(library, kernel, x, shape, make_work([150], KERNELS[kernel]), output)
        if not bool(output[70, 5].isnan()):
            yield f"a NaN in {'qkv'[part]} is hidden"


def masks_and_bias(library, kernel, worst, size, dtype):
    shape = Heads([1, 2, 63, 128, 400], 2, 2, size)
    yield from errors(library, kernel, worst, batch(shape, dtype, 14), shape, ahead=0)
    for window in (0, 1, 5, 64, 127, 200, 1000):
        shape = Heads([1, 7, 129, 500], 2, 1, size)
        yield from errors(
            library, kernel, worst, batch(shape, dtype, 16), shape, back=window, ahead=window
        )
    # Bias beyond the distances that some query sees is NaN.
    for options, least, most in (
        ({}, -599, 599),
        ({"ahead": 0}, -599, 0),
        ({"back": 40, "ahead": 40}, -40, 40),
    ):
        shape = Heads([1, 40, 600], 3, 3, size)
        bias, zero = torch.full((3, 1300), NAN, device=DEVICE), 650
        generator = torch.Generator(device=DEVICE)
        generator.manual_seed(5)
        count = most - least + 1
        bias[:, zero + least : zero + most + 1] = 2 * torch.randn(
            3, count, device=DEVICE, generator=generator
        )
        bias[:, zero + 1 :] += 1
        yield from errors(
            library,
            kernel,
            worst,
            batch(shape, dtype, 12),
            shape,
            bias=bias,
            bias_zero=zero,
            **options,
        )


def same_bits(library, kernel, size, dtype):
    """A sequence's output is the same in other blocks, among NaN and alone."""
    shape = Heads([5, 300, 1, 64, 129, 10], 2, 2, size)
    x = batch(shape, dtype, 18)
    queries = KERNELS[kernel]
    for masks in ({}, {"ahead": 0}, {"back": 20, "ahead": 20}):

        def run(qkv, work, shape=shape, masks=masks):
            output = torch.full((qkv.shape[0], shape.columns), NAN, device=DEVICE)
            attend(library, kernel, qkv, shape, work, output, **masks)
            return output

        whole = run(x, make_work(shape.lengths, queries))
        for first_queries in (queries, 1, 7):
            if not torch.equal(whole, run(x, make_work(shape.lengths, queries, first_queries))):
                yield f"{masks}: other bits with blocks from {first_queries}"
        first = 0
        for i, length in enumerate(shape.lengths):
            rows = slice(first, first + length)
            first += length
            among = torch.full_like(x, NAN)
            among[rows] = x[rows]
            got = run(among, make_work(shape.lengths, queries, only=i))
            if not torch.equal(got[rows], whole[rows]):
                yield f"{masks}: other bits of sequence {i} among NaN"
            if not bool(got[: rows.start].isnan().all() and got[rows.stop :].isnan().all()):
                yield f"{masks}: sequence {i} wrote into another"
            if not torch.equal(run(x[rows].clone(), make_work([length], queries)), whole[rows]):
                yield f"{masks}: other bits of sequence {i} alone"


def check(library, results):
    for kernel in KERNELS:
        worst = Worst()
        for size in (32, 64, 128):
            for dtype in (torch.float16, torch.bfloat16):
                name = f"attention {kernel}, head size {size}, {str(dtype)[6:]}"
                for what in (shapes, extremes, masks_and_bias):
                    results.check(
                        f"{name}: {what.__name__.replace('_', ' ')}",
                        what(library, kernel, worst, size, dtype),
                    )
                results.check(f"{name}: same bits", same_bits(library, kernel, size, dtype))
        print(f"attention {kernel}: largest error {worst.ratio:.3f} of its bound", flush=True)


def bench(library):
    print("f16, 32768 tokens (65536 at length 8192), 12 heads (8 of size 128); times in us")
    print("size length |   flash   cudnn |     mma   wgmma TFLOP/s | our better to their better")
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    cases = [
        (size, length)
        for size in (32, 64, 128)
        for length in (16, 64, 128, 256, 512, 2048, 8192)
        if size < 128 or length in (512, 8192)
    ]
    for size, length in cases:
        tokens = 32768 if length < 8192 else 65536
        heads = 12 if size < 128 else 8
        shape = Heads([length] * (tokens // length), heads, heads, size)
        qkv = torch.randn(tokens, shape.width, device=DEVICE, dtype=torch.float16)
        parts = qkv.view(-1, length, 3, shape.heads, size).permute(2, 0, 3, 1, 4).contiguous()
        work = {kernel: make_work(shape.lengths, queries) for kernel, queries in KERNELS.items()}
        output = torch.full((tokens, shape.columns), NAN, device=DEVICE, dtype=torch.float16)

        def peer(backend, parts=parts):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*parts)

        expected = peer(SDPBackend.FLASH_ATTENTION).transpose(1, 2).reshape(tokens, -1).float()
        runs = {name: lambda _, b=backend: peer(b) for name, backend in backends.items()}
        for kernel in KERNELS:
            if kernel == "mma" and length > 512:
                continue

            def run(_, kernel=kernel, qkv=qkv, shape=shape, work=work, output=output):
                attend(library, kernel, qkv, shape, work[kernel], output)

            run(0)
            error = float((output.float() - expected).norm() / expected.norm())
            if not error < 2e-3:
                print(f"{kernel} {size} {length} is wrong: relative error {error}")
                continue
            runs[kernel] = run
        flops = 4.0 * length * size * shape.heads * tokens
        times = time_in_turns(runs, max(1, min(20, int(2e12 / flops))))
        ours = min(times[kernel] for kernel in KERNELS if kernel in times)
        theirs = min(times[name] for name in backends if name in times)
        us = {}
        for name in (*backends, *KERNELS):
            us[name] = f"{times[name]:7.1f}" if name in times else "      -"
        print(
            f"{size:4} {length:6} | {us['flash']} {us['cudnn']} | {us['mma']} {us['wgmma']} "
            f"{flops / ours / 1e6:7.0f} | {theirs / ours:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main("attention", check, bench)
