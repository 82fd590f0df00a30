"""The kernels over whole rows against float64, and beside a copy of as many bytes.

Bits and corners are tests/kernels/row_operations_test.cc's; here are the sizes that are timed."""

import torch

from device_test import DEVICE, ELEMENTS, main, time_in_turns

EPSILON = 1e-12
E4M3_COLUMNS = 128  # that share a scale
TYPES = (torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)


class Encoded:
    """Where rows are encoded, with the scales that the type has."""

    def __init__(self, rows, columns, dtype):
        self.values = torch.full((rows, columns), 77, device=DEVICE).to(dtype)
        self.stride = (rows + 31) // 32 * 32
        groups = (columns + E4M3_COLUMNS - 1) // E4M3_COLUMNS
        self.scales = torch.full((groups, self.stride), 77.0, device=DEVICE)
        self.sums = torch.full((rows,), 77, dtype=torch.int32, device=DEVICE)

    def arguments(self):
        element = ELEMENTS[self.values.dtype]
        return (self.values, element, self.scales, self.stride, self.sums)

    def decoded(self):
        """In float64, and the bound on the error of what was encoded."""
        x = self.values.double()
        rows, columns = x.shape
        if self.values.dtype == torch.int8:
            scales = self.scales[0, :rows, None].double()
            return x * scales, scales * 0.5001
        if self.values.dtype == torch.float8_e4m3fn:
            scales = self.scales[:, :rows].t().repeat_interleave(E4M3_COLUMNS, 1)[:, :columns]
            x = x * scales.double()
            return x, x.abs() * 2.0**-4 + scales.double() * 2.0**-10
        if self.values.dtype == torch.float16:
            return x, x.abs() * 2.0**-11 + 2.0**-25
        return x, x.abs() * 2.0**-8


def wrong(name, got, want, bound):
    excess = ((got - want).abs() - bound).nan_to_num(1e9).amax()
    if excess > 0:
        yield f"{name}: {float(excess):.3g} beyond the bound"


def inputs(rows, columns, dtype):
    generator = torch.Generator(device=DEVICE)
    generator.manual_seed(rows + columns)

    def draw(*shape):
        return torch.randn(*shape, device=DEVICE, generator=generator)

    x, residual = draw(rows, columns), 3 * draw(rows, columns)
    return x.to(dtype), residual.to(dtype), draw(columns), draw(columns)


def norm(library, x, residual, gain, bias, hidden, encoded):
    rows, columns = x.shape
    library.launch(
        "norm",
        rows,
        columns,
        gain,
        bias,
        EPSILON,
        x,
        residual,
        hidden,
        ELEMENTS[x.dtype],
        *encoded.arguments(),
    )


def encode(library, x, encoded):
    library.launch("encode", *x.shape, x, ELEMENTS[x.dtype], *encoded.arguments())


def check_shape(library, rows, columns, dtype):
    x, residual, gain, bias = inputs(rows, columns, dtype)
    total = x.double() + residual.double()
    deviation = total - total.mean(1, keepdim=True)
    want = deviation / (deviation.square().mean(1, keepdim=True) + EPSILON).sqrt()
    want = want * gain.double() + bias.double()
    slack = 3e-6 * want.abs().amax(1, keepdim=True)
    for to in TYPES:
        hidden, encoded = torch.empty_like(x), Encoded(rows, columns, to)
        norm(library, x, residual, gain, bias, hidden, encoded)
        got, bound = encoded.decoded()
        yield from wrong(f"norm to {to}", got, want, bound + slack)
        step = want.abs() * (2.0**-11 if dtype == torch.float16 else 2.0**-8) + 2.0**-24
        yield from wrong("hidden", hidden.double(), want, step + slack)
        encode(library, x, encoded)
        got, bound = encoded.decoded()
        yield from wrong(f"encoding to {to}", got, x.double(), bound)


def check(library, results):
    for dtype in (torch.float16, torch.bfloat16):
        for columns in (384, 768, 1024, 2048, 4096):
            for rows in (1000, 2000):  # few and many to rows_warp.cu
                results.check(
                    f"{rows} rows of {columns}, {str(dtype)[6:]}",
                    check_shape(library, rows, columns, dtype),
                )


def bench(library):
    big = torch.randn(2**28, device=DEVICE).half()
    other = torch.empty_like(big)
    microseconds = time_in_turns({"copy": lambda _: other.copy_(big)}, 3)["copy"]
    copied = 4 * big.numel() / microseconds / 1e3
    print(f"a copy moves {copied:.0f} GB/s, counting bytes read and bytes written")
    print("f16 in; norm: of input + residual, to hidden and to the type; us, and share of the copy")
    del big, other
    for columns in (384, 768, 1024):
        for rows in (16, 2**28 // columns):
            x, residual, gain, bias = inputs(rows, columns, torch.float16)
            hidden = torch.empty_like(x)
            runs, moved = {}, {}
            for to in TYPES:
                encoded = Encoded(rows, columns, to)
                size = encoded.values.element_size()
                name = str(to)[6:]
                runs[f"norm {name}"] = lambda _, e=encoded: norm(
                    library, x, residual, gain, bias, hidden, e
                )
                moved[f"norm {name}"] = (6 + size) * x.numel()
                runs[f"encode {name}"] = lambda _, e=encoded: encode(library, x, e)
                moved[f"encode {name}"] = (2 + size) * x.numel()
            times = time_in_turns(runs, 100 if rows == 16 else 4)
            line = f"{rows:7} rows of {columns:4}:"
            for name, microseconds in times.items():
                line += f"  {name} {microseconds:.1f}"
                if rows > 16:
                    line += f" ({moved[name] / microseconds / 1e3 / copied:.2f})"
            print(line, flush=True)
    x = torch.randn(2**18, 384, device=DEVICE).half()
    for length in (128, 512, 8192):
        offsets = torch.arange(0, 2**18 + 1, length, dtype=torch.int32, device=DEVICE)
        output = torch.empty(offsets.numel() - 1, 384, device=DEVICE)

        def pool(_, offsets=offsets, output=output):
            element = ELEMENTS[x.dtype]
            library.launch("mean_pool", x, element, offsets, output.shape[0], 384, output)

        microseconds = time_in_turns({"pool": pool}, 10)["pool"]
        error = (output.double() - x.view(-1, length, 384).double().mean(1)).abs().max()
        verdict = f"{2 * x.numel() / microseconds / 1e3 / copied:.2f}" if error < 1e-6 else "wrong"
        print(f"mean over {length} of 2^18 rows of 384: {microseconds:.1f} ({verdict})", flush=True)


if __name__ == "__main__":
    main("rows", check, bench)
