#!/usr/bin/env python3
"""Fits the polynomials of vector_math_coefficients.h and prints that file.

Run: python3 kernels/cpu/fit_vector_math.py > kernels/cpu/vector_math_coefficients.h
     clang-format -i kernels/cpu/vector_math_coefficients.h
Needs numpy. Each fit is a weighted minimax fit in double precision (iteratively reweighted least
squares in the Chebyshev basis, Lawson's method), moved to the power basis, its coefficients then
rounded to float32. Printed errors are those of a float32 evaluation with fused multiply-adds,
emulated in float64.

Exponentials: 2^r and e^r around 0, error relative.
GELU: gelu(x) = max(x, 0) - u T(u), u = |x|, with the tail T(u) = erfc(u / sqrt 2) / 2, or
1 / (1 + exp(2 sqrt(2/pi) (u + 0.044715 u^3))) for the tanh form. T falls like a Gaussian, so its
2^k-th root is nearly straight: a short polynomial Q with Q^(2^k) = T, raised by k squarings (the
idea of Abramowitz & Stegun 7.1.28, with coefficients fitted to the error of gelu itself, which is
u times that of T). Beyond a limit c, where u T(u) is negligible, T(c) c is subtracted.
"""
import math

import numpy as np

F32 = np.float32


def lawson(design, target, weight, steps=500):
    """Coefficients minimizing max |weight * (design @ c - target)|."""
    lawson_weight = np.full(len(target), 1.0 / len(target))
    best, best_error = None, np.inf
    for _ in range(steps):
        root = np.sqrt(lawson_weight) * weight
        coefficients = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        error = np.abs(weight * (design @ coefficients - target))
        if error.max() < best_error:
            best, best_error = coefficients, error.max()
        lawson_weight = lawson_weight * (error + 1e-30)
        lawson_weight /= lawson_weight.sum()
    return best, best_error


def horner32(coefficients, s):
    """Horner's rule in float32 with fused multiply-adds (float64 product and sum, rounded)."""
    value = np.full(s.shape, coefficients[-1], F32)
    for c in coefficients[-2::-1]:
        value = (value.astype(np.float64) * s.astype(np.float64) + float(c)).astype(F32)
    return value


def fit_on(function_of_s, weight_of_s, low, high, degree, points=2000):
    """Power-basis float32 coefficients in s, ascending, of a weighted minimax fit on [low, high]."""
    node = np.cos(np.linspace(0, np.pi, points))
    s = 0.5 * (high + low) + 0.5 * (high - low) * node
    design = np.polynomial.chebyshev.chebvander(node, degree)
    coefficients, error = lawson(design, function_of_s(s), weight_of_s(s))
    fitted = np.polynomial.Chebyshev(coefficients, domain=[low, high])
    return fitted.convert(kind=np.polynomial.Polynomial).coef, error


def fit_exponential(base_log, half_width, degree):
    low, high = half_width
    # The constant is 1, so that 0 gives 1: what is fitted is (e^r - 1) / r.
    power, _ = fit_on(lambda r: np.expm1(base_log * r + 1e-30) / (r + 1e-30 / base_log),
                      lambda r: np.abs(r) * np.exp(-base_log * r) + 1e-6, low, high, degree - 1)
    power = np.concatenate([[1.0], power])
    power = power.astype(F32)
    r = np.linspace(low, high, 200001).astype(F32)
    exact = np.exp(base_log * r.astype(np.float64))
    error = np.max(np.abs(horner32(power, r).astype(np.float64) / exact - 1))
    return power, error


def erf_tail(u):
    return 0.5 * np.array([math.erfc(v / math.sqrt(2)) for v in u])


def tanh_tail(u):
    return 1 / (1 + np.exp(2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))


def gelu32(power, limit, squarings, x):
    """The kernels' evaluation of gelu in float32."""
    u = np.minimum(np.abs(x), F32(limit))
    tail = horner32(power, u)
    for _ in range(squarings):
        tail = tail * tail
    product = tail.astype(np.float64) * u.astype(np.float64)
    return (np.maximum(x, 0).astype(np.float64) - product).astype(F32)


def fit_gelu(tail, limit, degree, squarings):
    root = 2**squarings

    def weight(u):  # d gelu / d Q; a little more than 0 at the ends to keep the fit defined
        return (u + 1e-3) * root * tail(u)**((root - 1) / root) + 1e-12

    power, _ = fit_on(lambda u: tail(u)**(1 / root), weight, 0.0, limit, degree)
    power = power.astype(F32)
    positive = np.concatenate([np.linspace(0, 9, 100001), np.geomspace(1e-6, 9, 20001)])
    x = np.concatenate([positive, -positive]).astype(F32)
    wide = x.astype(np.float64)
    exact = np.maximum(wide, 0) - np.abs(wide) * tail(np.abs(wide))
    error = np.max(np.abs(gelu32(power, limit, squarings, x).astype(np.float64) - exact))
    return power, limit, squarings, error


def best_gelu(tail, degree, squarings, limits):
    return min((fit_gelu(tail, float(F32(limit)), degree, squarings) for limit in limits),
               key=lambda row: row[3])


def literal(value):
    text = f"{float(value):.9g}"
    return (text if "." in text or "e" in text else text + ".0") + "f"


def array(name, comment, coefficients):
    values = ", ".join(literal(c) for c in coefficients)
    print(f"// {comment}\nconstexpr float {name}[{len(coefficients)}] = {{{values}}};\n")


def gelu(name, comment, row):
    power, limit, squarings, error = row
    array(name, f"{comment} to the power 1 / {2**squarings}. Largest error {error:.1e}.", power)
    print(f"constexpr float {name}Limit = {literal(limit)};")
    print(f"constexpr int {name}Squarings = {squarings};\n")


def main():
    print("""// Polynomial coefficients of the vector functions, lowest power first. Made by
// fit_vector_math.py, which says how; errors are of a float32 evaluation with fused
// multiply-adds: relative for exponentials, absolute for GELU.
#pragma once

namespace octavo::cpu {
""")
    half_log2 = math.log(2) / 2
    power, error = fit_exponential(1.0, (-half_log2, half_log2), 5)
    array("kExp", f"e^r for |r| <= ln(2) / 2. Largest error {error:.1e}.", power)
    power, error = fit_exponential(math.log(2), (-0.5, 0.5), 5)
    array("kExp2", f"2^r for |r| <= 0.5. Largest error {error:.1e}.", power)
    power, error = fit_exponential(math.log(2), (-0.5, 0.5), 3)
    array("kExp2Coarse", f"The same. Largest error {error:.1e}.", power)
    gelu("kGelu", "erfc(u / sqrt 2) / 2", best_gelu(erf_tail, 5, 5, np.arange(4.9, 5.5, 0.1)))
    gelu("kGeluCoarse", "The same", best_gelu(erf_tail, 4, 3, np.arange(3.9, 5.2, 0.1)))
    gelu("kGeluTanh", "1 / (1 + exp(2 sqrt(2/pi) (u + 0.044715 u^3)))",
         best_gelu(tanh_tail, 8, 3, np.arange(4.5, 5.2, 0.1)))
    print("}  // namespace octavo::cpu")


if __name__ == "__main__":
    main()
