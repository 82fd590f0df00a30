#include "service/client/search.h"

#include <algorithm>

namespace octavo::client {
namespace {

constexpr int kLanes = 16;     // independent sums: the compiler makes them vectors
constexpr int kBlockRows = 4;  // rows that share a load of the query

// scores[r] = rows[r] . query for `count` (at most kBlockRows) rows of `dimensions` values.
template <int count>
void DotBlock(const float* rows, const float* query, int64_t dimensions, float* scores) {
  float sums[count][kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= dimensions; i += kLanes) {
    for (int r = 0; r < count; ++r) {
      const float* row = rows + r * dimensions + i;
      for (int lane = 0; lane < kLanes; ++lane) sums[r][lane] += row[lane] * query[i + lane];
    }
  }
  for (int r = 0; r < count; ++r) {
    float sum = 0;
    for (int64_t j = i; j < dimensions; ++j) sum += rows[r * dimensions + j] * query[j];
    for (const float lane : sums[r]) sum += lane;
    scores[r] = sum;
  }
}

}  // namespace

std::vector<Hit> Search(std::span<const float> vectors, std::span<const float> query, int64_t top) {
  const int64_t dimensions = static_cast<int64_t>(query.size());
  if (dimensions == 0) return {};
  const int64_t rows = static_cast<int64_t>(vectors.size()) / dimensions;
  std::vector<Hit> hits(rows);
  int64_t row = 0;
  for (; row + kBlockRows <= rows; row += kBlockRows) {
    float scores[kBlockRows];
    DotBlock<kBlockRows>(vectors.data() + row * dimensions, query.data(), dimensions, scores);
    for (int r = 0; r < kBlockRows; ++r) hits[row + r] = {row + r, scores[r]};
  }
  for (; row < rows; ++row) {
    hits[row].row = row;
    DotBlock<1>(vectors.data() + row * dimensions, query.data(), dimensions, &hits[row].score);
  }
  const auto better = [](const Hit& a, const Hit& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  };
  const int64_t kept = std::clamp<int64_t>(top, 0, rows);
  std::partial_sort(hits.begin(), hits.begin() + kept, hits.end(), better);
  hits.resize(kept);
  return hits;
}

}  // namespace octavo::client
