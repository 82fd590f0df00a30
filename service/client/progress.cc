#include "service/client/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace octavo::client {
namespace {

constexpr int kBarColumns = 24;

std::string Remaining(double seconds) {
  const int64_t whole = static_cast<int64_t>(std::ceil(seconds));
  if (whole >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
  }
  return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
}

}  // namespace

std::string WithThousands(int64_t number) {
  std::string digits = absl::StrCat(std::abs(number));
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(i, ",");
  return absl::StrCat(number < 0 ? "-" : "", digits);
}

Progress::Progress(std::ostream& out, bool terminal, std::chrono::milliseconds plain_interval)
    : out_(out),
      terminal_(terminal),
      interval_(terminal ? std::chrono::milliseconds(100) : plain_interval),
      start_(Clock::now()),
      drawn_(start_) {}

double Progress::seconds(Clock::time_point now) const {
  return std::max(1e-9, std::chrono::duration<double>(now - start_).count());
}

std::string Progress::Line(const ProgressState& state, Clock::time_point now) const {
  const double elapsed = seconds(now);
  std::string line;
  if (state.fraction >= 0) {
    const double fraction = std::min(1.0, state.fraction);
    if (terminal_) {
      const int filled = static_cast<int>(fraction * kBarColumns);
      absl::StrAppend(&line, "[", std::string(filled, '#'), std::string(kBarColumns - filled, '.'),
                      "] ");
    }
    absl::StrAppend(&line, absl::StrFormat("%3d%%  ", static_cast<int>(fraction * 100)));
  }
  absl::StrAppend(
      &line, WithThousands(state.documents), " documents  ",
      WithThousands(std::llround(static_cast<double>(state.documents) / elapsed)), " documents/s  ",
      WithThousands(std::llround(static_cast<double>(state.tokens) / elapsed)), " tokens/s");
  if (state.fraction > 0 && state.fraction < 1) {
    absl::StrAppend(&line, "  ETA ", Remaining(elapsed / state.fraction * (1 - state.fraction)));
  }
  return line;
}

void Progress::Draw(const std::string& line) {
  if (terminal_) {
    out_ << '\r' << line;
    if (line.size() < width_) out_ << std::string(width_ - line.size(), ' ');
    width_ = line.size();
  } else {
    out_ << line << '\n';
  }
  out_.flush();
}

void Progress::Update(const ProgressState& state, Clock::time_point now) {
  if (now - drawn_ < interval_) return;
  drawn_ = now;
  Draw(Line(state, now));
}

void Progress::Finish(const ProgressState& state, Clock::time_point now) {
  Draw(Line(state, now));
  if (terminal_) out_ << std::endl;
  width_ = 0;
}

void Progress::Note(const std::string& line) {
  if (terminal_ && width_ > 0) out_ << '\r' << std::string(width_, ' ') << '\r';
  width_ = 0;
  out_ << line << std::endl;
}

}  // namespace octavo::client
