// Passes over few tokens, recorded once and replayed for every batch.
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/forward_pass.h"
#include "tests/runtime/fake_device.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::FakeDevice;
using ::octavo::testing::LoadedModel;
using ::octavo::testing::LoadOn;
using ::octavo::testing::RandomSequences;
using ::octavo::testing::SmallSpec;
using ::octavo::testing::WhyNot;

struct RecordingCase {
  const char* backend;
  const char* format;
};

class RecordingTest : public ::testing::TestWithParam<RecordingCase> {
 protected:
  void SetUp() override {
    const std::string name = GetParam().backend;
    if (name == "fake") {
      device_ = std::make_unique<FakeDevice>(/*urgent_streams=*/true);
    } else if (const std::string why = WhyNot(name); !why.empty()) {
      GTEST_SKIP() << name << ": " << why;
    }
    model_ = LoadOn(device_ != nullptr ? device_->backend() : **FindBackend(name), *checkpoint_,
                    GetParam().format, 1);
    recorded_ = *ForwardPass::Create(*model_.forward, Lane::kQuery, *model_.stream, kTokens);
    ASSERT_TRUE(recorded_->Record().ok());
  }
  void TearDown() override {
    recorded_.reset();
    model_ = LoadedModel();
  }

  // Pooled, and the number of units.
  struct Result {
    std::vector<float> rows;
    int units = 0;
  };
  Result Run(ForwardPass& pass, const std::vector<std::vector<int32_t>>& sequences) {
    RaggedBatch batch;
    for (const std::vector<int32_t>& sequence : sequences) batch.Add(sequence);
    Result result;
    EXPECT_TRUE(pass.Begin(batch, kTokens).ok());
    for (; pass.running(); ++result.units) pass.RunUnit();
    EXPECT_TRUE(model_.stream->Finish().ok());
    result.rows.assign(pass.pooled(), pass.pooled() + batch.sequences() * spec_.hidden);
    return result;
  }

  static constexpr int64_t kTokens = 512;
  const ModelSpec spec_ = SmallSpec();
  const std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::Random(spec_, 7);
  std::unique_ptr<FakeDevice> device_;
  LoadedModel model_;
  std::unique_ptr<ForwardPass> recorded_;
};

TEST_P(RecordingTest, OneRecordingServesEveryBatchBitForBit) {
  // What a batch leaves behind must reach no row of the next.
  const int32_t bad = spec_.vocabulary - 1;
  const std::vector<float> nan(spec_.hidden, std::numeric_limits<float>::quiet_NaN());
  model_.stream->Upload(model_.shared->word.as<float>() + bad * spec_.hidden, nan.data(),
                        spec_.hidden * sizeof(float));
  std::unique_ptr<ForwardPass> plain =
      *ForwardPass::Create(*model_.forward, Lane::kQuery, *model_.stream, kTokens);
  uint32_t seed = 0;
  for (const std::vector<int>& lengths : std::vector<std::vector<int>>{{8},
                                                                       {3},
                                                                       {1, 6},
                                                                       {13},
                                                                       {5, 4, 7},
                                                                       {17},
                                                                       {24},
                                                                       {9, 2, 1, 15},
                                                                       {64},
                                                                       {63},
                                                                       {40, 3, 17, 1},
                                                                       {90},
                                                                       {101, 20},
                                                                       {129},
                                                                       {300, 200},
                                                                       {257, 1, 64}}) {
    auto sequences = RandomSequences(spec_, lengths, ++seed);
    int tokens = 0;
    for (std::vector<int32_t>& sequence : sequences) {
      tokens += static_cast<int>(sequence.size());
      for (int32_t& id : sequence) id %= bad;
    }
    Run(*recorded_, {std::vector<int32_t>(std::min(300, tokens), bad)});
    const Result replayed = Run(*recorded_, sequences);
    const Result want = Run(*plain, sequences);
    EXPECT_EQ(replayed.units, 1);
    EXPECT_GT(want.units, 1);
    EXPECT_EQ(replayed.rows, want.rows) << tokens << " tokens in " << lengths.size();
  }
}

TEST_P(RecordingTest, BatchesBeyondTheRecordingsRunAsOthersDo) {
  std::unique_ptr<ForwardPass> plain =
      *ForwardPass::Create(*model_.forward, Lane::kQuery, *model_.stream, kTokens);
  const auto few = RandomSequences(spec_, {10, 3}, 1);
  // More tokens than were recorded, and more sequences; the first also outgrows the workspace.
  for (const std::vector<int>& lengths :
       {std::vector<int>{300, 300, 2}, std::vector<int>(200, 1)}) {
    const auto many = RandomSequences(spec_, lengths, 2);
    EXPECT_EQ(Run(*recorded_, many).rows, Run(*plain, many).rows);
    EXPECT_EQ(Run(*recorded_, few).rows, Run(*plain, few).rows);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, RecordingTest,
    ::testing::Values(RecordingCase{"fake", "f32"}, RecordingCase{"cuda", "f16"},
                      RecordingCase{"cuda", "bf16"}, RecordingCase{"cuda", "a8w8_fp8"},
                      RecordingCase{"cuda", "a8w8_int8"}, RecordingCase{"cuda", "a16w4_int4_g32z"},
                      RecordingCase{"cuda", "a16w4_int4_g64"}),
    [](const auto& info) { return std::string(info.param.backend) + "_" + info.param.format; });

}  // namespace
}  // namespace octavo
