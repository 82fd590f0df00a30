#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/client/commands.h"
#include "service/client/index_directory.h"
#include "service/client/progress.h"

namespace octavo::client {
namespace {

constexpr int kShownRejections = 10;

// Keeps messages inside the limits the server states.
void FitLimits(const octavo::v1::GetInfoResponse& info, BulkOptions* bulk) {
  if (info.max_inputs() > 0) {
    bulk->inputs_per_message =
        std::min<int64_t>(bulk->inputs_per_message, static_cast<int64_t>(info.max_inputs()));
  }
  if (info.max_message_bytes() > 0) {
    bulk->message_bytes =
        std::min<int64_t>(bulk->message_bytes, static_cast<int64_t>(info.max_message_bytes() / 2));
  }
  const int64_t dimensions = bulk->dimensions ? bulk->dimensions : info.dimensions();
  if (info.max_response_bytes() > 0 && dimensions > 0) {
    const int64_t row = 4 * dimensions + 128;  // and its result
    const int64_t rows = static_cast<int64_t>(info.max_response_bytes()) / row;
    bulk->inputs_per_message =
        static_cast<int>(std::clamp<int64_t>(rows, 1, bulk->inputs_per_message));
  }
}

// What is known of the run while it goes, and the end of every document.
class IndexRun {
 public:
  IndexRun(const IndexOptions& options, DocumentReader& reader, IndexWriter& writer,
           std::ostream& log)
      : reader_(reader), writer_(writer), progress_(log, options.terminal) {}

  absl::Status Reject(const Rejection& rejection) {
    if (writer_.rejected() < kShownRejections) {
      progress_.Note(absl::StrCat("line ", rejection.line, ": ",
                                  rejection.id.empty() ? "" : rejection.id + ": ", rejection.reason,
                                  ": ", rejection.message));
    } else if (writer_.rejected() == kShownRejections) {
      progress_.Note("further rejected documents are only listed in rejected.jsonl");
    }
    return writer_.Reject(rejection);
  }

  absl::Status Finished(BulkOutcome outcome) {
    ++state_.documents;
    state_.tokens += outcome.tokens;
    if (reader_.total_bytes() > 0) {
      state_.fraction = static_cast<double>(outcome.document.end_offset) /
                        static_cast<double>(reader_.total_bytes());
    }
    const absl::Status status = outcome.rejection
                                    ? Reject(*outcome.rejection)
                                    : writer_.Append(outcome.document, outcome.vector);
    progress_.Update(state_);
    return status;
  }

  void End(bool complete) {
    if (complete && state_.fraction >= 0) state_.fraction = 1;
    progress_.Finish(state_);
  }
  const ProgressState& state() const { return state_; }
  double seconds() const { return progress_.seconds(); }

 private:
  DocumentReader& reader_;
  IndexWriter& writer_;
  Progress progress_;
  ProgressState state_;
};

}  // namespace

absl::Status IndexCommand(const Connection& connection, const IndexOptions& options,
                          std::ostream& out, std::ostream& log) {
  auto reader = DocumentReader::Open(options.input);
  if (!reader.ok()) return reader.status();
  auto info = connection.GetInfo();
  if (!info.ok()) return info.status();
  auto writer = IndexWriter::Create(options.directory);
  if (!writer.ok()) return writer.status();

  BulkOptions bulk = options.bulk;
  bulk.revision = info->revision();
  FitLimits(*info, &bulk);
  const auto max_text_bytes = static_cast<size_t>(info->max_text_bytes());

  // Rejected lines are found by the thread that reads and sends; they are noted in order with
  // everything else by travelling along with the next document, or at the end.
  std::vector<Rejection> bad_lines;
  std::mutex bad_lines_mutex;
  const auto reject = [&](const Rejection& rejection) {
    const std::lock_guard<std::mutex> lock(bad_lines_mutex);
    bad_lines.push_back(rejection);
  };
  const auto next = [&]() -> absl::StatusOr<std::optional<Document>> {
    while (true) {
      auto document = (*reader)->Next(reject);
      if (!document.ok() || !*document) return document;
      const size_t bytes = (*document)->EmbeddedText().size();
      if (max_text_bytes == 0 || bytes <= max_text_bytes) return document;
      reject({(*document)->line, (*document)->id, "TEXT_TOO_LARGE",
              absl::StrCat(bytes, " bytes; the server takes ", max_text_bytes)});
    }
  };
  IndexRun run(options, **reader, **writer, log);
  const auto note_bad_lines = [&](int64_t before_line) -> absl::Status {
    std::vector<Rejection> due;
    {
      const std::lock_guard<std::mutex> lock(bad_lines_mutex);
      const auto split =
          std::find_if(bad_lines.begin(), bad_lines.end(),
                       [&](const Rejection& bad) { return bad.line >= before_line; });
      due.assign(bad_lines.begin(), split);
      bad_lines.erase(bad_lines.begin(), split);
    }
    for (const Rejection& bad : due) {
      if (absl::Status status = run.Reject(bad); !status.ok()) return status;
    }
    return absl::OkStatus();
  };
  const auto finished = [&](BulkOutcome outcome) -> absl::Status {
    if (absl::Status status = note_bad_lines(outcome.document.line); !status.ok()) return status;
    return run.Finished(std::move(outcome));
  };

  auto result = EmbedInBulk(connection, bulk, next, finished);
  run.End(result.ok());
  if (!result.ok()) return result.status();
  if (absl::Status status = note_bad_lines(INT64_MAX); !status.ok()) return status;
  IndexManifest manifest{.model = result->model,
                         .revision = result->revision,
                         .document_format = result->format,
                         .tokens = run.state().tokens};
  if (absl::Status status = (*writer)->Finish(manifest); !status.ok()) return status;
  out << absl::StrFormat(
      "%s documents, %s tokens in %.1f s (%s documents/s, %s tokens/s) -> %s\n"
      "model %s, format %s, revision %s\n",
      WithThousands((*writer)->count()), WithThousands(run.state().tokens), run.seconds(),
      WithThousands(static_cast<int64_t>(static_cast<double>((*writer)->count()) / run.seconds())),
      WithThousands(static_cast<int64_t>(static_cast<double>(run.state().tokens) / run.seconds())),
      options.directory, manifest.model, manifest.document_format, manifest.revision);
  if ((*writer)->rejected() > 0) {
    out << WithThousands((*writer)->rejected()) << " rejected, listed in " << options.directory
        << "/rejected.jsonl\n";
  }
  return absl::OkStatus();
}

}  // namespace octavo::client
