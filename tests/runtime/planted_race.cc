// Two threads add to one integer without a lock. Built only for ThreadSanitizer, whose run must
// fail on this program: a sanitizer that reports nothing here would report nothing anywhere.
#include <cstdio>
#include <thread>

namespace {

int counter = 0;

void Add() {
  for (int i = 0; i < 1000; ++i) ++counter;
}

}  // namespace

int main() {
  std::thread other(Add);
  Add();
  other.join();
  std::printf("%d\n", counter);
  return 0;
}
