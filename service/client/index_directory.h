// A directory of document vectors and texts, written once and then searched:
//   manifest.json    what made it: model, revision, format, dimensions, count, tokens
//   vectors.f32      [count, dimensions] float32, little-endian, rows of length 1
//   documents.jsonl  row i is line i: {"id", "title", "text"}
//   offsets.u64      [count + 1] little-endian: line i is bytes [offsets[i], offsets[i + 1])
//   rejected.jsonl   only if there are any: {"line", "id", "reason", "message"}
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/client/documents.h"

namespace octavo::client {

struct IndexManifest {
  std::string model;
  std::string revision;
  std::string document_format;
  int64_t dimensions = 0;
  int64_t count = 0;
  int64_t tokens = 0;
  int64_t rejected = 0;
};

// Writes an index beside its final place and moves it there whole; an index that is not finished
// leaves nothing behind. Not thread-safe.
class IndexWriter {
 public:
  // ALREADY_EXISTS if `directory` exists and holds anything that is not an index.
  static absl::StatusOr<std::unique_ptr<IndexWriter>> Create(const std::string& directory);
  ~IndexWriter();
  IndexWriter(const IndexWriter&) = delete;
  IndexWriter& operator=(const IndexWriter&) = delete;

  // Rows are appended in the order of the calls; all have the same number of dimensions.
  absl::Status Append(const Document& document, std::span<const float> vector);
  absl::Status Reject(const Rejection& rejection);
  // `count` and `rejected` are filled in. An index already at the directory is replaced in one
  // step. Nothing may be called after it.
  absl::Status Finish(IndexManifest manifest);

  int64_t count() const { return count_; }
  int64_t rejected() const { return rejected_; }

 private:
  struct Close {
    void operator()(FILE* file) const { std::fclose(file); }
  };
  using File = std::unique_ptr<FILE, Close>;

  IndexWriter(std::string directory, std::string temporary);
  absl::Status Open(const char* name, File* file);
  absl::Status Write(FILE* file, const void* bytes, size_t size);
  absl::Status WriteOffset();
  absl::Status CloseDurably(File* file);

  const std::string directory_;
  const std::string temporary_;
  File vectors_, documents_, offsets_, rejections_;
  uint64_t document_bytes_ = 0;
  int64_t dimensions_ = 0;
  int64_t count_ = 0;
  int64_t rejected_ = 0;
  bool finished_ = false;
};

// A finished index, mapped for reading. Immutable, thread-safe.
class Index {
 public:
  // NOT_FOUND if there is none; DATA_LOSS if files contradict the manifest.
  static absl::StatusOr<std::unique_ptr<Index>> Open(const std::string& directory);
  ~Index();
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  const IndexManifest& manifest() const { return manifest_; }
  // [count, dimensions]
  std::span<const float> vectors() const { return vectors_; }
  // Row `row` below count. DATA_LOSS if its line does not parse.
  absl::StatusOr<Document> document(int64_t row) const;

 private:
  Index() = default;
  absl::StatusOr<std::span<const char>> Map(const std::string& path, int64_t size);

  IndexManifest manifest_;
  std::span<const float> vectors_;
  std::span<const char> documents_;
  std::span<const uint64_t> offsets_;
  std::vector<std::span<const char>> mapped_;
};

}  // namespace octavo::client
