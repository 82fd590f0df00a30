// Tokenizes length-prefixed texts from stdin, for tokenizer_parity.py.
//
//   tokenizer_ids TOKENIZER_JSON ordinary
//   tokenizer_ids TOKENIZER_JSON {none,end,start} MAX_TOKENS
//
// Input: a uint32 number of bytes, then the text, repeated. Output: an int32 number of ids (-1: an
// error, and no ids), then the ids as int32, repeated. Little-endian.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/tokenizer.h"

namespace {

std::vector<int32_t> Ids(const octavo::Tokenizer& tokenizer, const std::string& text,
                         const std::string& mode, int max_tokens) {
  std::vector<int32_t> ids = {0};
  if (mode == "ordinary") {
    tokenizer.EncodeOrdinary(text, &ids);
    ids[0] = static_cast<int32_t>(ids.size()) - 1;
    return ids;
  }
  const octavo::Truncation truncation = mode == "end"     ? octavo::Truncation::kEnd
                                        : mode == "start" ? octavo::Truncation::kStart
                                                          : octavo::Truncation::kNone;
  const auto encoded = tokenizer.Encode(text, max_tokens, truncation);
  if (!encoded.ok()) return {-1};
  ids[0] = static_cast<int32_t>(encoded->ids.size());
  ids.insert(ids.end(), encoded->ids.begin(), encoded->ids.end());
  return ids;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s TOKENIZER_JSON ordinary|none|end|start [MAX_TOKENS]\n",
                 argv[0]);
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto tokenizer = octavo::LoadTokenizer(json);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[1], tokenizer.status().ToString().c_str());
    return 1;
  }
  const int max_tokens = argc > 3 ? std::atoi(argv[3]) : 0;
  uint32_t size;
  std::string text;
  while (std::fread(&size, sizeof(size), 1, stdin) == 1) {
    text.resize(size);
    if (std::fread(text.data(), 1, size, stdin) != size) return 1;
    const std::vector<int32_t> ids = Ids(**tokenizer, text, argv[2], max_tokens);
    std::fwrite(ids.data(), sizeof(int32_t), ids.size(), stdout);
  }
  return 0;
}
