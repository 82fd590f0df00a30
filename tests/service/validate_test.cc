#include "service/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/service/fake_calls.h"
#include "tests/service/fake_engine.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

// A length-delimited field on the wire, shorter than 128 bytes.
std::string Field(int number, const std::string& bytes) {
  std::string field = {static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())};
  return field += bytes;
}

class ValidateTest : public ::testing::Test {
 protected:
  std::optional<RequestError> Check(const v1::EmbedRequest& request) {
    validated_ = Validated();
    return Validate(request, info_, limits_, &validated_);
  }
  // The one violation of a request that must be refused for `reason`.
  void ExpectRefused(const v1::EmbedRequest& request, Reason reason, const std::string& field) {
    const std::optional<RequestError> error = Check(request);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(ReasonName(error->reason), ReasonName(reason));
    ASSERT_EQ(error->violations.size(), 1u);
    EXPECT_EQ(error->violations[0].field, field);
    EXPECT_THAT(error->message, HasSubstr(field));
  }
  void ExpectBadInput(const v1::EmbedRequest& request, size_t index, Reason reason,
                      const std::string& field) {
    const std::optional<RequestError> error = Check(request);
    ASSERT_FALSE(error.has_value()) << error->message;
    ASSERT_EQ(validated_.input_errors.size(), 1u);
    EXPECT_EQ(validated_.input_errors[0].index, index);
    EXPECT_EQ(ReasonName(validated_.input_errors[0].error.reason), ReasonName(reason));
    EXPECT_EQ(validated_.input_errors[0].error.violations[0].field, field);
  }
  v1::EmbedRequest Good() { return TextRequest(v1::INPUT_TYPE_DOCUMENT, {"a b", "c"}); }

  ModelInfo info_ = FakeModelInfo();
  RequestLimits limits_;
  Validated validated_;
};

TEST_F(ValidateTest, DefaultsOfAPlainRequest) {
  ASSERT_FALSE(Check(Good()).has_value());
  const EmbedPlan& plan = validated_.plan;
  EXPECT_EQ(plan.lane, Lane::kDocument);
  EXPECT_THAT(plan.types, ::testing::ElementsAre(v1::DATA_TYPE_FLOAT32));
  EXPECT_EQ(plan.dimensions, kFakeHidden);
  EXPECT_TRUE(plan.normalize);  // as the model's modules say
  EXPECT_EQ(plan.truncation, Truncation::kEnd);
  EXPECT_EQ(plan.prompt, "");
  EXPECT_TRUE(validated_.input_errors.empty());
  info_.spec.normalize = false;
  ASSERT_FALSE(Check(Good()).has_value());
  EXPECT_FALSE(validated_.plan.normalize);
}

TEST_F(ValidateTest, InputTypeDecidesLaneAndPrompt) {
  v1::EmbedRequest request = Good();
  request.mutable_options()->set_input_type(v1::INPUT_TYPE_QUERY);
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_EQ(validated_.plan.lane, Lane::kQuery);
  EXPECT_EQ(validated_.plan.prompt, "query: ");
  request.mutable_options()->set_input_type(v1::INPUT_TYPE_UNSPECIFIED);
  ExpectRefused(request, Reason::kInputTypeInvalid, "options.input_type");
  request.mutable_options()->set_input_type(static_cast<v1::InputType>(77));
  ExpectRefused(request, Reason::kInputTypeInvalid, "options.input_type");
  request.clear_options();
  ExpectRefused(request, Reason::kInputTypeInvalid, "options.input_type");
}

TEST_F(ValidateTest, PromptNames) {
  v1::EmbedRequest request = Good();
  request.mutable_options()->set_prompt_name("code");
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_EQ(validated_.plan.prompt, "code: ");
  request.mutable_options()->set_input_type(v1::INPUT_TYPE_QUERY);
  request.mutable_options()->set_prompt_name("");  // present and empty: none
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_EQ(validated_.plan.prompt, "");
  request.mutable_options()->set_prompt_name("poem");
  ExpectRefused(request, Reason::kPromptUnknown, "options.prompt_name");
  EXPECT_THAT(Check(request)->message, HasSubstr("code, query"));
}

TEST_F(ValidateTest, ModelAndRevision) {
  v1::EmbedRequest request = Good();
  request.set_model("fake");
  request.set_revision("abc123");
  EXPECT_FALSE(Check(request).has_value());
  request.set_revision("other");
  ExpectRefused(request, Reason::kRevisionMismatch, "revision");
  EXPECT_EQ(Check(request)->code(), absl::StatusCode::kFailedPrecondition);
  request.set_model("other");
  ExpectRefused(request, Reason::kModelNotFound, "model");
  EXPECT_EQ(Check(request)->code(), absl::StatusCode::kNotFound);
}

TEST_F(ValidateTest, OutputTypesKeepTheirOrder) {
  v1::EmbedRequest request = Good();
  request.mutable_options()->add_output_types(v1::DATA_TYPE_BINARY);
  request.mutable_options()->add_output_types(v1::DATA_TYPE_FLOAT16);
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_THAT(validated_.plan.types,
              ::testing::ElementsAre(v1::DATA_TYPE_BINARY, v1::DATA_TYPE_FLOAT16));
  request.mutable_options()->add_output_types(v1::DATA_TYPE_BINARY);
  ExpectRefused(request, Reason::kOutputTypeInvalid, "options.output_types[2]");
  request.mutable_options()->set_output_types(2, v1::DATA_TYPE_UNSPECIFIED);
  ExpectRefused(request, Reason::kOutputTypeInvalid, "options.output_types[2]");
  request.mutable_options()->set_output_types(2, static_cast<v1::DataType>(99));
  ExpectRefused(request, Reason::kOutputTypeInvalid, "options.output_types[2]");
  for (int i = 0; i < 100000; ++i) {
    request.mutable_options()->add_output_types(v1::DATA_TYPE_BINARY);
  }
  ExpectRefused(request, Reason::kOutputTypeInvalid, "options.output_types");
}

TEST_F(ValidateTest, Dimensions) {
  v1::EmbedRequest request = Good();
  request.mutable_options()->set_dimensions(5);
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_EQ(validated_.plan.dimensions, 5);
  request.mutable_options()->set_dimensions(kFakeHidden);
  EXPECT_FALSE(Check(request).has_value());
  for (uint32_t more : {kFakeHidden + 1u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    request.mutable_options()->set_dimensions(more);
    ExpectRefused(request, Reason::kDimensionsInvalid, "options.dimensions");
  }
  request.mutable_options()->set_dimensions(12);
  request.mutable_options()->add_output_types(v1::DATA_TYPE_BINARY);
  ExpectRefused(request, Reason::kDimensionsInvalid, "options.dimensions");
  request.mutable_options()->set_dimensions(8);
  EXPECT_FALSE(Check(request).has_value());
}

TEST_F(ValidateTest, TruncationAndNormalize) {
  v1::EmbedRequest request = Good();
  request.mutable_options()->set_truncation(v1::TRUNCATION_NONE);
  request.mutable_options()->set_normalize(false);
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_EQ(validated_.plan.truncation, Truncation::kNone);
  EXPECT_FALSE(validated_.plan.normalize);
  request.mutable_options()->set_truncation(v1::TRUNCATION_START);
  ASSERT_FALSE(Check(request).has_value());
  EXPECT_EQ(validated_.plan.truncation, Truncation::kStart);
  request.mutable_options()->set_truncation(static_cast<v1::Truncation>(9));
  ExpectRefused(request, Reason::kTruncationInvalid, "options.truncation");
}

TEST_F(ValidateTest, EveryViolationIsNamed) {
  v1::EmbedRequest request;
  request.mutable_options()->set_dimensions(999);
  request.mutable_options()->add_output_types(static_cast<v1::DataType>(42));
  const std::optional<RequestError> error = Check(request);
  ASSERT_TRUE(error.has_value());
  std::vector<std::string> fields;
  for (const FieldViolation& violation : error->violations) fields.push_back(violation.field);
  EXPECT_THAT(fields, ::testing::ElementsAre("options.input_type", "inputs",
                                             "options.output_types[0]", "options.dimensions"));
}

TEST_F(ValidateTest, BadInputsAreNamedOneByOne) {
  const auto with = [&](const auto& change) {
    v1::EmbedRequest request = Good();
    change(request.mutable_inputs(1));
    return request;
  };
  ExpectBadInput(with([](v1::Input* input) { input->clear_input(); }), 1, Reason::kInputMissing,
                 "inputs[1]");
  ExpectBadInput(with([](v1::Input* input) { input->set_text(""); }), 1, Reason::kTextEmpty,
                 "inputs[1].text");
  ExpectBadInput(with([](v1::Input* input) { input->mutable_token_ids(); }), 1, Reason::kTextEmpty,
                 "inputs[1].token_ids");
  limits_.max_text_bytes = 3;
  ExpectBadInput(with([](v1::Input* input) { input->set_text("four"); }), 1, Reason::kTextTooLarge,
                 "inputs[1].text");
  ExpectBadInput(with([](v1::Input* input) {
                   for (uint32_t id : {0u, 999u, 1000u, 5u})
                     input->mutable_token_ids()->add_ids(id);
                 }),
                 1, Reason::kTokenIdOutOfRange, "inputs[1].token_ids.ids[2]");
  ExpectBadInput(with([](v1::Input* input) { input->mutable_token_ids()->add_ids(0xFFFFFFFF); }), 1,
                 Reason::kTokenIdOutOfRange, "inputs[1].token_ids.ids[0]");
  // Used as given: not truncated either.
  ExpectBadInput(with([](v1::Input* input) {
                   for (int i = 0; i <= kFakeMaxTokens; ++i) input->mutable_token_ids()->add_ids(5);
                 }),
                 1, Reason::kTooManyTokens, "inputs[1].token_ids");
}

TEST_F(ValidateTest, ResponseLimitNamesHowManyInputsFit) {
  limits_.max_response_bytes = 10000;
  v1::EmbedRequest request = Good();
  while (!Check(request).has_value()) request.add_inputs()->set_text("x");
  ExpectRefused(request, Reason::kResponseTooLarge, "inputs");
  const int fit = request.inputs_size() - 1;
  EXPECT_THAT(Check(request)->message, HasSubstr(absl::StrCat("at most ", fit, " inputs fit")));
  // Half the bytes a row: more fit.
  request.mutable_options()->add_output_types(v1::DATA_TYPE_FLOAT16);
  EXPECT_FALSE(Check(request).has_value());
  request.mutable_options()->clear_output_types();
  request.mutable_options()->set_dimensions(4);
  EXPECT_FALSE(Check(request).has_value());
}

TEST(Parse, RefusesWhatIsNoMessageAndWhatIsNoUtf8) {
  const RequestLimits limits;
  v1::EmbedRequest request;
  const v1::EmbedRequest good = TextRequest(v1::INPUT_TYPE_QUERY, {"caf\xC3\xA9"});
  EXPECT_FALSE(Parse(good.SerializeAsString(), limits, &request).has_value());
  EXPECT_EQ(request.inputs(0).text(), "caf\xC3\xA9");
  EXPECT_FALSE(Parse("", limits, &request).has_value());
  for (const std::string& bytes :
       {std::string("\xFF"), std::string("\x0A\x05xyz"), std::string("\x0B\x0C"),
        std::string("\0\0", 2), std::string("\x0A\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 12),
        good.SerializeAsString() + "\x0A", std::string("\x0C")}) {
    const auto error = Parse(bytes, limits, &request);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code(), absl::StatusCode::kInvalidArgument);
  }
  // {inputs: [{text: <bytes>}]} by hand: protobuf's own check may depend on how it was built.
  for (const std::string& text : {std::string("\xC3"), std::string("\xED\xA0\x80"),
                                  std::string("\xC0\xAF"), std::string("\xF5\x80\x80\x80")}) {
    const std::string bytes = Field(1, Field(1, text));
    const auto error = Parse(bytes, limits, &request);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Parse, TooManyInputsAreCountedNotBuilt) {
  RequestLimits limits;
  limits.max_inputs = 3;
  std::string bytes;
  for (int i = 0; i < 4; ++i) bytes += std::string("\x0A\x00", 2);
  v1::EmbedRequest request;
  auto error = Parse(bytes, limits, &request);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->reason, Reason::kTooManyInputs);
  EXPECT_EQ(request.inputs_size(), 0);
  EXPECT_THAT(error->message, HasSubstr("4 inputs, at most 3"));
  EXPECT_FALSE(Parse(bytes.substr(2), limits, &request).has_value());

  // In a stream message the id survives; a request split in two counts as one.
  v1::EmbedStreamRequest message;
  std::string outer = std::string("\x08\x2A", 2);
  for (const std::string& half : {bytes.substr(0, 4), bytes.substr(4)}) {
    outer += Field(2, half);
  }
  error = Parse(outer, limits, &message);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->reason, Reason::kTooManyInputs);
  EXPECT_EQ(message.id(), 42u);
}

TEST(InputErrors, JoinIntoOne) {
  std::vector<InputError> errors;
  errors.push_back({1, FieldError(Reason::kTextEmpty, "inputs[1].text", "is empty")});
  errors.push_back({4, FieldError(Reason::kInputMissing, "inputs[4]", "missing")});
  const RequestError joined = JoinInputErrors(std::move(errors));
  EXPECT_EQ(joined.reason, Reason::kTextEmpty);
  ASSERT_EQ(joined.violations.size(), 2u);
  EXPECT_EQ(joined.violations[1].field, "inputs[4]");
}

}  // namespace
}  // namespace octavo
