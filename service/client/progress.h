// A progress bar for bulk work: a bar that redraws itself on a terminal, a line now and then
// elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace octavo::client {

// "1,234,567".
std::string WithThousands(int64_t number);

struct ProgressState {
  int64_t documents = 0;
  int64_t tokens = 0;
  double fraction = -1;  // of the input done; negative: unknown
};

// Not thread-safe.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  // `terminal`: `out` can redraw a line. Lines elsewhere come every `plain_interval`.
  Progress(std::ostream& out, bool terminal,
           std::chrono::milliseconds plain_interval = std::chrono::seconds(5));

  // Draws if it is time to.
  void Update(const ProgressState& state, Clock::time_point now = Clock::now());
  // Ends the bar, or writes a last line.
  void Finish(const ProgressState& state, Clock::time_point now = Clock::now());
  // Writes a line of its own, above the bar.
  void Note(const std::string& line);

  double seconds(Clock::time_point now = Clock::now()) const;

 private:
  std::string Line(const ProgressState& state, Clock::time_point now) const;
  void Draw(const std::string& line);

  std::ostream& out_;
  const bool terminal_;
  const std::chrono::milliseconds interval_;
  const Clock::time_point start_;
  Clock::time_point drawn_;
  size_t width_ = 0;  // characters of the bar now on the terminal
};

}  // namespace octavo::client
