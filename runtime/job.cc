#include "runtime/job.h"

namespace octavo {

std::string_view LaneName(Lane lane) { return lane == Lane::kQuery ? "query" : "document"; }

}  // namespace octavo
