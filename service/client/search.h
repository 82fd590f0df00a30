// Exact nearest neighbours.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace octavo::client {

struct Hit {
  int64_t row = 0;
  float score = 0;
};

// The `top` rows of `vectors` [rows, query.size()] with the largest dot product with `query`
// [dimensions], best first; equal scores in row order. With rows and query of length 1 the score
// is the cosine.
std::vector<Hit> Search(std::span<const float> vectors, std::span<const float> query, int64_t top);

}  // namespace octavo::client
