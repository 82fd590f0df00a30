// Flags from the command line: abseil's, but an error is returned, so that bad flags exit 2 with
// one clear line.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace octavo {

// Sets ABSL_FLAGs from --name=value, --name value, --name and --noname (booleans). Anything else
// is INVALID_ARGUMENT. `*help` / `*version`: --help / --version was among them; the flags are then
// not all set.
absl::Status ParseCommandLine(int argc, char** argv, bool* help, bool* version);

// Name, default and help of every flag defined in source files whose path contains `folder`.
std::string FlagsHelp(const std::string& folder);

}  // namespace octavo
