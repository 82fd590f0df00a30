// octavo-bench tokenizer: ids a second on one core, beside the Hugging Face tokenizers library.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace octavo {

struct TokenizerBenchOptions {
  std::string tokenizer;  // a tokenizer.json
  // Each is measured by itself: .jsonl rows with "title", "text" or "question", else a text a line.
  std::vector<std::string> text_files;
  // Only so much of each file.
  size_t max_bytes = size_t{3} << 20;
  // Ours and the peer take turns so many times; medians are reported.
  int rounds = 5;
  // Runs peer_tokenizer.py at `peer`; empty: ours alone.
  std::string python = "python3";
  std::string peer;
};

// Prints one JSON line a file: ids a second of processor time of ours, of each of the peer's ways
// to encode, and the ratio to its fastest. Both run on one core. Returns 0, or 1 with a message on
// stderr if a file cannot be read, the peer fails, or its ids are not ours.
int RunTokenizerBench(const TokenizerBenchOptions& options);

}  // namespace octavo
