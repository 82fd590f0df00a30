// octavo-server on devices that break when told: SIGUSR1 breaks faulty:0, SIGUSR2 faulty:1. With
// OCTAVO_FAULTY_MEMORY set, devices have no more than so many bytes.
#include <csignal>
#include <cstdlib>

#include "service/server_run.h"
#include "tests/runtime/faulty_backend.h"

int main(int argc, char** argv) {
  using octavo::testing::BreakDevice;
  std::signal(SIGUSR1, [](int) { BreakDevice(0, 0); });
  std::signal(SIGUSR2, [](int) { BreakDevice(1, 0); });
  if (const char* bytes = std::getenv("OCTAVO_FAULTY_MEMORY")) {
    octavo::testing::LimitMemory(std::atoll(bytes));
  }
  return octavo::RunServer(argc, argv, &octavo::testing::FaultyBackend());
}
