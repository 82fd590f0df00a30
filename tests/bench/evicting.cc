#include "tests/bench/evicting.h"

#include <utility>

namespace octavo::bench {

absl::StatusOr<Evicting> Evicting::Create(const Backend& backend) {
  Evicting evicting(backend);
  auto read = backend.allocate(kRows * kColumns * 4);
  if (!read.ok()) return read.status();
  auto written = backend.allocate(kRows * kColumns * 2);
  if (!written.ok()) return written.status();
  evicting.read_ = *std::move(read);
  evicting.written_ = *std::move(written);
  return evicting;
}

void Evicting::Touch(Stream& stream) const {
  const EncodeArgs encode = {.rows = kRows,
                             .columns = kColumns,
                             .input = {read_.as<void>(), kColumns, Element::kF32},
                             .output = {written_.as<void>(), kColumns, Element::kBf16}};
  backend_->rows.encode(encode, stream);
}

}  // namespace octavo::bench
