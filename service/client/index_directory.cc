#include "service/client/index_directory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace octavo::client {
namespace {

namespace fs = std::filesystem;
static_assert(std::endian::native == std::endian::little, "index files are little-endian");

constexpr int kVersion = 1;
constexpr char kManifest[] = "manifest.json";
constexpr char kVectors[] = "vectors.f32";
constexpr char kDocuments[] = "documents.jsonl";
constexpr char kOffsets[] = "offsets.u64";
constexpr char kRejected[] = "rejected.jsonl";

absl::Status FileError(const std::string& what, const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", path));
}

void SyncDirectory(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

std::string ParentOf(const std::string& directory) {
  const fs::path parent = fs::path(directory).parent_path();
  return parent.empty() ? "." : parent.string();
}

// Puts `from` at `to`, replacing what is there.
absl::Status MoveIntoPlace(const std::string& from, const std::string& to) {
  std::error_code error;
  if (!fs::exists(to, error)) {
    if (rename(from.c_str(), to.c_str()) != 0) return FileError("cannot rename to", to);
  } else {
    // Exchanged in one step where the file system can; the old index goes with the temporary name.
    if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
      const std::string old = absl::StrCat(from, ".old");
      if (rename(to.c_str(), old.c_str()) != 0) return FileError("cannot move aside", to);
      if (rename(from.c_str(), to.c_str()) != 0) {
        const absl::Status status = FileError("cannot rename to", to);
        rename(old.c_str(), to.c_str());
        return status;
      }
      fs::remove_all(old, error);
    }
    fs::remove_all(from, error);
  }
  SyncDirectory(ParentOf(to));
  return absl::OkStatus();
}

absl::StatusOr<IndexManifest> ParseManifest(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("no index: cannot read ", path,
                                            " (octavo-client index FILE --out=DIR makes one)"));
  }
  std::stringstream text;
  text << file.rdbuf();
  const nlohmann::json json = nlohmann::json::parse(text.str(), nullptr, false);
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(path, " is not a JSON object"));
  if (json.value("version", nlohmann::json()) != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not of version ", kVersion, "; make the index again"));
  }
  IndexManifest manifest;
  for (const auto& [name, value] :
       {std::pair{"model", &manifest.model}, std::pair{"revision", &manifest.revision},
        std::pair{"document_format", &manifest.document_format}}) {
    if (!json.contains(name) || !json[name].is_string()) {
      return absl::DataLossError(absl::StrCat(path, ": no text \"", name, "\""));
    }
    *value = json[name].get<std::string>();
  }
  for (const auto& [name, value] :
       {std::pair{"dimensions", &manifest.dimensions}, std::pair{"count", &manifest.count},
        std::pair{"tokens", &manifest.tokens}, std::pair{"rejected", &manifest.rejected}}) {
    if (!json.contains(name) || !json[name].is_number_unsigned() ||
        json[name].get<uint64_t>() > (uint64_t{1} << 40)) {
      return absl::DataLossError(absl::StrCat(path, ": \"", name, "\" is not a count"));
    }
    *value = json[name].get<int64_t>();
  }
  if (manifest.dimensions < 1 || manifest.dimensions > (1 << 20) || manifest.count < 1) {
    return absl::DataLossError(absl::StrCat(path, ": the index is empty"));
  }
  return manifest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<IndexWriter>> IndexWriter::Create(const std::string& directory) {
  if (directory.empty()) return absl::InvalidArgumentError("--out=DIR is missing");
  std::error_code error;
  const fs::path path = fs::absolute(directory, error).lexically_normal();
  std::string place = path.string();
  while (place.size() > 1 && place.back() == '/') place.pop_back();
  if (fs::exists(place, error) &&
      (!fs::is_directory(place, error) ||
       (!fs::is_empty(place, error) && !fs::exists(fs::path(place) / kManifest, error)))) {
    return absl::AlreadyExistsError(
        absl::StrCat(place, " exists and is not an index; it is left alone"));
  }
  fs::create_directories(ParentOf(place), error);
  std::string temporary = absl::StrCat(place, ".partial.XXXXXX");
  if (mkdtemp(temporary.data()) == nullptr) return FileError("cannot create", temporary);
  chmod(temporary.c_str(), 0755);
  std::unique_ptr<IndexWriter> writer(new IndexWriter(place, temporary));
  for (const auto& [name, file] :
       {std::pair{kVectors, &writer->vectors_}, std::pair{kDocuments, &writer->documents_},
        std::pair{kOffsets, &writer->offsets_}}) {
    if (absl::Status status = writer->Open(name, file); !status.ok()) return status;
  }
  if (absl::Status status = writer->WriteOffset(); !status.ok()) return status;
  return writer;
}

IndexWriter::IndexWriter(std::string directory, std::string temporary)
    : directory_(std::move(directory)), temporary_(std::move(temporary)) {}

IndexWriter::~IndexWriter() {
  if (finished_) return;
  std::error_code error;
  fs::remove_all(temporary_, error);
}

absl::Status IndexWriter::Open(const char* name, File* file) {
  const std::string path = absl::StrCat(temporary_, "/", name);
  file->reset(std::fopen(path.c_str(), "wbe"));
  return *file ? absl::OkStatus() : FileError("cannot create", path);
}

absl::Status IndexWriter::Write(FILE* file, const void* bytes, size_t size) {
  if (size == 0 || std::fwrite(bytes, 1, size, file) == size) return absl::OkStatus();
  return FileError("cannot write in", temporary_);
}

absl::Status IndexWriter::WriteOffset() {
  return Write(offsets_.get(), &document_bytes_, sizeof(document_bytes_));
}

absl::Status IndexWriter::Append(const Document& document, std::span<const float> vector) {
  if (dimensions_ == 0) dimensions_ = static_cast<int64_t>(vector.size());
  if (static_cast<int64_t>(vector.size()) != dimensions_ || dimensions_ == 0) {
    return absl::InternalError(
        absl::StrCat("a vector of ", vector.size(), " dimensions after vectors of ", dimensions_));
  }
  const nlohmann::ordered_json json = {
      {"id", document.id}, {"title", document.title}, {"text", document.text}};
  const std::string line = json.dump() + "\n";
  if (absl::Status status = Write(documents_.get(), line.data(), line.size()); !status.ok()) {
    return status;
  }
  document_bytes_ += line.size();
  ++count_;
  if (absl::Status status = WriteOffset(); !status.ok()) return status;
  return Write(vectors_.get(), vector.data(), vector.size_bytes());
}

absl::Status IndexWriter::Reject(const Rejection& rejection) {
  if (!rejections_) {
    if (absl::Status status = Open(kRejected, &rejections_); !status.ok()) return status;
  }
  ++rejected_;
  const nlohmann::ordered_json json = {{"line", rejection.line},
                                       {"id", rejection.id},
                                       {"reason", rejection.reason},
                                       {"message", rejection.message}};
  const std::string line =
      json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  return Write(rejections_.get(), line.data(), line.size());
}

absl::Status IndexWriter::CloseDurably(File* file) {
  if (!*file) return absl::OkStatus();
  const bool written = std::fflush(file->get()) == 0 && fsync(fileno(file->get())) == 0;
  const absl::Status status = written ? absl::OkStatus() : FileError("cannot write in", temporary_);
  file->reset();
  return status;
}

absl::Status IndexWriter::Finish(IndexManifest manifest) {
  if (count_ == 0) {
    return absl::InvalidArgumentError("no document could be indexed; nothing was written");
  }
  for (File* file : {&vectors_, &documents_, &offsets_, &rejections_}) {
    if (absl::Status status = CloseDurably(file); !status.ok()) return status;
  }
  const nlohmann::ordered_json json = {
      {"version", kVersion},           {"model", manifest.model},
      {"revision", manifest.revision}, {"document_format", manifest.document_format},
      {"dimensions", dimensions_},     {"count", count_},
      {"tokens", manifest.tokens},     {"rejected", rejected_},
  };
  const std::string text = json.dump(2) + "\n";
  File file;
  if (absl::Status status = Open(kManifest, &file); !status.ok()) return status;
  if (absl::Status status = Write(file.get(), text.data(), text.size()); !status.ok()) {
    return status;
  }
  if (absl::Status status = CloseDurably(&file); !status.ok()) return status;
  SyncDirectory(temporary_);
  if (absl::Status status = MoveIntoPlace(temporary_, directory_); !status.ok()) return status;
  finished_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Index>> Index::Open(const std::string& directory) {
  if (directory.empty()) return absl::InvalidArgumentError("--index=DIR is missing");
  absl::StatusOr<IndexManifest> manifest = ParseManifest(absl::StrCat(directory, "/", kManifest));
  if (!manifest.ok()) return manifest.status();
  std::unique_ptr<Index> index(new Index);
  index->manifest_ = *manifest;
  const int64_t values = manifest->count * manifest->dimensions;

  auto offsets = index->Map(absl::StrCat(directory, "/", kOffsets), 8 * (manifest->count + 1));
  if (!offsets.ok()) return offsets.status();
  index->offsets_ = {reinterpret_cast<const uint64_t*>(offsets->data()), offsets->size() / 8};
  auto vectors = index->Map(absl::StrCat(directory, "/", kVectors), 4 * values);
  if (!vectors.ok()) return vectors.status();
  index->vectors_ = {reinterpret_cast<const float*>(vectors->data()), vectors->size() / 4};
  auto documents = index->Map(absl::StrCat(directory, "/", kDocuments),
                              static_cast<int64_t>(index->offsets_.back()));
  if (!documents.ok()) return documents.status();
  index->documents_ = *documents;
  return index;
}

Index::~Index() {
  for (const std::span<const char> range : mapped_) {
    munmap(const_cast<char*>(range.data()), range.size());
  }
}

absl::StatusOr<std::span<const char>> Index::Map(const std::string& path, int64_t size) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return FileError("cannot open", path);
  struct stat stat;
  if (fstat(descriptor, &stat) != 0 || stat.st_size != size || size <= 0) {
    close(descriptor);
    return absl::DataLossError(
        absl::StrCat(path, " has not the ", size, " bytes its index needs; make the index again"));
  }
  void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  close(descriptor);
  if (address == MAP_FAILED) return FileError("cannot map", path);
  mapped_.push_back({static_cast<const char*>(address), static_cast<size_t>(size)});
  return mapped_.back();
}

absl::StatusOr<Document> Index::document(int64_t row) const {
  const uint64_t begin = offsets_[row];
  const uint64_t end = offsets_[row + 1];
  const auto damaged = [&] {
    return absl::DataLossError(
        absl::StrCat(kDocuments, ": line ", row + 1, " is damaged; make the index again"));
  };
  if (begin > end || end > documents_.size()) return damaged();
  const nlohmann::json json =
      nlohmann::json::parse(documents_.data() + begin, documents_.data() + end, nullptr, false);
  if (!json.is_object()) return damaged();
  Document document;
  for (const auto& [name, value] :
       {std::pair{"id", &document.id}, std::pair{"title", &document.title},
        std::pair{"text", &document.text}}) {
    if (!json.contains(name) || !json[name].is_string()) return damaged();
    *value = json[name].get<std::string>();
  }
  return document;
}

}  // namespace octavo::client
