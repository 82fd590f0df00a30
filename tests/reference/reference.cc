#include "tests/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numbers>

namespace octavo::reference {

std::vector<double> Linear(std::span<const float> x, std::span<const float> w,
                           std::span<const float> bias, int64_t rows, int64_t n, int64_t k) {
  std::vector<double> y(rows * n);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t c = 0; c < k; ++c) {
        sum += static_cast<double>(x[i * k + c]) * static_cast<double>(w[j * k + c]);
      }
      y[i * n + j] = bias.empty() ? sum : sum + bias[j];
    }
  }
  return y;
}

std::vector<double> LinearMagnitude(std::span<const float> x, std::span<const float> w,
                                    int64_t rows, int64_t n, int64_t k) {
  std::vector<double> y(rows * n);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t c = 0; c < k; ++c) {
        sum += std::abs(static_cast<double>(x[i * k + c]) * static_cast<double>(w[j * k + c]));
      }
      y[i * n + j] = sum;
    }
  }
  return y;
}

double Gelu(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }

double GeluTanh(double x) {
  return 0.5 * x *
         (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGelu:
      return Gelu(x);
    case Activation::kGeluTanh:
      return GeluTanh(x);
    case Activation::kSilu:
      return Silu(x);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

std::vector<double> Finish(const Epilogue& epilogue, std::span<const double> products, int64_t rows,
                           int64_t n) {
  const int64_t columns = epilogue.gated ? n / 2 : n;
  std::vector<double> y(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    const auto biased = [&](int64_t j) {
      return products[i * n + j] + (epilogue.bias == nullptr ? 0.0 : epilogue.bias[j]);
    };
    for (int64_t j = 0; j < columns; ++j) {
      double value = epilogue.gated
                         ? Activate(epilogue.activation, biased(2 * j)) * biased(2 * j + 1)
                         : Activate(epilogue.activation, biased(j));
      if (epilogue.residual != nullptr)
        value += epilogue.residual[i * epilogue.residual_stride + j];
      y[i * columns + j] = value;
    }
  }
  return y;
}

namespace {

bool Sees(const AttentionArgs& args, int64_t i, int64_t j) {
  switch (args.mask) {
    case Mask::kFull:
      return true;
    case Mask::kCausal:
      return j <= i;
    case Mask::kWindow:
      return std::llabs(i - j) <= args.window;
  }
  return false;
}

// One query row and head; the sequence is rows [begin, end) of k and v.
void AttendRow(const AttentionArgs& args, std::span<const float> q, std::span<const float> k,
               std::span<const float> v, int64_t row, int64_t begin, int64_t end, int head,
               double* output) {
  const int size = args.head_size;
  const int kv_head = head / (args.heads / args.key_value_heads);
  const int64_t q_stride = static_cast<int64_t>(args.heads) * size;
  const int64_t kv_stride = static_cast<int64_t>(args.key_value_heads) * size;
  const int64_t position = row - begin;
  std::vector<double> scores(end - begin, -std::numeric_limits<double>::infinity());
  for (int64_t j = 0; j < end - begin; ++j) {
    if (!Sees(args, position, j)) continue;
    double dot = 0.0;
    for (int c = 0; c < size; ++c) {
      dot += static_cast<double>(q[row * q_stride + head * size + c]) *
             static_cast<double>(k[(begin + j) * kv_stride + kv_head * size + c]);
    }
    scores[j] = dot * static_cast<double>(args.scale);
    if (args.relative_bias != nullptr) {
      scores[j] += args.relative_bias[head * args.bias_stride + (j - position) + args.bias_zero];
    }
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double total = 0.0;
  for (double& score : scores) total += score = std::exp(score - largest);
  for (int c = 0; c < size; ++c) {
    double sum = 0.0;
    for (int64_t j = 0; j < end - begin; ++j) {
      if (scores[j] == 0.0) continue;
      sum += scores[j] * static_cast<double>(v[(begin + j) * kv_stride + kv_head * size + c]);
    }
    output[c] = sum / total;
  }
}

}  // namespace

std::vector<double> Attention(const AttentionArgs& args, std::span<const float> q,
                              std::span<const float> k, std::span<const float> v) {
  const int64_t columns = static_cast<int64_t>(args.heads) * args.head_size;
  std::vector<double> output((args.row_end - args.row_begin) * columns);
  for (int64_t s = 0; s < args.sequences; ++s) {
    const int64_t begin = args.offsets[s];
    const int64_t end = args.offsets[s + 1];
    for (int64_t row = std::max(begin, args.row_begin); row < std::min(end, args.row_end); ++row) {
      for (int head = 0; head < args.heads; ++head) {
        AttendRow(args, q, k, v, row, begin, end, head,
                  &output[(row - args.row_begin) * columns + head * args.head_size]);
      }
    }
  }
  return output;
}

std::vector<double> LayerNorm(std::span<const float> x, std::span<const float> gain,
                              std::span<const float> bias, int64_t rows, int64_t columns,
                              double epsilon) {
  std::vector<double> y(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    double mean = 0.0;
    for (int64_t j = 0; j < columns; ++j) mean += x[i * columns + j];
    mean /= static_cast<double>(columns);
    double variance = 0.0;
    for (int64_t j = 0; j < columns; ++j) {
      variance += (x[i * columns + j] - mean) * (x[i * columns + j] - mean);
    }
    variance /= static_cast<double>(columns);
    for (int64_t j = 0; j < columns; ++j) {
      y[i * columns + j] =
          (x[i * columns + j] - mean) / std::sqrt(variance + epsilon) * gain[j] + bias[j];
    }
  }
  return y;
}

std::vector<double> MeanPool(std::span<const float> x, int64_t rows, int64_t columns) {
  std::vector<double> y(columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) y[j] += x[i * columns + j];
  }
  for (double& value : y) value /= static_cast<double>(rows);
  return y;
}

double Norm(std::span<const double> x) {
  double sum = 0.0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

double Cosine(std::span<const double> a, std::span<const double> b) {
  double dot = 0.0;
  for (size_t i = 0; i < a.size(); ++i) dot += a[i] * b[i];
  const double norms = Norm(a) * Norm(b);
  if (norms == 0.0) return Norm(a) == Norm(b) ? 1.0 : 0.0;
  return dot / norms;
}

double Cosine(std::span<const float> a, std::span<const float> b) {
  return Cosine(ToDouble(a), ToDouble(b));
}

double Nmse(std::span<const double> got, std::span<const double> want) {
  double error = 0.0;
  double power = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    power += want[i] * want[i];
  }
  return error == 0.0 ? 0.0 : error / power;
}

double Nmse(std::span<const float> got, std::span<const float> want) {
  return Nmse(ToDouble(got), ToDouble(want));
}

std::vector<double> ToDouble(std::span<const float> x) { return {x.begin(), x.end()}; }

}  // namespace octavo::reference
