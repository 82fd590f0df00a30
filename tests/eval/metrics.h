// Measures of retrieval and similarity quality.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace octavo::eval {

// Document id -> grade of relevance to one query; a document not judged has grade 0.
using Judgments = std::unordered_map<std::string, double>;

// Normalized discounted cumulative gain of a ranking, best first, with linear gain:
// DCG = sum of grade / log2(rank + 1) over the first k ranks, divided by the DCG of the judged
// documents in the best order (Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR
// techniques", 2002, with the grade itself as gain). 0 if that is 0.
double NdcgAt(int k, std::span<const std::string_view> ranking, const Judgments& judgments);

// Share of the documents with a grade above 0 among the first k ranks. 0 if there are none.
double RecallAt(int k, std::span<const std::string_view> ranking, const Judgments& judgments);

// True if a document has a grade above 0: only such queries are averaged.
bool HasRelevant(const Judgments& judgments);

// Spearman's rank correlation: Pearson's over ranks, equal values sharing the mean of their ranks.
// NaN if either side is constant or has fewer than 2 values. Sizes are equal.
double Spearman(std::span<const double> a, std::span<const double> b);

// Mean; 0 of nothing.
double Mean(std::span<const double> values);

// The p-th percentile, p in [0, 100], interpolated linearly between the nearest ranks. NaN of
// nothing.
double Percentile(std::vector<double> values, double p);

// Rows of floats.
struct Matrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values;  // [rows, columns]

  std::span<const float> row(int64_t i) const {
    return {values.data() + i * columns, static_cast<size_t>(columns)};
  }
};

// Cosine of two vectors of equal size, in double; 0 if either is all zeros.
double Cosine(std::span<const float> a, std::span<const float> b);

// Of row i of `a` and row i of `b`. Shapes are equal.
std::vector<double> RowCosines(const Matrix& a, const Matrix& b);

// Scales every row to length 1 (a row of zeros stays).
void NormalizeRows(Matrix* matrix);

// Indices of the `top` rows of `documents` with the largest dot product with `query`, best first,
// equal scores in row order: the order of a stable sort of all scores.
std::vector<int64_t> Rank(const Matrix& documents, std::span<const float> query, int64_t top);

}  // namespace octavo::eval
