#include "service/client/vectors.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace octavo::client {
namespace {

using octavo::v1::DataType;

struct TypeName {
  DataType type;
  std::string_view name;
};
constexpr TypeName kTypes[] = {
    {octavo::v1::DATA_TYPE_FLOAT32, "float32"},   {octavo::v1::DATA_TYPE_FLOAT16, "float16"},
    {octavo::v1::DATA_TYPE_BFLOAT16, "bfloat16"}, {octavo::v1::DATA_TYPE_INT8, "int8"},
    {octavo::v1::DATA_TYPE_BINARY, "binary"},
};

uint16_t ReadU16(const char* bytes) {
  return static_cast<uint16_t>(static_cast<uint8_t>(bytes[0]) | static_cast<uint8_t>(bytes[1])
                                                                    << 8);
}

uint32_t ReadU32(const char* bytes) {
  return ReadU16(bytes) | static_cast<uint32_t>(ReadU16(bytes + 2)) << 16;
}

// IEEE 754 binary16.
float DecodeHalf(uint16_t bits) {
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

}  // namespace

absl::StatusOr<DataType> ParseDataType(std::string_view name) {
  for (const TypeName& known : kTypes) {
    if (known.name == name) return known.type;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown output type \"", std::string(name),
                                                 "\": float32, float16, bfloat16, int8 or binary"));
}

std::string DataTypeName(DataType type) {
  for (const TypeName& known : kTypes) {
    if (known.type == type) return std::string(known.name);
  }
  return absl::StrCat("data type ", static_cast<int>(type));
}

absl::StatusOr<octavo::v1::InputType> ParseInputType(std::string_view name) {
  if (name == "query") return octavo::v1::INPUT_TYPE_QUERY;
  if (name == "document") return octavo::v1::INPUT_TYPE_DOCUMENT;
  return absl::InvalidArgumentError(
      absl::StrCat("unknown input type \"", std::string(name), "\": query or document"));
}

int64_t RowBytes(DataType type, int64_t dimensions) {
  switch (type) {
    case octavo::v1::DATA_TYPE_FLOAT32:
      return 4 * dimensions;
    case octavo::v1::DATA_TYPE_FLOAT16:
    case octavo::v1::DATA_TYPE_BFLOAT16:
      return 2 * dimensions;
    case octavo::v1::DATA_TYPE_INT8:
      return dimensions;
    case octavo::v1::DATA_TYPE_BINARY:
      return (dimensions + 7) / 8;
    default:
      return 0;
  }
}

absl::Status CheckVectors(const octavo::v1::Vectors& vectors, int64_t rows) {
  const int64_t row_bytes = RowBytes(vectors.type(), vectors.dimensions());
  const std::string name = DataTypeName(vectors.type());
  if (row_bytes == 0) {
    return absl::InternalError(absl::StrCat("the server answered with ", name, " vectors of ",
                                            vectors.dimensions(), " dimensions"));
  }
  if (static_cast<int64_t>(vectors.data().size()) != rows * row_bytes) {
    return absl::InternalError(absl::StrCat("the server answered ", vectors.data().size(),
                                            " bytes of ", name, " vectors where ", rows, " x ",
                                            row_bytes, " were due"));
  }
  if (vectors.type() == octavo::v1::DATA_TYPE_INT8 && vectors.scales_size() != rows) {
    return absl::InternalError(absl::StrCat("the server answered ", vectors.scales_size(),
                                            " scales for ", rows, " int8 vectors"));
  }
  return absl::OkStatus();
}

std::vector<float> DecodeRow(const octavo::v1::Vectors& vectors, int64_t row) {
  const int64_t dimensions = vectors.dimensions();
  const char* bytes = vectors.data().data() + row * RowBytes(vectors.type(), dimensions);
  std::vector<float> values(dimensions);
  for (int64_t i = 0; i < dimensions; ++i) {
    switch (vectors.type()) {
      case octavo::v1::DATA_TYPE_FLOAT32:
        values[i] = std::bit_cast<float>(ReadU32(bytes + 4 * i));
        break;
      case octavo::v1::DATA_TYPE_FLOAT16:
        values[i] = DecodeHalf(ReadU16(bytes + 2 * i));
        break;
      case octavo::v1::DATA_TYPE_BFLOAT16:
        values[i] = std::bit_cast<float>(static_cast<uint32_t>(ReadU16(bytes + 2 * i)) << 16);
        break;
      case octavo::v1::DATA_TYPE_INT8:
        values[i] = static_cast<int8_t>(bytes[i]) * vectors.scales(static_cast<int>(row));
        break;
      default:  // BINARY
        values[i] = static_cast<uint8_t>(bytes[i / 8]) >> (7 - i % 8) & 1;
        break;
    }
  }
  return values;
}

absl::Status CheckResponse(const octavo::v1::EmbedRequest& request,
                           const octavo::v1::EmbedResponse& response) {
  if (response.results_size() != request.inputs_size()) {
    return absl::InternalError(absl::StrCat("the server answered ", response.results_size(),
                                            " results for ", request.inputs_size(), " inputs"));
  }
  const auto& asked = request.options().output_types();
  const int types = asked.empty() ? 1 : asked.size();
  if (response.vectors_size() != types) {
    return absl::InternalError(absl::StrCat("the server answered ", response.vectors_size(),
                                            " sets of vectors where ", types, " were asked for"));
  }
  for (int i = 0; i < types; ++i) {
    const auto& vectors = response.vectors(i);
    const int expected = asked.empty() ? octavo::v1::DATA_TYPE_FLOAT32 : asked.Get(i);
    if (vectors.type() != expected) {
      return absl::InternalError(
          absl::StrCat("the server answered ", DataTypeName(vectors.type()), " where ",
                       DataTypeName(static_cast<DataType>(expected)), " was asked for"));
    }
    const uint32_t dimensions = request.options().dimensions();
    if (dimensions != 0 && vectors.dimensions() != dimensions) {
      return absl::InternalError(absl::StrCat("the server answered ", vectors.dimensions(),
                                              " dimensions where ", dimensions, " were asked for"));
    }
    if (absl::Status status = CheckVectors(vectors, request.inputs_size()); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo::client
