// Saved plans: what they hold and where they apply.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/plan.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using Json = nlohmann::json;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

Json Origin(const Backend& backend, const Stream& stream) {
  return {{"version", OCTAVO_VERSION},
          {"backend", std::string(backend.name)},
          {"processor", stream.processor()},
          {"instruction_sets", backend.instruction_set_names(backend.instruction_sets())},
          {"threads", stream.slots()}};
}

}  // namespace

std::string LinearPlanner::ToJson() const {
  Json plan = {{"origin", Origin(backend_, stream_)}, {"plans", Json::array()}};
  for (const auto& [key, choice] : plans_) {
    Json steps = Json::array();
    for (const LinearChoice::Step& step : choice.steps()) {
      Json entry = {{"kernel", std::string(step.kernel->name)}};
      if (step.up_to != kNoLimit) entry["up_to_tokens"] = step.up_to;
      steps.push_back(std::move(entry));
    }
    plan["plans"].push_back({{"format", std::get<0>(key)},
                             {"n", std::get<1>(key)},
                             {"k", std::get<2>(key)},
                             {"steps", std::move(steps)}});
  }
  return plan.dump(2) + "\n";
}

absl::Status LinearPlanner::LoadJson(std::string_view json) {
  const Json plan = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!plan.is_object() || !plan.contains("origin") || !plan["origin"].is_object() ||
      !plan.contains("plans") || !plan["plans"].is_array()) {
    return absl::InvalidArgumentError(
        "not a kernel plan: it needs an object `origin` and a list "
        "`plans`; delete the file to have it made again");
  }
  const Json origin = Origin(backend_, stream_);
  for (const auto& [name, value] : origin.items()) {
    const Json theirs = plan["origin"].value(name, Json());
    if (theirs != value) {
      return absl::FailedPreconditionError(absl::StrCat("the kernel plan was made for ", name, " ",
                                                        theirs.dump(), ", this is ", value.dump(),
                                                        "; delete the file to have it made again"));
    }
  }
  std::map<Key, LinearChoice> loaded;
  std::map<std::string, Element> arithmetics;
  for (const Json& entry : plan["plans"]) {
    const auto bad = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("kernel plan: ", what, " in ", entry.dump()));
    };
    if (!entry.is_object() || !entry.contains("format") || !entry["format"].is_string() ||
        !entry.contains("n") || !entry["n"].is_number_integer() || !entry.contains("k") ||
        !entry["k"].is_number_integer() || !entry.contains("steps") || !entry["steps"].is_array() ||
        entry["steps"].empty()) {
      return bad("format, n, k or steps missing");
    }
    const absl::StatusOr<const Format*> format = FindFormat(entry["format"].get<std::string>());
    if (!format.ok()) return format.status();
    const LinearShape shape = {entry["n"].get<int64_t>(), entry["k"].get<int64_t>()};
    const std::vector<const LinearKernel*> usable =
        UsableKernels(backend_, **format, shape, nullptr);
    LinearChoice choice;
    int64_t previous = 0;
    for (size_t i = 0; i < entry["steps"].size(); ++i) {
      const Json& step = entry["steps"][i];
      if (!step.is_object() || !step.contains("kernel") || !step["kernel"].is_string()) {
        return bad("a step without kernel");
      }
      const std::string row = step["kernel"].get<std::string>();
      const auto kernel = std::find_if(usable.begin(), usable.end(),
                                       [&](const LinearKernel* k) { return k->name == row; });
      if (kernel == usable.end()) return bad(absl::StrCat("unusable kernel ", row));
      const bool last = i + 1 == entry["steps"].size();
      const Json limit = step.value("up_to_tokens", Json());
      if (last != limit.is_null() || (!last && !limit.is_number_integer())) {
        return bad("up_to_tokens must be on every step but the last");
      }
      const int64_t up_to = last ? kNoLimit : limit.get<int64_t>();
      if (up_to <= previous) return bad("thresholds that do not ascend");
      choice.steps_.push_back({up_to, *kernel});
      previous = up_to;
    }
    const std::string name((*format)->name);
    arithmetics.emplace(name, choice.steps().front().kernel->arithmetic);
    loaded[Key(name, shape.n, shape.k)] = std::move(choice);
  }
  loaded_ = std::move(loaded);
  arithmetics_ = std::move(arithmetics);
  return absl::OkStatus();
}

}  // namespace octavo
