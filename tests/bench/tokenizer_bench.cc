#include "tests/bench/tokenizer_bench.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "runtime/sha256.h"
#include "runtime/tokenizer.h"

namespace octavo {
namespace {

using Json = nlohmann::json;
// Long enough that the clock and a pass's first cache misses do not count.
constexpr double kRoundSeconds = 0.3;

// Processor time, so that other programs on the machine weigh on neither side.
double ThreadSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    return std::nullopt;
  }
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

std::vector<std::string> ReadTexts(const std::string& path, size_t max_bytes) {
  std::vector<std::string> texts;
  const bool rows = path.ends_with(".jsonl");
  std::ifstream file(path);
  size_t bytes = 0;
  for (std::string line; bytes < max_bytes && std::getline(file, line);) {
    if (rows) {
      const Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!row.is_object()) continue;
      line.clear();
      for (const char* field : {"title", "text", "question"}) {
        if (!row.contains(field) || !row[field].is_string()) continue;
        if (!line.empty()) line += ' ';
        line += row[field].get_ref<const std::string&>();
      }
    }
    if (line.empty()) continue;
    bytes += line.size();
    texts.push_back(std::move(line));
  }
  return texts;
}

// The whole process stays on the processor it is on, and so do the peers it starts.
void StayOnOneProcessor() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(sched_getcpu(), &set);
  sched_setaffinity(0, sizeof(set), &set);
}

struct Encoded {
  size_t ids = 0;
  std::string sha256;  // of each text's number of ids and its ids, as int32
};

Encoded Describe(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<int32_t> all;
  Encoded result;
  for (const std::string& text : texts) {
    const auto encoded = tokenizer.Encode(text, std::numeric_limits<int>::max(), Truncation::kNone);
    if (!encoded.ok()) continue;  // then the peer's ids differ
    all.push_back(static_cast<int32_t>(encoded->ids.size()));
    all.insert(all.end(), encoded->ids.begin(), encoded->ids.end());
    result.ids += encoded->ids.size();
  }
  result.sha256 = Sha256Hex(
      std::span(reinterpret_cast<const uint8_t*>(all.data()), all.size() * sizeof(int32_t)));
  return result;
}

// Ids a second of processor time, of one round.
double MeasureOurs(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  size_t ids = 0;
  const double begin = ThreadSeconds();
  double taken = 0;
  do {
    for (const std::string& text : texts) {
      ids += tokenizer.Encode(text, std::numeric_limits<int>::max(), Truncation::kNone)->ids.size();
    }
    taken = ThreadSeconds() - begin;
  } while (taken < kRoundSeconds);
  return static_cast<double>(ids) / taken;
}

std::string Quoted(const std::string& argument) {
  std::string quoted = "'";
  for (const char c : argument) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// What the peer printed: one JSON object. Discarded if it failed.
Json RunPeer(const TokenizerBenchOptions& options, const std::string& texts_path) {
  const std::string command = "TOKENIZERS_PARALLELISM=false RAYON_NUM_THREADS=1 " +
                              Quoted(options.python) + " " + Quoted(options.peer) +
                              " --tokenizer " + Quoted(options.tokenizer) + " --texts " +
                              Quoted(texts_path);
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return Json(Json::value_t::discarded);
  std::string output;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  if (pclose(pipe) != 0) return Json(Json::value_t::discarded);
  return Json::parse(output, nullptr, /*allow_exceptions=*/false);
}

// Writes the texts as tokenizer_ids and the peer read them: a uint32 length, then the bytes.
std::string WriteTexts(const std::vector<std::string>& texts) {
  std::string path = "/tmp/octavo_tokenizer_bench_XXXXXX";
  const int descriptor = mkstemp(path.data());
  if (descriptor < 0) return "";
  std::string bytes;
  for (const std::string& text : texts) {
    const auto size = static_cast<uint32_t>(text.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(text);
  }
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t n = write(descriptor, bytes.data() + written, bytes.size() - written);
    if (n <= 0) break;
    written += static_cast<size_t>(n);
  }
  close(descriptor);
  return path;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool BenchFile(const TokenizerBenchOptions& options, const Tokenizer& tokenizer,
               const std::string& path) {
  const std::vector<std::string> texts = ReadTexts(path, options.max_bytes);
  if (texts.empty()) {
    std::fprintf(stderr, "%s: no texts\n", path.c_str());
    return false;
  }
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  const Encoded encoded = Describe(tokenizer, texts);
  const std::string texts_path = options.peer.empty() ? "" : WriteTexts(texts);
  const absl::Cleanup remove = [&] {
    if (!texts_path.empty()) unlink(texts_path.c_str());
  };

  std::vector<double> ours;
  std::map<std::string, std::vector<double>> theirs;
  std::string version;
  for (int round = 0; round < std::max(options.rounds, 1); ++round) {
    ours.push_back(MeasureOurs(tokenizer, texts));
    if (options.peer.empty()) continue;
    const Json peer = RunPeer(options, texts_path);
    if (!peer.is_object() || !peer.contains("ids_per_s") || !peer.contains("sha256")) {
      std::fprintf(stderr, "the peer failed: %s %s\n", options.python.c_str(),
                   options.peer.c_str());
      return false;
    }
    if (peer["sha256"] != encoded.sha256) {
      std::fprintf(stderr, "%s: the peer's ids differ from ours (%s of %zu)\n", path.c_str(),
                   peer.value("ids", Json()).dump().c_str(), encoded.ids);
      return false;
    }
    for (const auto& [way, rate] : peer["ids_per_s"].items()) theirs[way].push_back(rate);
    version = peer.value("version", "");
  }

  Json line = {{"bench", "tokenizer"},  {"texts_file", path},       {"texts", texts.size()},
               {"bytes", bytes},        {"ids", encoded.ids},       {"threads", 1},
               {"rounds", ours.size()}, {"ids_per_s", Median(ours)}};
  double fastest = 0;
  for (const auto& [way, rates] : theirs) {
    line["peer_ids_per_s"][way] = Median(rates);
    fastest = std::max(fastest, Median(rates));
  }
  if (fastest > 0) {
    line["peer"] = "tokenizers " + version;
    line["same_ids"] = true;
    line["ratio"] = Median(ours) / fastest;
  }
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
  return true;
}

}  // namespace

int RunTokenizerBench(const TokenizerBenchOptions& options) {
  const std::optional<std::string> json = ReadFile(options.tokenizer);
  if (!json.has_value()) return 1;
  const auto tokenizer = LoadTokenizer(*json);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s: %s\n", options.tokenizer.c_str(),
                 tokenizer.status().ToString().c_str());
    return 1;
  }
  cpu_set_t before;
  sched_getaffinity(0, sizeof(before), &before);
  StayOnOneProcessor();
  const absl::Cleanup restore = [&] { sched_setaffinity(0, sizeof(before), &before); };
  for (const std::string& path : options.text_files) {
    if (!BenchFile(options, **tokenizer, path)) return 1;
  }
  return 0;
}

}  // namespace octavo
