// Reading the vectors of a response.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "octavo/v1/embedding.pb.h"

namespace octavo::client {

// "float32", "float16", "bfloat16", "int8", "binary".
absl::StatusOr<octavo::v1::DataType> ParseDataType(std::string_view name);
std::string DataTypeName(octavo::v1::DataType type);
// "query", "document".
absl::StatusOr<octavo::v1::InputType> ParseInputType(std::string_view name);

// Bytes one row takes. 0 for a type this client does not know.
int64_t RowBytes(octavo::v1::DataType type, int64_t dimensions);

// Checks that `vectors` holds `rows` rows of a known type (and scales for INT8): INTERNAL if not.
absl::Status CheckVectors(const octavo::v1::Vectors& vectors, int64_t rows);

// Row `row` as floats; INT8 is multiplied by its scale, BINARY gives 1 and 0. `vectors` must have
// passed CheckVectors with more than `row` rows.
std::vector<float> DecodeRow(const octavo::v1::Vectors& vectors, int64_t row);

// Checks an answer's shape against its request: one result an input, the output types asked in
// their order, well-formed vectors. INTERNAL if the server broke the contract.
absl::Status CheckResponse(const octavo::v1::EmbedRequest& request,
                           const octavo::v1::EmbedResponse& response);

}  // namespace octavo::client
