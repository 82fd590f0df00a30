// Document vectors kept between runs: embedding a corpus takes minutes, comparing takes none.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/eval/metrics.h"

namespace octavo::eval {

// What a stored matrix was made of.
struct VectorKey {
  std::string revision;  // of the model
  std::string dataset;   // sha256 of the texts' file
  std::string lane;
  std::string format;  // full name
  std::string method;
};

// A folder of matrices, a file a key. Files are written whole or not at all, so runs may share it.
class VectorCache {
 public:
  // `directory` "": nothing is kept.
  explicit VectorCache(std::string directory) : directory_(std::move(directory)) {}

  // ${XDG_CACHE_HOME:-~/.cache}/octavo/vectors, or "" without either variable.
  static std::string DefaultDirectory();

  // NOT_FOUND if there is none of this key and shape.
  absl::StatusOr<Matrix> Read(const VectorKey& key, int64_t rows, int64_t columns) const;
  absl::Status Write(const VectorKey& key, const Matrix& matrix) const;

 private:
  std::string Path(const VectorKey& key) const;
  std::string directory_;
};

// Rows to embed anew to see that a stored matrix is what today's kernels make: `count` of them,
// spread evenly.
std::vector<int64_t> SpotCheckRows(int64_t rows, int64_t count);

// True if `fresh` row i and `stored` row rows[i] agree: bit for bit where `exact` (integer
// arithmetic is reproducible), else to a cosine of `least_cosine`.
bool SpotCheckPasses(const Matrix& stored, const std::vector<int64_t>& rows, const Matrix& fresh,
                     bool exact, double least_cosine);

}  // namespace octavo::eval
