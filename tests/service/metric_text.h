// The Prometheus text format, parsed for tests.
#pragma once

#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <sstream>
#include <string>

namespace octavo {

class MetricText {
 public:
  explicit MetricText(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string hash, kind, name, type;
      if (line.rfind("# TYPE ", 0) == 0) {
        words >> hash >> kind >> name >> type;
        types_[name] = type;
      } else if (!line.empty() && line[0] != '#') {
        const size_t space = line.rfind(' ');
        values_[line.substr(0, space)] = std::strtod(line.c_str() + space + 1, nullptr);
      }
    }
  }

  std::string type(const std::string& family) const {
    const auto found = types_.find(family);
    return found == types_.end() ? "absent" : found->second;
  }
  size_t types() const { return types_.size(); }
  bool HasSamples(const std::string& family) const {
    const auto next = values_.lower_bound(family);
    return next != values_.end() && next->first.rfind(family, 0) == 0;
  }
  // NaN if there is no such line. `series` is written as the server writes it.
  double value(const std::string& series) const {
    const auto found = values_.find(series);
    return found == values_.end() ? std::numeric_limits<double>::quiet_NaN() : found->second;
  }

 private:
  std::map<std::string, std::string> types_;
  std::map<std::string, double> values_;
};

}  // namespace octavo
