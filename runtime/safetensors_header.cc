#include "runtime/safetensors_header.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

// A SAX reader rather than a DOM: a DOM would keep the last of two equal keys and nest without
// limit. Each state says where in the header the next event falls.
class HeaderReader {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  SafetensorsHeader header;
  std::string error;

  bool start_object(size_t) {
    switch (state_) {
      case State::kBegin:
        state_ = State::kTop;
        return true;
      case State::kTensorValue:
        state_ = State::kTensor;
        return true;
      case State::kMetadataValue:
        state_ = State::kMetadata;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& name) {
    switch (state_) {
      case State::kTop:
        return TopKey(name);
      case State::kTensor:
        return TensorKey(name);
      case State::kMetadata:
        metadata_key_ = std::move(name);
        state_ = State::kMetadataText;
        return true;
      default:
        return Unexpected("a key");
    }
  }

  bool end_object() {
    if (state_ == State::kTensor) {
      constexpr int kAll = kDtypeSeen | kShapeSeen | kOffsetsSeen;
      if (seen_ != kAll) return Fail("needs dtype, shape and data_offsets");
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(size_t) {
    if (state_ == State::kShapeValue) {
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kOffsetsValue) {
      state_ = State::kOffsets;
      offsets_ = 0;
      return true;
    }
    return Unexpected("an array");
  }

  bool end_array() {
    if (state_ == State::kOffsets && offsets_ != 2) return Fail("data_offsets needs two numbers");
    state_ = State::kTensor;
    return true;
  }

  bool string(string_t& text) {
    if (state_ == State::kDtypeValue) {
      entry().dtype = std::move(text);
      state_ = State::kTensor;
      return true;
    }
    if (state_ == State::kMetadataText) {
      if (!header.metadata.emplace(metadata_key_, std::move(text)).second) {
        return FailText(absl::StrCat("__metadata__ has ", QuoteName(metadata_key_), " twice"));
      }
      state_ = State::kMetadata;
      return true;
    }
    return Unexpected("a string");
  }

  bool number_unsigned(number_unsigned_t value) {
    if (state_ == State::kShape) {
      if (entry().shape.size() == kMaxDimensions) {
        return Fail(absl::StrCat("has more than ", kMaxDimensions, " dimensions"));
      }
      entry().shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsets) {
      if (offsets_ == 2) return Fail("data_offsets needs two numbers");
      (offsets_++ == 0 ? entry().begin : entry().end) = value;
      return true;
    }
    return Unexpected("a number");
  }

  bool number_integer(number_integer_t) { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) {
    return Unexpected("a number that is not an unsigned 64-bit integer");
  }
  bool boolean(bool) { return Unexpected("a boolean"); }
  bool null() { return Unexpected("null"); }
  bool binary(binary_t&) { return Unexpected("binary data"); }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
    return FailText(absl::StrCat("the header is not valid JSON at byte ", position));
  }

 private:
  enum class State {
    kBegin,
    kTop,
    kTensorValue,
    kTensor,
    kDtypeValue,
    kShapeValue,
    kShape,
    kOffsetsValue,
    kOffsets,
    kMetadataValue,
    kMetadata,
    kMetadataText,
    kEnd,
  };
  enum Seen { kDtypeSeen = 1, kShapeSeen = 2, kOffsetsSeen = 4 };

  HeaderEntry& entry() { return header.entries.back(); }

  bool TopKey(string_t& name) {
    if (name == "__metadata__") {
      if (metadata_seen_) return FailText("__metadata__ appears twice");
      metadata_seen_ = true;
      state_ = State::kMetadataValue;
      return true;
    }
    if (header.entries.size() == kMaxTensors) {
      return FailText(absl::StrCat("more than ", kMaxTensors, " tensors"));
    }
    header.entries.emplace_back().name = std::move(name);
    seen_ = 0;
    state_ = State::kTensorValue;
    return true;
  }

  bool TensorKey(const string_t& field) {
    int bit = 0;
    if (field == "dtype") {
      bit = kDtypeSeen;
      state_ = State::kDtypeValue;
    } else if (field == "shape") {
      bit = kShapeSeen;
      state_ = State::kShapeValue;
    } else if (field == "data_offsets") {
      bit = kOffsetsSeen;
      state_ = State::kOffsetsValue;
    } else {
      return Fail(absl::StrCat("has the unknown field ", QuoteName(field)));
    }
    if (seen_ & bit) return Fail(absl::StrCat("has ", field, " twice"));
    seen_ |= bit;
    return true;
  }

  bool FailText(std::string text) {
    error = std::move(text);
    return false;
  }
  bool Fail(const std::string& problem) {
    return FailText(absl::StrCat("tensor ", QuoteName(entry().name), ": ", problem));
  }
  bool Unexpected(std::string_view what) {
    const std::string problem = absl::StrCat(std::string(what), " where none belongs");
    const bool in_tensor = state_ >= State::kTensorValue && state_ <= State::kOffsets;
    return in_tensor ? Fail(problem) : FailText(absl::StrCat("the header has ", problem));
  }

  State state_ = State::kBegin;
  int seen_ = 0;
  int offsets_ = 0;
  bool metadata_seen_ = false;
  std::string metadata_key_;
};

}  // namespace

std::string QuoteName(std::string_view name) {
  constexpr size_t kShown = 120;
  const bool cut = name.size() > kShown;
  return absl::StrCat("\"", absl::CHexEscape(std::string(name.substr(0, kShown))),
                      cut ? "...\"" : "\"");
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json) {
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &reader)) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: ", reader.error));
  }
  return std::move(reader.header);
}

}  // namespace octavo
