"""The product of 4-bit weights for few tokens against float64, and beside PyTorch's f16 product."""

import random

import torch
import torch.nn.functional as F

from device_test import DEVICE, ELEMENTS, Worst, guarded, main, same_bits, time_in_turns, untouched

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "silu")  # octavo::Activation
NAN = float("nan")


def activate(name, x):
    if name == "gelu":
        return F.gelu(x)
    if name == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    return F.silu(x) if name == "silu" else x


class Weight:
    """Codes in groups along K, scales 2^16 apart unless `integer`: then all values are integers."""

    def __init__(self, library, n, k, group, zero_points, seed, integer=False):
        generator = torch.Generator().manual_seed(seed)
        self.n, self.k, self.group, self.zero_points = n, k, group, zero_points
        groups = (k + group - 1) // group
        codes = torch.randint(0, 16, (n, k), generator=generator)
        spread = torch.rand(n, groups, generator=generator) * 16 - 8
        scales = (torch.ones(n, groups) if integer else 0.02 * torch.exp2(spread)).half()
        zeros = torch.full((n, groups), 8.0).half()
        if zero_points:
            zeros = (
                torch.randint(0, 16, (n, groups), generator=generator).half()
                if integer
                else (torch.rand(n, groups, generator=generator) * 16 - 0.5).half()
            )
        wide = (x.double().repeat_interleave(group, 1)[:, :k] for x in (zeros, scales))
        self.values = ((codes - next(wide)) * next(wide)).to(DEVICE)
        even = F.pad(codes, (0, k % 2)).to(torch.uint8)
        nibbles = (even[:, 0::2] | even[:, 1::2] << 4).contiguous()
        arguments = (n, k, group, nibbles, scales, zeros if zero_points else None)
        packed = torch.empty(library.host("pack_int4", *arguments, None), dtype=torch.uint8)
        library.host("pack_int4", *arguments, packed)
        self.packed = packed.to(DEVICE)


def multiply(
    library,
    weight,
    x,
    rows,
    output,
    bias=None,
    activation="none",
    gated=False,
    residual=None,
    count=None,
):
    library.launch(
        "linear_a16w4_int4",
        weight.packed,
        weight.n,
        weight.k,
        weight.group,
        weight.zero_points,
        x,
        x.stride(0),
        rows,
        count,
        output,
        output.stride(0),
        ELEMENTS[output.dtype],
        bias,
        ACTIVATIONS.index(activation),
        gated,
        residual,
        0 if residual is None else residual.stride(0),
    )


class Case:
    """A product with everything that an epilogue may hold, chosen by `choose`."""

    def __init__(self, library, choose, k, group, zero_points, integer):
        self.library, self.integer = library, integer
        n = choose.choice((8, 24, 34, 384, 1000))
        self.m = choose.choice((1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 63, 64, 65, 130))
        self.weight = Weight(library, n, k, group, zero_points, choose.randrange(1 << 30), integer)
        self.gated = not integer and choose.random() < 0.3
        self.activation = "none" if integer else choose.choice(ACTIVATIONS)
        self.dtype = torch.float32 if integer else choose.choice(list(ELEMENTS))
        self.columns = n // 2 if self.gated else n
        self.stride = self.columns + choose.choice((7, 8))
        generator = torch.Generator(device=DEVICE)
        generator.manual_seed(choose.randrange(1 << 30))

        def normal(*shape):
            return torch.randn(*shape, device=DEVICE, generator=generator)

        # Activations up to the next multiple of 8 are finite, beyond it and in the next rows NaN.
        padded = (k + 7) // 8 * 8
        self.x = torch.full(
            (self.m + 2, padded + choose.choice((8, 16))), NAN, device=DEVICE
        ).half()
        self.x[: self.m, :padded] = 0
        self.bias = self.residual = None
        if integer:
            x = torch.randint(-7, 8, (self.m, k), device=DEVICE, generator=generator)
        else:
            x = normal(self.m, k) * torch.exp2(normal(self.m, 1))
            if choose.random() < 0.5:
                self.bias = normal(n)
            if choose.random() < 0.4:
                self.residual = 4 * normal(self.m, self.stride)
        self.x[: self.m, :k] = x.half()
        self.name = (
            f"m {self.m}, n {n}, k {k}, {self.activation}, gated {self.gated}, bias "
            f"{self.bias is not None}, residual {self.residual is not None}, {self.dtype}"
        )

    def run(self, first=0, rows=None, count=None):
        """Into the middle of guard bytes."""
        output = guarded(self.m + 2, self.stride, self.dtype)
        residual = None if self.residual is None else self.residual[first:]
        multiply(
            self.library,
            self.weight,
            self.x[first:],
            self.m if rows is None else rows,
            output[1 + first :],
            self.bias,
            self.activation,
            self.gated,
            residual,
            count,
        )
        return output

    def reference(self):
        """In float64, and the bound on the error: weights are rounded to f16 once, sums are f32."""
        x, epsilon = self.x[: self.m, : self.weight.k].double(), 2.0**-10
        sums, magnitudes = x @ self.weight.values.T, x.abs() @ self.weight.values.abs().T
        if self.bias is not None:
            sums = sums + self.bias.double()
        if self.gated:
            gate, up = sums[:, 0::2], sums[:, 1::2]
            active = activate(self.activation, gate)
            want = active * up
            bound = epsilon * (
                1.13 * magnitudes[:, 0::2] * up.abs() + magnitudes[:, 1::2] * active.abs()
            )
            bound = bound + 1e-6 * (want.abs() + up.abs())
        else:
            want = activate(self.activation, sums)
            bound = epsilon * 1.13 * magnitudes + 1e-6 * sums.abs()
            if self.activation != "none":
                bound = bound + 1e-6 * sums.abs().clamp(min=1)
        if self.residual is not None:
            residual = self.residual[:, : self.columns].double()
            want, bound = want + residual, bound + 1e-6 * residual.abs()
        rounding = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[
            self.dtype
        ]
        return want, bound + want.abs() * rounding + 2.0**-25

    def errors(self, worst):
        output = self.run()
        inside = output[1:-1, : self.columns]
        if not (
            untouched(output[0]) and untouched(output[-1]) and untouched(output[:, self.columns :])
        ):
            yield f"{self.name}: wrote outside"
        want, bound = self.reference()
        got = inside.double()
        if self.dtype == torch.float16:  # beyond f16
            got = torch.where(want.abs() > 60000, want, got)
        wrong = worst.compare(got, want, bound)
        if wrong:
            yield f"{self.name}: {wrong}"
        if self.integer and not torch.equal(got, want):
            yield f"{self.name}: integers are not exact"
        if not same_bits(output, self.run()):
            yield f"{self.name}: other bits in a second run"
        first = self.m // 2
        rows = min(3, self.m - first)
        alone = self.run(first, rows)
        some = slice(first, first + rows)
        if not same_bits(alone[1:-1][some, : self.columns], inside[some]):
            yield f"{self.name}: other bits of rows from {first} alone"
        if not (untouched(alone[: 1 + first]) and untouched(alone[1 + first + rows :])):
            yield f"{self.name}: wrote outside of rows from {first} alone"
        exist = self.m * 2 // 3
        counted = self.run(count=torch.tensor([exist], dtype=torch.int32, device=DEVICE))
        if not (
            same_bits(counted[: 1 + exist], output[: 1 + exist]) and untouched(counted[1 + exist :])
        ):
            yield f"{self.name}: {exist} rows by a count in device memory differ"


def products(library, worst, group, zero_points, integer):
    choose = random.Random(f"{group} {zero_points} {integer}")
    for k in (33, 64, 96, 384, 416, 768, 1024, 1536, 2624, 3072, 4096):
        for _ in range(2 if integer else 6):
            yield from Case(library, choose, k, group, zero_points, integer).errors(worst)


def check(library, results):
    worst = Worst()
    for group in (32, 64, 128):
        for zero_points in (False, True):
            name = f"a16w4_int4, groups of {group}{' with zero points' if zero_points else ''}"
            results.check(name, products(library, worst, group, zero_points, False))
            results.check(
                f"{name}: exact integers", products(library, worst, group, zero_points, True)
            )
    print(f"a16w4_int4: largest error {worst.ratio:.3f} of its bound", flush=True)


def bench(library):
    print("us, f16 in and out, bias, groups of 32 with zero points; the peer is PyTorch's linear")
    print(
        "(cuBLASLt) on f16 weights. Every call of a hundred reads another weight, none of them in"
    )
    print("the L2 cache; in brackets the ratio of the peer to ours.")
    calls = 100
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)
    tokens = (1, 8, 16, 32, 64)
    print("     N     K | " + " | ".join(f"{m:2} tokens: peer, ours " for m in tokens))
    for hidden, inner in ((384, 1536), (768, 3072), (1024, 4096)):
        for n, k in ((3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)):
            weight = Weight(library, n, k, 32, True, 1)
            packed = weight.packed.repeat(calls, 1)
            halves = (torch.randn(n, k, device=DEVICE) / k**0.5).half().repeat(calls, 1, 1)
            bias = torch.randn(n, device=DEVICE)
            line = f"{n:6} {k:5}"
            for m in tokens:
                x = torch.randn(m, k, device=DEVICE).half()
                output = torch.empty(m, n, dtype=torch.float16, device=DEVICE)

                def ours(i, x=x, output=output, m=m, weight=weight, packed=packed, bias=bias):
                    weight.packed = packed[i]
                    multiply(library, weight, x, m, output, bias)

                def peer(i, x=x, halves=halves, half_bias=bias.half()):
                    return F.linear(x, halves[i], half_bias)

                times = time_in_turns({"peer": peer, "ours": ours}, calls, before=flush.zero_)
                ratio = times["peer"] / times["ours"]
                line += f" | {times['peer']:6.2f} {times['ours']:6.2f} ({ratio:.2f})"
            print(line, flush=True)


if __name__ == "__main__":
    main("a16w4_int4", check, bench)
