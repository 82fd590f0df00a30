// What octavo-server does: reads its flags, loads the model, serves it, and drains on SIGTERM or
// when no device is left.
#pragma once

#include "kernels/backend.h"

namespace octavo {

// Returns the process's exit status: 0 after SIGTERM or SIGINT, 1 if it could not start or lost its
// last device, 2 for bad flags. `backend` is RuntimeOptions::backend: null, but in tests.
int RunServer(int argc, char** argv, const Backend* backend);

}  // namespace octavo
