#include "tests/eval/vector_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "runtime/sha256.h"

namespace octavo::eval {

namespace fs = std::filesystem;

std::string VectorCache::DefaultDirectory() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return absl::StrCat(cache, "/octavo/vectors");
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home != '\0') return absl::StrCat(home, "/.cache/octavo/vectors");
  return "";
}

std::string VectorCache::Path(const VectorKey& key) const {
  const std::string whole = absl::StrCat(key.revision, "\n", key.dataset, "\n", key.lane, "\n",
                                         key.format, "\n", key.method);
  return absl::StrCat(directory_, "/", key.format, "-", key.lane, "-",
                      Sha256Hex(std::string_view(whole)), ".f32");
}

absl::StatusOr<Matrix> VectorCache::Read(const VectorKey& key, int64_t rows,
                                         int64_t columns) const {
  if (directory_.empty()) return absl::NotFoundError("no cache");
  const std::string path = Path(key);
  std::error_code error;
  const auto bytes = static_cast<std::uintmax_t>(rows * columns) * sizeof(float);
  if (fs::file_size(path, error) != bytes || error) return absl::NotFoundError(path);
  Matrix matrix{rows, columns, std::vector<float>(static_cast<size_t>(rows * columns))};
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(matrix.values.data()), static_cast<std::streamsize>(bytes));
  if (!file) return absl::NotFoundError(path);
  return matrix;
}

absl::Status VectorCache::Write(const VectorKey& key, const Matrix& matrix) const {
  if (directory_.empty()) return absl::OkStatus();
  std::error_code error;
  fs::create_directories(directory_, error);
  const std::string path = Path(key);
  const std::string temporary = absl::StrCat(path, ".", getpid());
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(matrix.values.data()),
               static_cast<std::streamsize>(matrix.values.size() * sizeof(float)));
    file.close();
    if (!file) {
      fs::remove(temporary, error);
      return absl::UnavailableError(absl::StrCat("cannot write ", temporary));
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    fs::remove(temporary, error);
    return absl::UnavailableError(absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

std::vector<int64_t> SpotCheckRows(int64_t rows, int64_t count) {
  std::vector<int64_t> chosen;
  const int64_t taken = std::min(rows, count);
  for (int64_t i = 0; i < taken; ++i) chosen.push_back(i * rows / taken);
  return chosen;
}

bool SpotCheckPasses(const Matrix& stored, const std::vector<int64_t>& rows, const Matrix& fresh,
                     bool exact, double least_cosine) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto old_row = stored.row(rows[i]);
    const auto new_row = fresh.row(static_cast<int64_t>(i));
    if (exact) {
      if (std::memcmp(old_row.data(), new_row.data(), old_row.size_bytes()) != 0) return false;
    } else if (!(Cosine(old_row, new_row) >= least_cosine)) {
      return false;
    }
  }
  return true;
}

}  // namespace octavo::eval
