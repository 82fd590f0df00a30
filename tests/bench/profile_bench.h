// octavo-bench profile: where a document's and a query's time goes, part by part, with the bound of
// each and how far from it it is.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

struct ProfileBenchOptions {
  ModelSource source;
  WorkloadOptions load;
  eval::LaneFormats formats = {"a8w8_int8", "a16w4_int4"};
  int rounds = 5;
  // As in LinearBenchOptions. Required.
  std::function<double(Element element, int threads)> peak_flops;
  std::function<double(int64_t bytes, int threads)> read_rate;
  // Mean seconds of a query and of a document of `load` through a server that runs the same model
  // and formats, measured once a round. Null: no server, and no line of the RPC.
  struct Served {
    double query_seconds = 0;
    double document_seconds = 0;
  };
  std::function<absl::StatusOr<Served>(const Workload& load)> served;
  std::ostream* output = nullptr;  // required: JSON lines
  std::ostream* table = nullptr;   // the same for people; may be null
};

// Times whole passes of a plain runtime, of one on a TimedBackend, and through the server, in
// turns. A JSON line a part, for documents and for queries: us (of the machine, a text; medians
// over the rounds of a round's mean), share (of the whole), and, where the part has one, bound
// ("arithmetic": its multiply-adds at the measured peak; "reading weights": each call's weight at
// the measured rate of a set as large as the model's; "reading rows": what it reads and writes at
// the rate of a cache) with bound_us and share_of_bound. The parts:
//   tokenizer        of a query; of documents spread over all threads
//   embed (and its norm), query_key_value, attention, attention_output, up, down, norm (and the
//   encoding of what it wrote), encode (of other activations), pool
//   gelu_and_encode  what up takes longer for GELU and the activation encoding, of which `up` is
//                    then free
//   hand_offs        what is left: scheduler, engine, completion, joins and threads that wait
//   rpc              what the server adds: gRPC, protobuf, the client on the same processors
// The line "whole" has the sum, and timing_overhead: the share the stopwatches add. INTERNAL if
// vectors are far from f32's.
absl::Status RunProfileBench(const ProfileBenchOptions& options);

}  // namespace octavo::bench
