// Model directories for tests: a small BERT written to a temporary folder, to be broken at will.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json.hpp"

namespace octavo {

struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

RawTensor F32Tensor(std::vector<int64_t> shape, const std::vector<float>& values);

// A well-formed safetensors file, tensors in name order.
std::string SafetensorsBytes(const std::map<std::string, RawTensor>& tensors);

// A safetensors file of any header and data: 8 bytes of length, then both as they are.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

// A fresh folder under the system's temporary directory; removed when destroyed.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string File(std::string_view name) const;
  void Write(std::string_view name, std::string_view text) const;  // makes folders as needed
  void Remove(std::string_view name) const;

 private:
  std::string path_;
};

// A BERT of 2 layers (hidden 8, heads 2, intermediate 12, 12 positions) over a vocabulary of 16
// WordPieces, mean pooling, normalized, max_seq_length 10. Change the members, then Save.
class ModelDirectory {
 public:
  ModelDirectory();
  void Save() const;
  // Saves, and gives every tensor a name with `prefix` before it.
  void SaveWithPrefix(std::string_view prefix) const;

  const std::string& path() const { return directory.path(); }

  TemporaryDirectory directory;
  nlohmann::json config;
  nlohmann::json tokenizer;
  nlohmann::json modules;
  nlohmann::json pooling;
  nlohmann::json sentence_config;
  std::map<std::string, RawTensor> tensors;
};

}  // namespace octavo
