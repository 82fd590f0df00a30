// One model on every backend: a device's vectors against the CPU's, same text, same format.
//
// On random weights of all-MiniLM-L6-v2's shape, and on its real ones where OCTAVO_MODEL names a
// directory of them.
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/checkpoint.h"
#include "runtime/models/models.h"
#include "tests/reference/reference.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::Load;
using ::octavo::testing::LoadedModel;
using ::octavo::testing::RandomSequences;
using ::octavo::testing::WhyNot;

using Sequences = std::vector<std::vector<int32_t>>;

struct BackendCase {
  const char* backend;
  const char* format;
  const char* cpu_format;  // of the vectors it is held against
  double least_cosine;
};

// Real text of every length a query or a passage has.
constexpr const char* kTexts[] = {
    "tensor cores",
    "what is the boiling point of water at altitude",
    "Which enzyme unwinds the double helix before DNA is copied?",
    "Der Zug nach Leipzig f\xC3\xA4hrt heute von Gleis 7.",
    "The committee met on Tuesday, discussed the budget at length, and adjourned without a vote.",
    "Low-bit inference stores weights in a few bits and decodes them in registers, so that a query "
    "of a dozen tokens reads a quarter of the bytes that sixteen bits would ask for; documents in "
    "bulk keep the matrix units busy instead, and there eight bits on both sides double the rate.",
    "A boundary layer on a flat plate begins laminar and becomes turbulent where disturbances grow "
    "faster than viscosity damps them. The transition moves upstream with roughness, with noise in "
    "the free stream and with an adverse pressure gradient, and downstream with suction, which is "
    "why experiments state all four. Heat transfer at the wall rises sharply behind it, and the "
    "drag of the plate with it, although the layer then withstands separation for longer. None of "
    "this depends on the fluid being air: water tunnels show the same at the same Reynolds number.",
};

class BackendsTest : public ::testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    const std::string why = WhyNot(GetParam().backend);
    if (!why.empty()) GTEST_SKIP() << GetParam().backend << ": " << why;
  }

  static void ExpectAgreement(const Checkpoint& checkpoint, const Sequences& sequences) {
    const BackendCase& test = GetParam();
    // Attention in f32: integer scores would be a quantization of the CPU's own.
    const LoadedModel cpu =
        Load(checkpoint, test.cpu_format, 0, "", "cpu", "attention_f32_portable");
    const LoadedModel device = Load(checkpoint, test.format, 0, "", test.backend);
    const auto want = cpu.Embed(sequences, 64);
    const auto got = device.Embed(sequences, 1024);
    for (size_t s = 0; s < sequences.size(); ++s) {
      EXPECT_GE(reference::Cosine(got[s], want[s]), test.least_cosine)
          << "sequence " << s << " of " << sequences[s].size() << " tokens";
    }
  }
};

TEST_P(BackendsTest, AgreesWithTheCpuOnRandomWeights) {
  ModelSpec spec = *NamedShape("minilm");
  spec.vocabulary = 2000;
  const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::Random(spec, 3);
  ExpectAgreement(*checkpoint, RandomSequences(spec, {1, 2, 9, 16, 31, 64, 65, 130, 256}, 4));
}

TEST_P(BackendsTest, AgreesWithTheCpuOnRealText) {
  const char* model = std::getenv("OCTAVO_MODEL");
  if (model == nullptr) GTEST_SKIP() << "OCTAVO_MODEL is not set: needs all-MiniLM-L6-v2";
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  Sequences sequences;
  for (const char* text : kTexts) {
    const auto ids = (*checkpoint)
                         ->tokenizer()
                         ->Encode(text, (*checkpoint)->spec().max_tokens, Truncation::kEnd);
    ASSERT_TRUE(ids.ok()) << ids.status();
    sequences.push_back(ids->ids);
  }
  ExpectAgreement(**checkpoint, sequences);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, BackendsTest,
    ::testing::Values(BackendCase{"cpu", "bf16", "f32", 0.999},
                      BackendCase{"cuda", "f16", "f32", 0.9999},
                      BackendCase{"cuda", "bf16", "bf16", 0.999},
                      BackendCase{"cuda", "a8w8_fp8", "a8w8_fp8", 0.998},
                      // Two of the CPU's own f32 attention rows, which differ in the last bit,
                      // leave int8 models as far apart as 0.9966: a code that rounds the other way
                      // moves the next layer's codes.
                      BackendCase{"cuda", "a8w8_int8", "a8w8_int8", 0.995},
                      BackendCase{"cuda", "a16w4_int4", "a16w4_int4", 0.9999},
                      BackendCase{"cuda", "a16w4_int4_g128z", "a16w4_int4_g128z", 0.9999}),
    [](const auto& info) { return std::string(info.param.backend) + "_" + info.param.format; });

}  // namespace
}  // namespace octavo
