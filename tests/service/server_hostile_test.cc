// Malformed and abandoned calls by the thousand, over real gRPC.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "service/process_metrics.h"
#include "tests/service/memory_tells.h"
#include "tests/service/metric_text.h"
#include "tests/service/server_fixture.h"

namespace octavo {
namespace {

class HostileTest : public ServerTest {
 protected:
  HostileTest() { Serve(); }

  void ExpectStillServing() {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    const grpc::Status status =
        stub_->Embed(&context, TextRequest(v1::INPUT_TYPE_QUERY, {"still here"}), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    const Time limit = Clock::now() + kPatience;
    const auto idle = [&] {
      const MetricText text(context_.metrics().Text());
      for (const char* method : {"Embed", "EmbedStream", "GetInfo"}) {
        if (text.value(absl::StrCat(
                "octavo_requests_in_flight{method=\"octavo.v1.EmbeddingService/", method, "\"}")) !=
            0) {
          return false;
        }
      }
      return context_.streams().size() == 0 &&
             engine_.scheduler().Snapshot(Lane::kQuery, Clock::now()).queue_tokens == 0 &&
             engine_.scheduler().Snapshot(Lane::kDocument, Clock::now()).queue_tokens == 0;
    };
    while (!idle() && Clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    EXPECT_TRUE(idle()) << context_.metrics().Text();
  }
};

// One bad message of each kind, by `kind` and chance. None of them is a good request.
std::string BadMessage(int kind, std::mt19937& random) {
  v1::EmbedRequest request = TextRequest(v1::INPUT_TYPE_DOCUMENT, {"some", "text"});
  std::string bytes;
  switch (kind) {
    case 0: {  // random bytes
      bytes.resize(1 + random() % 300);
      for (char& c : bytes) c = static_cast<char>(random());
      bytes += '\x0F';  // a field of wire type 7: never well-formed
      return bytes;
    }
    case 1:  // not UTF-8
      bytes = request.SerializeAsString();
      bytes[4 + random() % 4] = static_cast<char>(0x80 + random() % 0x40);
      return bytes;
    case 2:  // empty
      return "";
    case 3:  // wrong enums
      request.mutable_options()->set_input_type(static_cast<v1::InputType>(3 + random() % 1000));
      request.mutable_options()->add_output_types(static_cast<v1::DataType>(6 + random() % 1000));
      return request.SerializeAsString();
    case 4:  // cut short
      bytes = request.SerializeAsString();
      return bytes.substr(0, bytes.size() - 1 - random() % 3);
    case 5:  // a length beyond the end
      return absl::StrCat("\x0A", std::string(1, static_cast<char>(0x20 + random() % 0x50)), "x");
    case 6:  // nothing but inputs
      for (int i = 0; i < 3000; ++i) bytes += std::string("\x0A\x00", 2);
      return bytes;
    default:  // absurd numbers
      request.mutable_options()->set_dimensions(static_cast<uint32_t>(random()) | 0x80000000);
      return request.SerializeAsString();
  }
}
constexpr int kKinds = 8;

TEST_F(HostileTest, TenThousandMalformedRequests) {
  std::mt19937 random(20240501);
  std::map<grpc::StatusCode, int> codes;
  int64_t resident = 0;
  for (int i = 0; i < 10000; ++i) {
    if (i == 2000) resident = ResidentBytes();
    grpc::ClientContext context;
    const grpc::Status status =
        RawCall(channel_, kEmbedMethod, BadMessage(i % kKinds, random), &context);
    ASSERT_EQ(status.error_code(), grpc::INVALID_ARGUMENT)
        << "kind " << i % kKinds << ": " << status.error_message();
    ASSERT_NE(ReasonOf(status), "");
  }
  if (kMemoryTells) {
    EXPECT_LT(ResidentBytes() - resident, 8 << 20) << "resident memory grew";
  }
  EXPECT_EQ(engine_.computed_inputs(), 0);
  ExpectStillServing();
}

// In KiB, since it was last reset.
int64_t PeakResident() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::atoll(line.c_str() + 6);
  }
  return 0;
}

TEST_F(HostileTest, HugeRequestsAreRefusedWithoutBeingBuilt) {
  // Accepted by size, of inputs 2 bytes each on the wire: 7.8 million messages of 40 bytes or more.
  std::string dense;
  while (dense.size() < (15u << 20)) dense.append("\x0A\x00\x0A\x00\x0A\x00\x0A\x00", 8);
  const std::string huge(20 << 20, '\0');
  std::ofstream("/proc/self/clear_refs") << "5";
  const int64_t before = PeakResident();
  for (int i = 0; i < 8; ++i) {
    grpc::ClientContext contexts[2];
    EXPECT_EQ(ReasonOf(RawCall(channel_, kEmbedMethod, dense, &contexts[0])), "TOO_MANY_INPUTS");
    EXPECT_EQ(RawCall(channel_, kEmbedMethod, huge, &contexts[1]).error_code(),
              grpc::RESOURCE_EXHAUSTED);
  }
  // Several copies of the bytes are alive in both ends of the connection.
  if (kMemoryTells) {
    EXPECT_LT(PeakResident() - before, 200 << 10);
  }
  ExpectStillServing();
}

TEST_F(HostileTest, ABadSecondMessageNeverEndsInOk) {
  std::mt19937 random(7);
  const std::string good =
      StreamRequest(1, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"good"})).SerializeAsString();
  for (int i = 0; i < 400; ++i) {
    RawStream stream(channel_, kStreamMethod);
    stream.Write(good);
    std::string bad = BadMessage(i % 2, random);  // those that do not parse or are not UTF-8
    if (i % 2 == 1) {
      std::string wrapped = {'\x12', static_cast<char>(bad.size())};
      bad = wrapped + bad;
    }
    stream.Write(bad);
    stream.WritesDone();
    int answers = 0;
    while (stream.Read().has_value()) ++answers;
    const grpc::Status status = stream.Finish();
    ASSERT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << i << ": " << status.error_message();
    ASSERT_EQ(answers, 1) << i;
  }
  ExpectStillServing();
}

TEST_F(HostileTest, AThousandCancelledCallsAndStreams) {
  engine_.SetDelay(std::chrono::microseconds(300));
  std::mt19937 random(11);
  int64_t resident = 0;
  for (int round = 0; round < 10; ++round) {
    if (round == 3) resident = ResidentBytes();
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, seed = random()] {
        std::mt19937 chance(seed);
        for (int i = 0; i < 25; ++i) {
          grpc::ClientContext context;
          std::thread canceller([&, delay = chance() % 1500] {
            std::this_thread::sleep_for(std::chrono::microseconds(delay));
            context.TryCancel();
          });
          if (i % 2 == 0) {
            v1::EmbedResponse response;
            const grpc::Status status =
                stub_->Embed(&context, TextRequest(v1::INPUT_TYPE_QUERY, {"a b c"}), &response);
            EXPECT_TRUE(status.ok() || status.error_code() == grpc::CANCELLED ||
                        status.error_code() == grpc::RESOURCE_EXHAUSTED)
                << status.error_message();
          } else {
            auto stream = stub_->EmbedStream(&context);
            for (uint64_t id = 0; id < 30; ++id) {
              if (!stream->Write(
                      StreamRequest(id, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"d", "e"})))) {
                break;
              }
            }
            v1::EmbedStreamResponse response;
            while (stream->Read(&response)) {
            }
            EXPECT_EQ(stream->Finish().error_code(), grpc::CANCELLED);
          }
          canceller.join();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  ExpectStillServing();
  if (kMemoryTells) {
    EXPECT_LT(ResidentBytes() - resident, 16 << 20) << "resident memory grew";
  }
}

}  // namespace
}  // namespace octavo
