// octavo-client: index documents, search them, embed texts, show what a server serves.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "service/client/commands.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "address of octavo-server, HOST:PORT");
ABSL_FLAG(std::string, model, "", "name of the model expected; empty: whatever is served");
ABSL_FLAG(double, timeout_seconds, 30, "limit of one unary call, connecting included");

ABSL_FLAG(std::string, out, "", "index: directory to write");
ABSL_FLAG(int, inputs_per_message, 32, "index: documents in one stream message");
ABSL_FLAG(int, messages_in_flight, 32, "index: messages sent and not yet answered");
ABSL_FLAG(double, retry_seconds, 60,
          "index: how long to try again while the server answers nothing");

ABSL_FLAG(std::string, index, "", "search: directory octavo-client index wrote");
ABSL_FLAG(int, top, 5, "search: hits a query");
ABSL_FLAG(bool, json, false, "search: print one JSON line a query");

ABSL_FLAG(std::string, input_type, "query", "embed: query or document");
ABSL_FLAG(std::string, output_type, "float32",
          "embed: float32, float16, bfloat16, int8, binary, or several separated by commas");
ABSL_FLAG(std::string, truncation, "", "embed: none, end or start; empty: end");
ABSL_FLAG(std::string, normalize, "", "embed: true or false; empty: as the model says");
ABSL_FLAG(std::optional<std::string>, prompt_name, std::nullopt,
          "embed: name of a prompt of the model; unset: its own for the input type");
ABSL_FLAG(uint32_t, dimensions, 0, "embed, index: dimensions to keep; 0: the model's");

namespace octavo::client {
namespace {

constexpr char kUsage[] =
    "octavo-client COMMAND [ARGUMENTS] [--server=HOST:PORT]\n"
    "  index FILE.jsonl --out=DIR    embed documents ({\"_id\", \"title\", \"text\"} a line; - "
    "reads\n"
    "                                standard input) and write an index\n"
    "  search --index=DIR TEXT...    print the nearest documents of each text; without TEXT, of\n"
    "                                each line of standard input\n"
    "  embed TEXT...                 print vectors, a JSON line each; without TEXT as search\n"
    "  info                          print what the server serves\n";

std::vector<std::string> TextsOrStandardInput(const std::vector<char*>& positional) {
  std::vector<std::string> texts(positional.begin() + 2, positional.end());
  if (!texts.empty()) return texts;
  std::string line;
  while (std::getline(std::cin, line)) {
    if (!line.empty()) texts.push_back(line);
  }
  return texts;
}

std::atomic<bool> interrupted{false};

// The first signal ends an index run in order, so that nothing is left behind; the second is the
// system's own.
void EndInOrder() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGHUP, &action, nullptr);
}

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

absl::Status RunIndex(const Connection& connection, const std::vector<char*>& positional) {
  if (positional.size() != 3) {
    return absl::InvalidArgumentError(
        "octavo-client index takes one file: index FILE.jsonl --out=DIR");
  }
  IndexOptions options;
  options.input = positional[2];
  options.directory = absl::GetFlag(FLAGS_out);
  options.terminal = isatty(STDERR_FILENO) != 0;
  options.bulk.inputs_per_message = absl::GetFlag(FLAGS_inputs_per_message);
  options.bulk.messages_in_flight = absl::GetFlag(FLAGS_messages_in_flight);
  options.bulk.dimensions = absl::GetFlag(FLAGS_dimensions);
  options.bulk.retry_limit = Milliseconds(absl::GetFlag(FLAGS_retry_seconds));
  if (options.bulk.inputs_per_message < 1 || options.bulk.messages_in_flight < 1) {
    return absl::InvalidArgumentError(
        "--inputs_per_message and --messages_in_flight must be at least 1");
  }
  EndInOrder();
  options.bulk.interrupted = &interrupted;
  return IndexCommand(connection, options, std::cout, std::cerr);
}

absl::Status RunSearch(const Connection& connection, const std::vector<char*>& positional) {
  SearchOptions options;
  options.directory = absl::GetFlag(FLAGS_index);
  options.queries = TextsOrStandardInput(positional);
  options.top = absl::GetFlag(FLAGS_top);
  options.json = absl::GetFlag(FLAGS_json);
  return SearchCommand(connection, options, std::cout);
}

absl::Status RunEmbed(const Connection& connection, const std::vector<char*>& positional) {
  EmbedCommandOptions options;
  options.texts = TextsOrStandardInput(positional);
  options.input_type = absl::GetFlag(FLAGS_input_type);
  options.output_types = absl::GetFlag(FLAGS_output_type);
  options.dimensions = absl::GetFlag(FLAGS_dimensions);
  options.truncation = absl::GetFlag(FLAGS_truncation);
  options.normalize = absl::GetFlag(FLAGS_normalize);
  if (const auto prompt = absl::GetFlag(FLAGS_prompt_name)) options.prompt_name = *prompt;
  return EmbedCommand(connection, options, std::cout);
}

absl::Status Run(const std::vector<char*>& positional) {
  const std::string_view command = positional.size() > 1 ? positional[1] : "";
  if (command.empty()) return absl::InvalidArgumentError(absl::StrCat("no command\n", kUsage));
  ConnectionOptions options;
  options.server = absl::GetFlag(FLAGS_server);
  options.model = absl::GetFlag(FLAGS_model);
  options.timeout = Milliseconds(absl::GetFlag(FLAGS_timeout_seconds));
  const Connection connection(options);
  if (command == "index") return RunIndex(connection, positional);
  if (command == "search") return RunSearch(connection, positional);
  if (command == "embed") return RunEmbed(connection, positional);
  if (command == "info") return InfoCommand(connection, std::cout);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown command \"", std::string(command), "\"\n", kUsage));
}

}  // namespace
}  // namespace octavo::client

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(octavo::client::kUsage);
  absl::FlagsUsageConfig usage;  // --help shows this program's flags, whatever file they are in
  usage.contains_help_flags = [](auto file) { return absl::StrContains(file, "client/main"); };
  absl::SetFlagsUsageConfig(usage);
  const std::vector<char*> positional = absl::ParseCommandLine(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  const absl::Status status = octavo::client::Run(positional);
  if (status.ok()) return 0;
  std::cerr << "octavo-client: " << absl::StatusCodeToString(status.code()) << ": "
            << std::string(status.message()) << std::endl;
  return 1;
}
