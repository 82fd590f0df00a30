// The one Forward on a small random encoder: against float64, and against itself in other batches,
// units and teams.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/forward_pass.h"
#include "tests/reference/reference.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::Load;
using ::octavo::testing::LoadedModel;
using ::octavo::testing::RandomSequences;
using ::octavo::testing::ReferenceForward;
using ::octavo::testing::SmallSpec;
using ::octavo::testing::WhyNot;

// Least cosine to float64 that a format's own quantization leaves on random weights.
struct FormatCase {
  const char* backend;
  const char* format;
  double cosine_to_reference;
  double cosine_in_any_batch;  // 1 means bit-identical
};

class ForwardFormatTest : public ::testing::TestWithParam<FormatCase> {
 protected:
  void SetUp() override {
    const std::string why = WhyNot(GetParam().backend);
    if (!why.empty()) GTEST_SKIP() << GetParam().backend << ": " << why;
  }
  LoadedModel LoadModel(int threads) const {
    return Load(*checkpoint_, GetParam().format, threads, "", GetParam().backend);
  }

  const ModelSpec spec_ = SmallSpec();
  const std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::Random(spec_, 7);
};

TEST_P(ForwardFormatTest, AgreesWithFloat64) {
  const LoadedModel model = LoadModel(2);
  const auto sequences = RandomSequences(spec_, {1, 2, 17, 63, 64, 65, 130, 300}, 1);
  const auto rows = model.Embed(sequences, 48);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<double> want = ReferenceForward(*checkpoint_, sequences[s]);
    EXPECT_GE(reference::Cosine(reference::ToDouble(rows[s]), want), GetParam().cosine_to_reference)
        << "sequence " << s << " of length " << sequences[s].size();
  }
}

TEST_P(ForwardFormatTest, SameAloneAndInAnyBatch) {
  const auto sequences =
      RandomSequences(spec_, {5, 9, 33, 1, 64, 128, 300, 12, 77, 200, 31, 257, 16, 40}, 2);
  const LoadedModel one = LoadModel(1);
  const LoadedModel three = LoadModel(3);
  std::vector<std::vector<float>> alone;
  for (const auto& sequence : sequences) alone.push_back(one.Embed({sequence}, 96)[0]);
  for (const LoadedModel* model : {&one, &three}) {
    for (int64_t unit_rows : {1, 33, 64, 1000}) {
      const auto together = model->Embed(sequences, unit_rows);
      for (size_t s = 0; s < sequences.size(); ++s) {
        if (GetParam().cosine_in_any_batch == 1.0) {
          EXPECT_EQ(together[s], alone[s]) << "sequence " << s << ", units of " << unit_rows;
        } else {
          EXPECT_GE(reference::Cosine(together[s], alone[s]), GetParam().cosine_in_any_batch)
              << "sequence " << s << ", units of " << unit_rows;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ForwardFormatTest,
                         ::testing::Values(FormatCase{"cpu", "f32", 0.999999, 0.9999999},
                                           FormatCase{"cpu", "bf16", 0.9995, 0.9999},
                                           FormatCase{"cpu", "a8w8_int8", 0.998, 1.0},
                                           FormatCase{"cpu", "a16w4_int4_g32z", 0.97, 0.9999},
                                           FormatCase{"cpu", "a16w4_int4_g64", 0.94, 0.9999},
                                           FormatCase{"cuda", "f16", 0.9999, 0.9999},
                                           FormatCase{"cuda", "bf16", 0.9995, 0.9999},
                                           FormatCase{"cuda", "a8w8_fp8", 0.998, 0.999},
                                           FormatCase{"cuda", "a8w8_int8", 0.998, 0.999},
                                           FormatCase{"cuda", "a16w4_int4_g32z", 0.97, 0.9999},
                                           FormatCase{"cuda", "a16w4_int4_g64", 0.94, 0.9999}),
                         [](const auto& info) {
                           return std::string(info.param.backend) + "_" + info.param.format;
                         });

TEST(ForwardTest, DifferentTextsGetDifferentVectors) {
  const ModelSpec spec = SmallSpec();
  const auto checkpoint = Checkpoint::Random(spec, 7);
  const LoadedModel model = Load(*checkpoint, "f32", 1);
  const auto rows = model.Embed(RandomSequences(spec, {20, 20}, 3), 64);
  EXPECT_LT(reference::Cosine(rows[0], rows[1]), 0.9999);
}

TEST(ForwardTest, APassIsReusedForLargerAndSmallerBatches) {
  const ModelSpec spec = SmallSpec();
  const auto checkpoint = Checkpoint::Random(spec, 7);
  const LoadedModel model = Load(*checkpoint, "f32", 2);
  std::unique_ptr<ForwardPass> pass =
      *ForwardPass::Create(*model.forward, Lane::kDocument, *model.stream, 8);
  for (const std::vector<int>& lengths :
       {std::vector<int>{3}, std::vector<int>{300, 300, 10}, std::vector<int>{4}}) {
    const auto sequences = RandomSequences(spec, lengths, 4);
    RaggedBatch batch;
    for (const auto& sequence : sequences) batch.Add(sequence);
    ASSERT_TRUE(pass->Begin(batch, 50).ok());
    while (pass->running()) pass->RunUnit();
    const std::vector<double> want = ReferenceForward(*checkpoint, sequences[0]);
    const std::vector<float> first(pass->pooled(), pass->pooled() + spec.hidden);
    EXPECT_GE(reference::Cosine(reference::ToDouble(first), want), 0.999999);
  }
}

TEST(ForwardTest, UnitsAddUpToTheWholePass) {
  const ModelSpec spec = SmallSpec();
  const auto checkpoint = Checkpoint::Random(spec, 7);
  const LoadedModel model = Load(*checkpoint, "f32", 1);
  RaggedBatch batch;
  for (const auto& sequence : RandomSequences(spec, {100, 30, 1}, 5)) batch.Add(sequence);
  std::unique_ptr<ForwardPass> pass =
      *ForwardPass::Create(*model.forward, Lane::kDocument, *model.stream, 200);
  ASSERT_TRUE(pass->Begin(batch, 40).ok());
  int units = 0;
  while (pass->running()) {
    EXPECT_GT(pass->NextUnitFlops(), 0);
    pass->RunUnit();
    ++units;
  }
  // 131 rows in blocks of at most 40 are 4 units a stage; a stage a layer and one for embedding.
  EXPECT_EQ(units, 4 * 3);
}

// A backend of rows for tests, fastest first.
template <const AttentionKernel*... rows>
Backend WithAttention() {
  Backend backend = **FindBackend("cpu");
  backend.instruction_sets = [] { return 1u; };
  backend.hidden = [](const Format& format) {
    return format.weight.element == Element::kBf16 ? Element::kBf16 : Element::kF16;
  };
  backend.attention_kernels = [] {
    static const AttentionKernel table[] = {*rows...};
    return std::span<const AttentionKernel>(table);
  };
  return backend;
}

constexpr bool Fits32(int head_size) { return head_size == 32; }
constexpr AttentionKernel kElsewhere = {
    .name = "elsewhere", .input = Element::kBf16, .instruction_sets = 2, .fits = Fits32};
constexpr AttentionKernel kShortF16 = {.name = "short_f16",
                                       .input = Element::kF16,
                                       .instruction_sets = 1,
                                       .fits = Fits32,
                                       .for_short_sequences = true};
constexpr AttentionKernel kLongF16 = {
    .name = "long_f16", .input = Element::kF16, .instruction_sets = 1, .fits = Fits32};
constexpr AttentionKernel kAnyBf16 = {
    .name = "any_bf16", .input = Element::kBf16, .instruction_sets = 1, .fits = Fits32};

TEST(ChooseAttentionTest, QueriesTakeTheRowForShortSequences) {
  const Backend backend = WithAttention<&kElsewhere, &kShortF16, &kLongF16, &kAnyBf16>();
  const absl::StatusOr<AttentionRows> rows = ChooseAttention(backend, **FindFormat("f16"), 32, "");
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ((*rows)[Lane::kQuery].name, "short_f16");
  EXPECT_EQ((*rows)[Lane::kDocument].name, "long_f16");
  const absl::StatusOr<AttentionRows> bf16 = ChooseAttention(backend, **FindFormat("bf16"), 32, "");
  ASSERT_TRUE(bf16.ok()) << bf16.status();
  EXPECT_EQ((*bf16)[Lane::kQuery].name, "any_bf16");
  EXPECT_EQ((*bf16)[Lane::kDocument].name, "any_bf16");
  // 4-bit weights ask for 16-bit activations, which are f16 on this backend.
  const absl::StatusOr<AttentionRows> int4 =
      ChooseAttention(backend, **FindFormat("a16w4_int4"), 32, "");
  ASSERT_TRUE(int4.ok()) << int4.status();
  EXPECT_EQ((*int4)[Lane::kQuery].name, "short_f16");
  const absl::StatusOr<AttentionRows> forced =
      ChooseAttention(backend, **FindFormat("f16"), 32, "short_f16");
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_EQ((*forced)[Lane::kDocument].name, "short_f16");
}

TEST(ChooseAttentionTest, SaysWhyEachRowWasRefused) {
  const Backend backend = WithAttention<&kElsewhere, &kShortF16, &kAnyBf16>();
  const absl::Status size = ChooseAttention(backend, **FindFormat("f16"), 48, "").status();
  EXPECT_EQ(size.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(size.message()),
              ::testing::AllOf(::testing::HasSubstr("elsewhere: needs"),
                               ::testing::HasSubstr("short_f16: does not fit head size 48")));
  const Backend only_short = WithAttention<&kShortF16>();
  EXPECT_THAT(
      std::string(ChooseAttention(only_short, **FindFormat("f16"), 32, "").status().message()),
      ::testing::HasSubstr("short_f16: is for short sequences"));
}

}  // namespace
}  // namespace octavo
