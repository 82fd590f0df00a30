// The CPU backend as a set of devices that can be broken, "faulty:0", "faulty:1", ...: what a GPU
// does on a sticky error, without a GPU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace octavo::testing {

// One in a process, whole until told otherwise.
const Backend& FaultyBackend();

// From the time its streams have been asked `finishes` more times whether it is well, the
// device has failed and stays so. Thread-safe.
void BreakDevice(int index, int64_t finishes);
// Makes every device whole, with all the memory it asks for; between tests.
void MendDevices();
// No more than `bytes` more are allocated on any device: then RESOURCE_EXHAUSTED.
void LimitMemory(int64_t bytes);
// Bytes allocated by all devices since MendDevices, freed ones included.
int64_t AllocatedBytes();

}  // namespace octavo::testing
