// octavo-bench: validates, then times; one JSON line a result.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/backend.h"
#include "kernels/cpu/team.h"
#include "tests/bench/attention_bench.h"
#include "tests/bench/crossover_bench.h"
#include "tests/bench/device_linear_bench.h"
#include "tests/bench/forward_bench.h"
#include "tests/bench/forward_profile.h"
#include "tests/bench/lengths_bench.h"
#include "tests/bench/linear_bench.h"
#include "tests/bench/model_bench.h"
#include "tests/bench/peak.h"
#include "tests/bench/profile_bench.h"
#ifdef OCTAVO_SERVICE
#include "tests/bench/serve_bench.h"
#include "tests/bench/served_pass.h"
#endif
#include "tests/bench/tokenizer_bench.h"

// The model and what it is fed.
ABSL_FLAG(std::string, model, "",
          "model, crossover, lengths: model directory; empty: random weights of --shape");
ABSL_FLAG(std::string, shape, "",
          "model, crossover, lengths: minilm, bert-base or bert-large, with random weights; "
          "linear: the layers of one of "
          "them, or NxK");
ABSL_FLAG(std::string, format, "",
          "formats, separated by commas; model: each measured in both lanes; linear: empty is all; "
          "crossover: empty is f32, bf16, a8w8_int8 and a16w4_int4, on a GPU f16, a8w8_fp8, "
          "a8w8_int8 and a16w4_int4");
ABSL_FLAG(std::string, document_format, "a8w8_int8",
          "model, lengths, profile: format of documents");
ABSL_FLAG(std::string, query_format, "a16w4_int4", "model, profile: format of queries");
ABSL_FLAG(int, threads, 0, "CPU threads; 0: every available processor");
ABSL_FLAG(
    std::string, kernel, "",
    "model: force linear rows by name, separated by commas; linear, attention: only this row");
ABSL_FLAG(std::string, kernel_plan, "", "model: file of measured kernel choices");
ABSL_FLAG(std::string, text, "",
          "model, serve: JSON lines {title, text} of documents; empty: SciFact where OCTAVO_DATA "
          "names the evaluation data");
ABSL_FLAG(std::string, queries, "",
          "model, serve: JSON lines {question} or {text}; empty: NQ questions of OCTAVO_DATA");
ABSL_FLAG(int, max_documents, 256, "model: documents taken from --text");
ABSL_FLAG(std::vector<std::string>, tokens, {},
          "model: embeds random ids, so many a document, instead of texts; linear, crossover: only "
          "so many; empty is 1 to 256 and 1 to 1024, on a GPU 32768; several are separated by "
          "commas");
ABSL_FLAG(std::string, device, "cpu", "where to compute or whose rows to list: cpu or cuda:0");
ABSL_FLAG(
    int, batch, 0,
    "model, profile: so many random sequences of --tokens a batch (128 and 512), straight through "
    "Forward; 0: through the whole runtime");
ABSL_FLAG(int64_t, unit_rows, 0,
          "model, profile --batch: rows of a unit of documents; 0: as many as the device takes");
ABSL_FLAG(std::string, lengths, "16-256", "lengths: the shortest and the longest sequence");
ABSL_FLAG(int, rounds, 3,
          "passes or turns, whose medians are printed; linear, lengths: at least 7, tokenizer, "
          "crossover: at least 5");
ABSL_FLAG(std::string, epilogue, "bias,residual,gelu", "linear: which, separated by commas");
ABSL_FLAG(bool, worker, false,
          "model, serve: takes commands on standard input (model_bench.h, serve_bench.h)");

// Tokenizer.
ABSL_FLAG(std::string, tokenizer, "",
          "tokenizer: a tokenizer.json; empty: that of --model, or of OCTAVO_DATA");
ABSL_FLAG(std::string, peer, "",
          "tokenizer: path of peer_tokenizer.py, to be measured beside; empty: ours alone");
ABSL_FLAG(std::string, python, "python3", "tokenizer: what runs the peer");

// Load on a running server.
ABSL_FLAG(std::string, server, "",
          "serve: address of octavo-server, empty: 127.0.0.1:50051; profile: a server of the same "
          "model and formats on as many threads, for the RPC's share");
ABSL_FLAG(std::string, rate, "10%", "serve: queries a second, or a share of the lane's capacity");
ABSL_FLAG(double, seconds, 60, "serve: length of a run");
ABSL_FLAG(int64_t, least_queries, 1000, "serve: a run lasts until so many queries were sent");
ABSL_FLAG(std::string, documents, "compare",
          "serve: off, on (beside a document stream), or compare (both, and the stream alone)");
ABSL_FLAG(bool, find_capacity, false, "serve: only finds the query lane's capacity");
ABSL_FLAG(double, capacity_p99_ms, 50, "serve: p99 that counts as keeping up");

namespace octavo::bench {
namespace {

constexpr char kUsage[] =
    "octavo-bench COMMAND [FLAGS]\n"
    "  peak       what this machine can compute from registers and read from memory\n"
    "  rows       the kernel tables of --device, a line a row; needs no device\n"
    "  linear     every linear row: validated against float64, then timed\n"
    "  attention  every attention row, likewise\n"
    "  tokenizer  ids a second, beside Hugging Face tokenizers\n"
    "  model      a whole encoder: documents for throughput, queries for latency\n"
    "  crossover  every format against the number of tokens in a batch\n"
    "  profile    where a document's and a query's time goes, and the bound of each part\n"
    "  lengths    what mixed lengths cost beside equal ones\n"
    "  serve      a running server: open-loop queries beside a document stream\n";

// As it was called, for results that are kept.
std::string command_line;

// A file of the evaluation data, "" where there is none.
std::string DataFile(const std::string& flag, const char* name) {
  const char* data = std::getenv("OCTAVO_DATA");
  if (!flag.empty() || data == nullptr) return flag;
  return absl::StrCat(data, "/", name);
}
std::string DocumentFile() { return DataFile(absl::GetFlag(FLAGS_text), "scifact/corpus.jsonl"); }
std::string QueryFile() {
  return DataFile(absl::GetFlag(FLAGS_queries), "nq-open/NQ-open.dev.jsonl");
}

int Threads() {
  const int threads = absl::GetFlag(FLAGS_threads);
  return threads > 0 ? threads : cpu::AvailableProcessors();
}

absl::StatusOr<std::vector<int>> Tokens() {
  std::vector<int> counts;
  for (const std::string& text : absl::GetFlag(FLAGS_tokens)) {
    int count = 0;
    if (!absl::SimpleAtoi(text, &count) || count < 1) {
      return absl::InvalidArgumentError("--tokens is a list of numbers above 0, such as 128,512");
    }
    counts.push_back(count);
  }
  return counts;
}

std::vector<std::string> FormatNames() {
  return absl::StrSplit(absl::GetFlag(FLAGS_format), ',', absl::SkipEmpty());
}

bool OnCpu() { return absl::GetFlag(FLAGS_device) == "cpu"; }

absl::Status Peak() {
  if (!OnCpu()) return RunDevicePeakBench(absl::GetFlag(FLAGS_device), &std::cout);
  RunPeakBench(Threads(), &std::cout);
  return absl::OkStatus();
}

// No JSON library here: names of rows need no escaping.
void PrintRow(std::string_view table, std::string_view row) {
  std::cout << "{\"table\":\"" << table << "\",\"row\":\"" << row << "\"}\n";
}

absl::Status Rows() {
  const auto backend = FindBackend(absl::GetFlag(FLAGS_device));
  if (!backend.ok()) return backend.status();
  for (const LinearKernel& kernel : (*backend)->linear_kernels()) PrintRow("linear", kernel.name);
  for (const AttentionKernel& kernel : (*backend)->attention_kernels()) {
    PrintRow("attention", kernel.name);
  }
  return absl::OkStatus();
}

absl::Status Linear() {
  LinearBenchOptions options;
  options.formats = FormatNames();
  options.kernel = absl::GetFlag(FLAGS_kernel);
  const std::string shape = absl::GetFlag(FLAGS_shape);
  absl::StatusOr<std::vector<LinearShape>> shapes =
      FindLinearShapes(shape.empty() ? "minilm" : shape);
  if (!shapes.ok()) return shapes.status();
  options.shapes = *std::move(shapes);
  auto tokens = Tokens();
  if (!tokens.ok()) return tokens.status();
  if (!tokens->empty()) options.tokens.assign(tokens->begin(), tokens->end());
  options.threads = Threads();
  options.rounds = std::max(options.rounds, absl::GetFlag(FLAGS_rounds));
  options.epilogues = absl::StrSplit(absl::GetFlag(FLAGS_epilogue), ',', absl::SkipEmpty());
  options.peak_flops = PeakFlops;
  options.read_rate = ReadRate;
  options.output = &std::cout;
  if (!OnCpu()) return RunDeviceLinearBench(options, absl::GetFlag(FLAGS_device));
  return RunLinearBench(options);
}

absl::Status Attention() {
  AttentionBenchOptions options;
  options.threads = Threads();
  options.kernel = absl::GetFlag(FLAGS_kernel);
  options.peak_flops = PeakFlops;
  options.output = &std::cout;
  return RunAttentionBench(options);
}

absl::Status Tokenizer() {
  TokenizerBenchOptions options;
  options.tokenizer = absl::GetFlag(FLAGS_tokenizer);
  if (options.tokenizer.empty() && !absl::GetFlag(FLAGS_model).empty()) {
    options.tokenizer = absl::StrCat(absl::GetFlag(FLAGS_model), "/tokenizer.json");
  }
  options.tokenizer = DataFile(options.tokenizer, "tokenizers/all-MiniLM-L6-v2/tokenizer.json");
  if (options.tokenizer.empty() || DocumentFile().empty()) {
    return absl::InvalidArgumentError(
        "--tokenizer and --text are needed where OCTAVO_DATA is not set");
  }
  options.text_files = {DocumentFile(), QueryFile()};
  std::erase(options.text_files, "");
  options.rounds = std::max(options.rounds, absl::GetFlag(FLAGS_rounds));
  options.python = absl::GetFlag(FLAGS_python);
  options.peer = absl::GetFlag(FLAGS_peer);
  return RunTokenizerBench(options) == 0
             ? absl::OkStatus()
             : absl::InternalError("the tokenizer bench failed; see above");
}

ModelSource Source() {
  return {.model = absl::GetFlag(FLAGS_model),
          .shape = absl::GetFlag(FLAGS_shape),
          .device = absl::GetFlag(FLAGS_device),
          .threads = absl::GetFlag(FLAGS_threads),
          .kernel = absl::GetFlag(FLAGS_kernel),
          .kernel_plan = absl::GetFlag(FLAGS_kernel_plan)};
}

absl::StatusOr<WorkloadOptions> Load() {
  WorkloadOptions load;
  auto tokens = Tokens();
  if (!tokens.ok()) return tokens.status();
  if (tokens->size() > 1) {
    return absl::InvalidArgumentError("one number of --tokens is embedded, unless --batch is set");
  }
  if (!tokens->empty()) {
    load.tokens = tokens->front();
  } else {
    load.documents = DocumentFile();
    load.queries = QueryFile();
  }
  load.max_documents = absl::GetFlag(FLAGS_max_documents);
  return load;
}

absl::StatusOr<ForwardBenchOptions> Batches() {
  ForwardBenchOptions options;
  options.source = Source();
  options.formats = FormatNames();
  if (options.formats.empty()) {
    options.formats = {absl::GetFlag(FLAGS_document_format), absl::GetFlag(FLAGS_query_format)};
  }
  auto tokens = Tokens();
  if (!tokens.ok()) return tokens.status();
  if (!tokens->empty()) options.tokens = *std::move(tokens);
  options.batch = absl::GetFlag(FLAGS_batch);
  options.unit_rows = absl::GetFlag(FLAGS_unit_rows);
  options.rounds = absl::GetFlag(FLAGS_rounds);
  options.output = &std::cout;
  options.log = &std::cerr;
  return options;
}

absl::Status ModelBatches() {
  const auto options = Batches();
  if (!options.ok()) return options.status();
  return absl::GetFlag(FLAGS_worker) ? RunForwardWorker(*options, std::cin)
                                     : RunForwardBench(*options);
}

absl::Status Model() {
  if (absl::GetFlag(FLAGS_batch) > 0) return ModelBatches();
  ModelBenchOptions options;
  options.source = Source();
  auto load = Load();
  if (!load.ok()) return load.status();
  options.load = *std::move(load);
  for (const std::string& format : FormatNames()) options.formats.push_back({format, format});
  if (options.formats.empty()) {
    options.formats.push_back(
        {absl::GetFlag(FLAGS_document_format), absl::GetFlag(FLAGS_query_format)});
  }
  options.rounds = absl::GetFlag(FLAGS_rounds);
  options.peak_flops = PeakFlops;
  options.output = &std::cout;
  return absl::GetFlag(FLAGS_worker) ? RunModelWorker(options, std::cin) : RunModelBench(options);
}

absl::Status Crossover() {
  CrossoverBenchOptions options;
  options.source = Source();
  const CrossoverDefaults defaults = CrossoverDefaultsOf(OnCpu());
  options.formats = FormatNames().empty() ? defaults.formats : FormatNames();
  options.tokens = defaults.tokens;
  auto tokens = Tokens();
  if (!tokens.ok()) return tokens.status();
  if (!tokens->empty()) options.tokens.assign(tokens->begin(), tokens->end());
  options.rounds = std::max(options.rounds, absl::GetFlag(FLAGS_rounds));
  options.command = command_line;
  options.output = &std::cout;
  return RunCrossoverBench(options);
}

absl::Status Lengths() {
  LengthsBenchOptions options;
  options.source = Source();
  options.document_format = absl::GetFlag(FLAGS_document_format);
  const std::vector<std::string> ends = absl::StrSplit(absl::GetFlag(FLAGS_lengths), '-');
  if (ends.size() != 2 || !absl::SimpleAtoi(ends[0], &options.shortest) ||
      !absl::SimpleAtoi(ends[1], &options.longest)) {
    return absl::InvalidArgumentError("--lengths is two numbers of tokens, such as 16-256");
  }
  options.rounds = std::max(options.rounds, absl::GetFlag(FLAGS_rounds));
  options.output = &std::cout;
  return RunLengthsBench(options);
}

#ifdef OCTAVO_SERVICE
// A round of the profile's texts through --server; connects in the first.
absl::StatusOr<ProfileBenchOptions::Served> ServeTexts(const Workload& load,
                                                       std::unique_ptr<ServedTexts>* texts) {
  if (*texts == nullptr) {
    const auto name = [](const std::string& format) {
      auto found = FindFormat(format);
      return found.ok() ? std::string((*found)->name) : format;
    };
    auto connected = ServedTexts::Connect(
        absl::GetFlag(FLAGS_server), name(absl::GetFlag(FLAGS_document_format)),
        name(absl::GetFlag(FLAGS_query_format)), load.document_texts, load.query_texts);
    if (!connected.ok()) return connected.status();
    *texts = *std::move(connected);
  }
  auto query = (*texts)->QuerySeconds();
  if (!query.ok()) return query.status();
  auto document = (*texts)->DocumentSeconds();
  if (!document.ok()) return document.status();
  return ProfileBenchOptions::Served{*query, *document};
}
#endif

absl::Status Profile() {
  if (absl::GetFlag(FLAGS_batch) > 0) {
    const auto batches = Batches();
    return batches.ok() ? RunForwardProfile(*batches) : batches.status();
  }
  ProfileBenchOptions options;
  options.source = Source();
  auto load = Load();
  if (!load.ok()) return load.status();
  options.load = *std::move(load);
  options.formats = {absl::GetFlag(FLAGS_document_format), absl::GetFlag(FLAGS_query_format)};
  options.rounds = std::max(options.rounds, absl::GetFlag(FLAGS_rounds));
  options.peak_flops = PeakFlops;
  options.read_rate = ReadRate;
  options.output = &std::cout;
  options.table = &std::cerr;
#ifdef OCTAVO_SERVICE
  std::unique_ptr<ServedTexts> texts;
  if (!absl::GetFlag(FLAGS_server).empty()) {
    options.served = [&](const Workload& load) { return ServeTexts(load, &texts); };
  }
#endif
  return RunProfileBench(options);
}

#ifdef OCTAVO_SERVICE
absl::Status Serve() {
  ServeBenchOptions options;
  if (!absl::GetFlag(FLAGS_server).empty()) options.server = absl::GetFlag(FLAGS_server);
  options.rate = absl::GetFlag(FLAGS_rate);
  options.seconds = absl::GetFlag(FLAGS_seconds);
  options.least_queries = absl::GetFlag(FLAGS_least_queries);
  options.documents = absl::GetFlag(FLAGS_documents);
  options.query_texts = QueryFile();
  options.document_texts = DocumentFile();
  options.find_capacity = absl::GetFlag(FLAGS_find_capacity);
  options.capacity_p99_ms = absl::GetFlag(FLAGS_capacity_p99_ms);
  options.output = &std::cout;
  options.log = &std::cerr;
  if (absl::GetFlag(FLAGS_worker)) {
    options.documents = "off";
    return RunServeWorker(options, std::cin);
  }
  return RunServeBench(options);
}
#endif

struct Command {
  std::string_view name;
  absl::Status (*run)();
};
constexpr Command kCommands[] = {
    {"peak", Peak},           {"rows", Rows},           {"linear", Linear},
    {"attention", Attention}, {"tokenizer", Tokenizer}, {"model", Model},
    {"crossover", Crossover}, {"lengths", Lengths},     {"profile", Profile},
#ifdef OCTAVO_SERVICE
    {"serve", Serve},
#endif
};

absl::Status Run(const std::vector<char*>& positional) {
  if (positional.size() == 2) {
    for (const Command& command : kCommands) {
      if (command.name == positional[1]) return command.run();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("one command is needed\n", kUsage));
}

}  // namespace
}  // namespace octavo::bench

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(octavo::bench::kUsage);
  absl::FlagsUsageConfig usage;  // --help shows this program's flags
  usage.contains_help_flags = [](auto file) { return absl::StrContains(file, "octavo_bench"); };
  absl::SetFlagsUsageConfig(usage);
  octavo::bench::command_line = absl::StrJoin(argv, argv + argc, " ");
  const absl::Status status = octavo::bench::Run(absl::ParseCommandLine(argc, argv));
  if (status.ok()) return 0;
  std::cerr << "octavo-bench: " << absl::StatusCodeToString(status.code()) << ": "
            << std::string(status.message()) << std::endl;
  return 1;
}
