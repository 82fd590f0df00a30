// Bytes of EmbedRequest and EmbedStreamRequest messages through the handlers: parsing, checking,
// tokenizing, computing (by a fake engine) and answering. The first byte chooses a unary call or a
// stream; a stream's messages are prefixed by their length in two bytes, little-endian.
#include <google/protobuf/stubs/common.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/service/fake_calls.h"
#include "tests/service/fake_engine.h"

namespace octavo {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

struct Served {
  Served() : context(Options()) {
#if GOOGLE_PROTOBUF_VERSION < 4022000
    google::protobuf::SetLogHandler(nullptr);
#endif
    context.SetModel(engine.Serve());
  }
  static ServiceOptions Options() {
    ServiceOptions options;
    options.limits.max_inputs = 64;
    options.limits.max_text_bytes = 4096;
    options.limits.max_response_bytes = 8192;
    options.max_stream_tokens = 200;
    return options;
  }
  ServiceContext context;
  FakeEngine engine;
};

void CheckResponse(const v1::EmbedResponse& response, const ServiceOptions& options) {
  Require(static_cast<int64_t>(response.ByteSizeLong()) <= options.limits.max_response_bytes,
          "a response is within its limit");
  Require(response.results_size() > 0, "every response answers an input");
  for (const v1::Vectors& vectors : response.vectors()) {
    Require(vectors.dimensions() > 0 && vectors.dimensions() <= kFakeHidden, "dimensions");
    Require(vectors.data().size() % static_cast<size_t>(response.results_size()) == 0,
            "a row for each input");
  }
}

void RunCall(Served& served, const std::string& bytes) {
  FakeUnaryCall transport;
  std::make_shared<EmbedCall>(&served.context, &transport)->Start(bytes);
  Require(transport.Wait(), "a call is finished");
  Require(transport.finishes() == 1, "a call is finished once");
  if (transport.response().has_value()) {
    CheckResponse(*transport.response(), served.context.options());
    for (const v1::InputResult& result : transport.response()->results()) {
      Require(!result.has_error() && result.tokens() > 0, "Embed is all or nothing");
    }
  } else {
    Require(transport.error().has_value(), "an error says why");
    Require(SerializeDetails(*transport.error()).size() <= kMaxDetailsBytes, "details are short");
  }
}

void RunStream(Served& served, const uint8_t* data, size_t size) {
  FakeStreamCall call(&served.context);
  call.Start();
  while (size >= 2) {
    const size_t length = std::min<size_t>(data[0] | data[1] << 8, size - 2);
    call.SendBytes(std::string(reinterpret_cast<const char*>(data + 2), length));
    data += 2 + length;
    size -= 2 + length;
  }
  call.HalfClose();
  Require(call.WaitForEnd(), "a stream ends");
  Require(!call.violated() && call.ends() == 1, "a stream keeps the rules of its call");
  const size_t answered = call.responses().size();
  if (call.status().has_value()) {
    Require(call.status()->code() == absl::StatusCode::kInvalidArgument, "only bad bytes end it");
    Require(answered + 1 == call.reads(), "what was read before the bad message is answered");
  } else {
    Require(answered == call.reads() && call.unread() == 0, "every message is answered");
  }
  for (const v1::EmbedStreamResponse& response : call.responses()) {
    if (response.has_response()) CheckResponse(response.response(), served.context.options());
  }
}

}  // namespace
}  // namespace octavo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const served = new octavo::Served();
  if (size == 0) return 0;
  if (data[0] % 2 == 0) {
    octavo::RunCall(*served, std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  } else {
    octavo::RunStream(*served, data + 1, size - 1);
  }
  return 0;
}
