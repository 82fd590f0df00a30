// octavo-client's commands end to end, against a fake service in this process.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "service/client/commands.h"
#include "service/client/index_directory.h"
#include "service/client/vectors.h"
#include "tests/service/fake_embedding_service.h"

namespace octavo::client {
namespace {

namespace fs = std::filesystem;
using ::octavo::testing::FakeServer;
using ::octavo::testing::FakeVector;
using ::octavo::testing::kFakeDimensions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    std::string name = ::testing::TempDir() + "/octavo-client-XXXXXX";
    directory_ = mkdtemp(name.data());
    connection_ = std::make_unique<Connection>(ConnectionOptions{.server = server_.address()});
  }
  ~ClientTest() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  std::string Write(const std::string& name, const std::string& content) {
    std::ofstream(Path(name), std::ios::binary) << content;
    return Path(name);
  }

  // `count` documents "doc-0".."doc-N" with distinct texts.
  std::string WriteDocuments(int count) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
      const std::string number = std::to_string(i);
      lines += R"({"_id": "doc-)" + number + R"(", "title": "Title )" + number +
               R"(", "text": "the text of )" + number + "\"}\n";
    }
    return Write("documents.jsonl", lines);
  }

  absl::Status MakeIndex(const std::string& file) {
    IndexOptions options;
    options.input = file;
    options.directory = Path("index");
    options.bulk = bulk_;
    out_.str("");
    log_.str("");
    return IndexCommand(*connection_, options, out_, log_);
  }

  // Every id is there once, in order, with its own vector and text.
  void ExpectIndexHolds(const std::vector<std::string>& ids) {
    auto index = Index::Open(Path("index"));
    ASSERT_TRUE(index.ok()) << index.status();
    ASSERT_EQ((*index)->manifest().count, static_cast<int64_t>(ids.size()));
    const int64_t dimensions = (*index)->manifest().dimensions;
    for (size_t row = 0; row < ids.size(); ++row) {
      auto document = (*index)->document(static_cast<int64_t>(row));
      ASSERT_TRUE(document.ok()) << document.status();
      EXPECT_EQ(document->id, ids[row]);
      const std::vector<float> expected =
          FakeVector(document->EmbeddedText(), static_cast<int>(dimensions));
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(),
                             (*index)->vectors().begin() + static_cast<int64_t>(row) * dimensions))
          << "row " << row;
    }
  }

  static std::vector<std::string> Ids(int count) {
    std::vector<std::string> ids;
    for (int i = 0; i < count; ++i) ids.push_back(absl::StrCat("doc-", i));
    return ids;
  }

  // Nothing but the input file: no index, no remains of one.
  void ExpectNoIndex() {
    for (const auto& entry : fs::directory_iterator(directory_)) {
      EXPECT_EQ(entry.path().filename(), "documents.jsonl");
    }
  }

  std::vector<nlohmann::json> ReadLines(const std::string& name) {
    std::ifstream file(Path(name));
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  FakeServer server_;
  std::string directory_;
  std::unique_ptr<Connection> connection_;
  BulkOptions bulk_{.inputs_per_message = 8,
                    .messages_in_flight = 4,
                    .retry_limit = std::chrono::milliseconds(3000),
                    .first_backoff = std::chrono::milliseconds(5)};
  std::ostringstream out_, log_;
};

TEST_F(ClientTest, IndexesEveryDocumentOnceInOrder) {
  const absl::Status status = MakeIndex(WriteDocuments(500));
  ASSERT_TRUE(status.ok()) << status;
  ExpectIndexHolds(Ids(500));
  auto index = Index::Open(Path("index"));
  EXPECT_EQ((*index)->manifest().model, "fake-model");
  EXPECT_EQ((*index)->manifest().revision, "revision-1");
  EXPECT_EQ((*index)->manifest().document_format, "a8w8_int8");
  EXPECT_EQ((*index)->manifest().dimensions, kFakeDimensions);
  EXPECT_GT((*index)->manifest().tokens, 500 * 10);
  EXPECT_EQ(server_.service.streams, 1);
  EXPECT_EQ(server_.service.messages, 63);  // 62 of 8 and one of 4
  // Several are in flight, and no more than allowed.
  EXPECT_GT(server_.service.most_unanswered, 1);
  EXPECT_LE(server_.service.most_unanswered, 4);
  EXPECT_THAT(log_.str(), HasSubstr("100%  500 documents"));
  EXPECT_THAT(out_.str(), HasSubstr("500 documents"));
  EXPECT_FALSE(fs::exists(Path("index/rejected.jsonl")));
}

TEST_F(ClientTest, KeepsFewerDimensions) {
  bulk_.dimensions = 4;
  ASSERT_TRUE(MakeIndex(WriteDocuments(20)).ok());
  ExpectIndexHolds(Ids(20));
  EXPECT_EQ((*Index::Open(Path("index")))->manifest().dimensions, 4);
}

TEST_F(ClientTest, ListsBadLinesAndIndexesTheRest) {
  server_.service.behaviour.bad_input = "rotten";
  const std::string file = Write("documents.jsonl",
                                 "{\"_id\": \"a\", \"text\": \"first\"}\n"
                                 "not json\n"
                                 "\n"
                                 "{\"_id\": \"b\", \"text\": \"a rotten one\"}\n"
                                 "{\"_id\": \"a\", \"text\": \"again\"}\n"
                                 "{\"text\": \"no id\"}\n"
                                 "{\"id\": 7, \"title\": null, \"text\": \"a number as id\"}\n"
                                 "{\"_id\": \"c\", \"text\": \"bad \xff utf-8\"}\n"
                                 "{\"_id\": \"d\", \"text\": \"  \"}\n"
                                 "{\"_id\": \"e\", \"text\": 3}\n"
                                 "[1]\n"
                                 "{\"_id\": \"f\", \"text\": \"" +
                                     std::string(1001, 'x') +
                                     "\"}\n"
                                     "{\"_id\": \"last\", \"text\": \"no line end\"}");
  const absl::Status status = MakeIndex(file);
  ASSERT_TRUE(status.ok()) << status;
  ExpectIndexHolds({"a", "7", "last"});
  std::vector<std::string> listed;
  for (const nlohmann::json& line : ReadLines("index/rejected.jsonl")) {
    listed.push_back(std::to_string(line["line"].get<int>()) + " " + line["id"].get<std::string>() +
                     " " + line["reason"].get<std::string>());
  }
  EXPECT_THAT(listed, ElementsAre("2  INVALID_LINE", "4 b BAD_INPUT", "5 a DUPLICATE_ID",
                                  "6  INVALID_LINE", "8  INVALID_LINE", "9 d TEXT_EMPTY",
                                  "10 e INVALID_LINE", "11  INVALID_LINE", "12 f TEXT_TOO_LARGE"));
  EXPECT_THAT(log_.str(), HasSubstr("line 5: a: DUPLICATE_ID: the id was first used on line 1"));
  EXPECT_THAT(out_.str(), HasSubstr("9 rejected, listed in"));
}

TEST_F(ClientTest, BlamesTheDocumentThatFailsItsMessage) {
  server_.service.behaviour.poison = "the text of 13";
  const absl::Status status = MakeIndex(WriteDocuments(40));
  ASSERT_TRUE(status.ok()) << status;
  std::vector<std::string> ids = Ids(40);
  ids.erase(ids.begin() + 13);
  ExpectIndexHolds(ids);
  const auto rejected = ReadLines("index/rejected.jsonl");
  ASSERT_EQ(rejected.size(), 1u);
  EXPECT_EQ(rejected[0]["id"], "doc-13");
  EXPECT_EQ(rejected[0]["line"], 14);
  EXPECT_EQ(rejected[0]["reason"], "POISON");
}

TEST_F(ClientTest, SendsSmallerMessagesWhenTheyAreTooLarge) {
  server_.service.behaviour.max_message_inputs = 3;
  ASSERT_TRUE(MakeIndex(WriteDocuments(50)).ok());
  ExpectIndexHolds(Ids(50));
}

TEST_F(ClientTest, KeepsWithinTheLimitsOfTheServer) {
  server_.service.behaviour.max_inputs = 2;
  ASSERT_TRUE(MakeIndex(WriteDocuments(20)).ok());
  EXPECT_EQ(server_.service.messages, 10);
  ExpectIndexHolds(Ids(20));
}

TEST_F(ClientTest, SendsUnansweredMessagesAgain) {
  server_.service.behaviour.unavailable_after = 20;
  const absl::Status status = MakeIndex(WriteDocuments(400));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(server_.service.streams, 2);
  EXPECT_GT(server_.service.messages, 50);
  ExpectIndexHolds(Ids(400));
}

TEST_F(ClientTest, ComesBackToAFullLane) {
  server_.service.behaviour.busy_messages = 10;
  const absl::Status status = MakeIndex(WriteDocuments(100));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(server_.service.streams, 1);
  EXPECT_EQ(server_.service.messages, 23);
  ExpectIndexHolds(Ids(100));
}

TEST_F(ClientTest, GivesUpWhenNothingIsAnsweredForLong) {
  server_.service.behaviour.forever_unavailable_after = 5;
  bulk_.retry_limit = std::chrono::milliseconds(200);
  const absl::Status status = MakeIndex(WriteDocuments(100));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_GT(server_.service.streams, 2);
  ExpectNoIndex();
}

TEST_F(ClientTest, LeavesNothingBehindWhenInterrupted) {
  std::atomic<bool> interrupted{false};
  bulk_.interrupted = &interrupted;
  std::thread user([&] {
    while (server_.service.answers < 5) std::this_thread::yield();
    interrupted = true;
  });
  EXPECT_EQ(MakeIndex(WriteDocuments(20000)).code(), absl::StatusCode::kCancelled);
  user.join();
  EXPECT_LT(server_.service.answers, 2500);
  ExpectNoIndex();
}

TEST_F(ClientTest, StopsWaitingForASilentServerWhenInterrupted) {
  server_.service.behaviour.silent = true;
  std::atomic<bool> interrupted{false};
  bulk_.interrupted = &interrupted;
  std::thread user([&] {
    while (server_.service.messages < 4) std::this_thread::yield();
    interrupted = true;
  });
  EXPECT_EQ(MakeIndex(WriteDocuments(100)).code(), absl::StatusCode::kCancelled);
  user.join();
  ExpectNoIndex();
}

TEST_F(ClientTest, RefusesToMixRevisions) {
  server_.service.behaviour.change_revision_after = 10;
  const absl::Status status = MakeIndex(WriteDocuments(400));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("revision-2"));
  ExpectNoIndex();
}

TEST_F(ClientTest, RefusesToMixFormats) {
  server_.service.behaviour.change_format_after = 10;
  const absl::Status status = MakeIndex(WriteDocuments(400));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("a8w8_int8 to f32"));
  ExpectNoIndex();
}

TEST_F(ClientTest, NoticesAnIdAnsweredTwice) {
  server_.service.behaviour.answer_twice = true;
  EXPECT_EQ(MakeIndex(WriteDocuments(50)).code(), absl::StatusCode::kInternal);
  ExpectNoIndex();
}

TEST_F(ClientTest, NoticesMessagesLeftUnanswered) {
  server_.service.behaviour.end_without_answers = true;
  EXPECT_EQ(MakeIndex(WriteDocuments(50)).code(), absl::StatusCode::kInternal);
  ExpectNoIndex();
}

TEST_F(ClientTest, NoticesValuesThatAreNotFinite) {
  server_.service.behaviour.not_finite = true;
  EXPECT_EQ(MakeIndex(WriteDocuments(5)).code(), absl::StatusCode::kInternal);
  ExpectNoIndex();
}

TEST_F(ClientTest, RefusesAFileWithoutDocuments) {
  EXPECT_EQ(MakeIndex(Write("documents.jsonl", "\n")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeIndex(Path("missing.jsonl")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MakeIndex(directory_).code(), absl::StatusCode::kInvalidArgument);
  ExpectNoIndex();
}

TEST_F(ClientTest, ReplacesAnIndexButNothingElse) {
  ASSERT_TRUE(MakeIndex(WriteDocuments(30)).ok());
  ASSERT_TRUE(MakeIndex(WriteDocuments(10)).ok());
  ExpectIndexHolds(Ids(10));
  // A run that fails leaves the old index.
  server_.service.behaviour.change_format_after = 0;
  bulk_.format = "a8w8_int8";
  EXPECT_FALSE(MakeIndex(WriteDocuments(20)).ok());
  ExpectIndexHolds(Ids(10));
  server_.service.behaviour.change_format_after = -1;

  fs::remove_all(Path("index"));
  fs::create_directory(Path("index"));
  Write("index/diary.txt", "mine");
  EXPECT_EQ(MakeIndex(WriteDocuments(10)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(Path("index/diary.txt")));
}

TEST_F(ClientTest, FindsDocuments) {
  ASSERT_TRUE(MakeIndex(WriteDocuments(100)).ok());
  SearchOptions options{.directory = Path("index"),
                        .queries = {"Title 42 the text of 42", "Title 7 the text of 7"},
                        .top = 3,
                        .json = true};
  std::ostringstream out;
  const absl::Status status = SearchCommand(*connection_, options, out);
  ASSERT_TRUE(status.ok()) << status;
  std::istringstream lines(out.str());
  for (const char* expected : {"doc-42", "doc-7"}) {
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    const nlohmann::json json = nlohmann::json::parse(line);
    ASSERT_EQ(json["hits"].size(), 3u);
    EXPECT_EQ(json["hits"][0]["id"], expected);
    EXPECT_EQ(json["hits"][0]["rank"], 1);
    EXPECT_NEAR(json["hits"][0]["score"].get<double>(), 1, 1e-6);
    EXPECT_GT(json["hits"][0]["score"], json["hits"][1]["score"]);
    EXPECT_EQ(json["tokens"], json["query"].get<std::string>().size());
    EXPECT_EQ(json["lane"], "query");
    EXPECT_GE(json["embed_ms"].get<double>(), 0);
  }

  options.json = false;
  out.str("");
  ASSERT_TRUE(SearchCommand(*connection_, options, out).ok());
  EXPECT_THAT(out.str(), HasSubstr("  1  1.0000  Title 42  |  the text of 42"));
  EXPECT_THAT(out.str(), HasSubstr(" ms, 23 tokens"));
}

TEST_F(ClientTest, SearchRefusesAnotherRevision) {
  ASSERT_TRUE(MakeIndex(WriteDocuments(10)).ok());
  server_.service.behaviour.revision = "revision-2";
  std::ostringstream out;
  const absl::Status status =
      SearchCommand(*connection_, {.directory = Path("index"), .queries = {"text"}}, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("made with fake-model at revision revision-1"));
  EXPECT_THAT(out.str(), IsEmpty());
}

TEST_F(ClientTest, SearchRefusesADamagedIndex) {
  std::ostringstream out;
  const SearchOptions options{.directory = Path("index"), .queries = {"text"}};
  EXPECT_EQ(SearchCommand(*connection_, options, out).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(MakeIndex(WriteDocuments(10)).ok());
  fs::resize_file(Path("index/vectors.f32"), 100);
  EXPECT_EQ(SearchCommand(*connection_, options, out).code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClientTest, EmbedsTexts) {
  std::ostringstream out;
  const absl::Status status = EmbedCommand(
      *connection_,
      {.texts = {"one", "two"}, .input_type = "document", .output_types = "int8,float32,binary"},
      out);
  ASSERT_TRUE(status.ok()) << status;
  std::istringstream lines(out.str());
  for (const std::string text : {"one", "two"}) {
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    const nlohmann::json json = nlohmann::json::parse(line);
    const std::vector<float> expected = FakeVector(text);
    EXPECT_EQ(json["text"], text);
    EXPECT_EQ(json["tokens"], 3);
    EXPECT_EQ(json["float32"].get<std::vector<float>>(), expected);
    ASSERT_EQ(json["int8"]["values"].size(), expected.size());
    int bits = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const float scale = json["int8"]["scale"];
      EXPECT_NEAR(json["int8"]["values"][i].get<int>() * scale, expected[i], scale / 2 + 1e-6);
      bits = bits * 2 + (expected[i] > 0);
    }
    EXPECT_THAT(json["binary"], ElementsAre(bits));
  }
}

TEST_F(ClientTest, EmbedRefusesUnknownOptions) {
  std::ostringstream out;
  for (const EmbedCommandOptions& options :
       {EmbedCommandOptions{}, EmbedCommandOptions{.texts = {"a"}, .input_type = "passage"},
        EmbedCommandOptions{.texts = {"a"}, .output_types = "float64"},
        EmbedCommandOptions{.texts = {"a"}, .truncation = "middle"},
        EmbedCommandOptions{.texts = {"a"}, .normalize = "yes"}}) {
    EXPECT_EQ(EmbedCommand(*connection_, options, out).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ClientTest, ShowsWhatIsServed) {
  std::ostringstream out;
  ASSERT_TRUE(InfoCommand(*connection_, out).ok());
  EXPECT_THAT(out.str(), HasSubstr("model                fake-model\n"));
  EXPECT_THAT(out.str(), HasSubstr("document lane        a8w8_int8 by rtn"));
  EXPECT_THAT(out.str(), HasSubstr("a8w8_int8_portable"));
}

TEST_F(ClientTest, SaysWhichModelIsWrong) {
  const Connection other({.server = server_.address(), .model = "other-model"});
  std::ostringstream out;
  const absl::Status status = InfoCommand(other, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--model=other-model"));
}

TEST(ClientWithoutServerTest, SaysThatNobodyAnswers) {
  const Connection connection(
      {.server = "127.0.0.1:1", .timeout = std::chrono::milliseconds(2000)});
  std::ostringstream out;
  const absl::Status status = InfoCommand(connection, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:1"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--server"));
}

}  // namespace
}  // namespace octavo::client
