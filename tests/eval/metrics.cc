#include "tests/eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace octavo::eval {
namespace {

double Discount(size_t rank) { return 1 / std::log2(static_cast<double>(rank) + 2); }

float Dot(std::span<const float> a, std::span<const float> b) {
  constexpr size_t kLanes = 16;  // independent sums: the compiler makes them vectors
  float sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  float sum = 0;
  for (; i < a.size(); ++i) sum += a[i] * b[i];
  for (const float lane : sums) sum += lane;
  return sum;
}

// 1-based ranks, equal values sharing the mean of theirs.
std::vector<double> Ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = (static_cast<double>(begin) + static_cast<double>(end) + 1) / 2;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = rank;
    begin = end;
  }
  return ranks;
}

}  // namespace

double NdcgAt(int k, std::span<const std::string_view> ranking, const Judgments& judgments) {
  const size_t depth = static_cast<size_t>(k);
  double gained = 0;
  for (size_t rank = 0; rank < std::min(depth, ranking.size()); ++rank) {
    const auto judged = judgments.find(std::string(ranking[rank]));
    if (judged != judgments.end()) gained += judged->second * Discount(rank);
  }
  std::vector<double> grades;
  for (const auto& [document, grade] : judgments) grades.push_back(grade);
  std::sort(grades.begin(), grades.end(), std::greater<>());
  double ideal = 0;
  for (size_t rank = 0; rank < std::min(depth, grades.size()); ++rank) {
    ideal += grades[rank] * Discount(rank);
  }
  return ideal == 0 ? 0 : gained / ideal;
}

double RecallAt(int k, std::span<const std::string_view> ranking, const Judgments& judgments) {
  int64_t relevant = 0;
  for (const auto& [document, grade] : judgments) relevant += grade > 0;
  int64_t found = 0;
  for (size_t rank = 0; rank < std::min(static_cast<size_t>(k), ranking.size()); ++rank) {
    const auto judged = judgments.find(std::string(ranking[rank]));
    found += judged != judgments.end() && judged->second > 0;
  }
  return relevant == 0 ? 0 : static_cast<double>(found) / static_cast<double>(relevant);
}

bool HasRelevant(const Judgments& judgments) {
  return std::any_of(judgments.begin(), judgments.end(),
                     [](const auto& judged) { return judged.second > 0; });
}

double Spearman(std::span<const double> a, std::span<const double> b) {
  const std::vector<double> ranks_a = Ranks(a), ranks_b = Ranks(b);
  const double mean = (static_cast<double>(a.size()) + 1) / 2;  // of any ranks
  double covariance = 0, variance_a = 0, variance_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    covariance += (ranks_a[i] - mean) * (ranks_b[i] - mean);
    variance_a += (ranks_a[i] - mean) * (ranks_a[i] - mean);
    variance_b += (ranks_b[i] - mean) * (ranks_b[i] - mean);
  }
  if (variance_a == 0 || variance_b == 0) return std::numeric_limits<double>::quiet_NaN();
  return covariance / std::sqrt(variance_a * variance_b);
}

double Mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Percentile(std::vector<double> values, double p) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const double place = p / 100 * static_cast<double>(values.size() - 1);
  const size_t below = std::min(static_cast<size_t>(place), values.size() - 1);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - static_cast<double>(below));
}

double Cosine(std::span<const float> a, std::span<const float> b) {
  double product = 0, square_a = 0, square_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += static_cast<double>(a[i]) * b[i];
    square_a += static_cast<double>(a[i]) * a[i];
    square_b += static_cast<double>(b[i]) * b[i];
  }
  if (square_a == 0 || square_b == 0) return 0;
  return product / std::sqrt(square_a * square_b);
}

std::vector<double> RowCosines(const Matrix& a, const Matrix& b) {
  std::vector<double> cosines(static_cast<size_t>(a.rows));
  for (int64_t i = 0; i < a.rows; ++i) cosines[static_cast<size_t>(i)] = Cosine(a.row(i), b.row(i));
  return cosines;
}

void NormalizeRows(Matrix* matrix) {
  for (int64_t i = 0; i < matrix->rows; ++i) {
    float* row = matrix->values.data() + i * matrix->columns;
    double square = 0;
    for (int64_t j = 0; j < matrix->columns; ++j) square += static_cast<double>(row[j]) * row[j];
    if (square == 0) continue;
    const double scale = 1 / std::sqrt(square);
    for (int64_t j = 0; j < matrix->columns; ++j) row[j] = static_cast<float>(row[j] * scale);
  }
}

std::vector<int64_t> Rank(const Matrix& documents, std::span<const float> query, int64_t top) {
  std::vector<float> scores(static_cast<size_t>(documents.rows));
  for (int64_t i = 0; i < documents.rows; ++i) scores[i] = Dot(documents.row(i), query);
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const int64_t kept = std::clamp<int64_t>(top, 0, documents.rows);
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](int64_t a, int64_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  order.resize(static_cast<size_t>(kept));
  return order;
}

}  // namespace octavo::eval
