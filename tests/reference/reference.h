// Naive operations in float64: what kernels and the model are tested against. Slow and plain on
// purpose; nothing here shares code with what it tests.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/linear.h"

namespace octavo::reference {

// x [rows, k] * w [n, k]^T + bias [n] (or none: empty) -> [rows, n].
std::vector<double> Linear(std::span<const float> x, std::span<const float> w,
                           std::span<const float> bias, int64_t rows, int64_t n, int64_t k);

// The sums of |x||w| that bound a product's rounding error; shapes as Linear.
std::vector<double> LinearMagnitude(std::span<const float> x, std::span<const float> w,
                                    int64_t rows, int64_t n, int64_t k);

double Gelu(double x);      // x * Phi(x), by erfc
double GeluTanh(double x);  // 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
double Silu(double x);      // x / (1 + exp(-x))
double Activate(Activation activation, double x);

// What an Epilogue does to products [rows, n], in its order; returns [rows, n], or [rows, n / 2]
// if gated. Output encoding is left to the caller.
std::vector<double> Finish(const Epilogue& epilogue, std::span<const double> products, int64_t rows,
                           int64_t n);

// softmax(q k^T * scale + mask and bias) v over ragged sequences; sizes, offsets, row range, mask
// and bias as in `args`, whose pointers q, k, v and output are not used. q is
// [tokens, heads * head_size], k and v [tokens, key_value_heads * head_size]. Returns rows
// [row_begin, row_end) of [tokens, heads * head_size].
std::vector<double> Attention(const AttentionArgs& args, std::span<const float> q,
                              std::span<const float> k, std::span<const float> v);

// x [rows, columns] -> the same; biased variance.
std::vector<double> LayerNorm(std::span<const float> x, std::span<const float> gain,
                              std::span<const float> bias, int64_t rows, int64_t columns,
                              double epsilon);

std::vector<double> MeanPool(std::span<const float> x, int64_t rows, int64_t columns);

double Norm(std::span<const double> x);

// Cosine of the angle between two vectors of equal length; 1 if both are zero, 0 if one is.
double Cosine(std::span<const double> a, std::span<const double> b);
double Cosine(std::span<const float> a, std::span<const float> b);

// Normalized mean squared error: sum (got - want)^2 / sum want^2. NaN if either holds one.
double Nmse(std::span<const double> got, std::span<const double> want);
double Nmse(std::span<const float> got, std::span<const float> want);

std::vector<double> ToDouble(std::span<const float> x);

}  // namespace octavo::reference
