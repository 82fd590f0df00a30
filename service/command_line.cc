#include "service/command_line.h"

#include <algorithm>
#include <vector>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

absl::Status SetFlag(absl::CommandLineFlag* flag, const std::string& name,
                     const std::string& value) {
  std::string error;
  if (flag->ParseFrom(value, &error)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", name, "=", value, ": ", error));
}

}  // namespace

absl::Status ParseCommandLine(int argc, char** argv, bool* help, bool* version) {
  *help = *version = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t dashes = std::min<size_t>(argument.find_first_not_of('-'), 2);
    if (dashes == 0 || argument.size() == dashes) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", argument, "'"));
    }
    const size_t equals = argument.find('=');
    std::string name = argument.substr(dashes, equals - std::min(dashes, equals));
    if (name == "help" || name == "version") {
      (name == "help" ? *help : *version) = true;
      continue;
    }
    absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    absl::Status status;
    if (flag == nullptr && absl::StartsWith(name, "no") && equals == std::string::npos) {
      flag = absl::FindCommandLineFlag(name.substr(2));
      if (flag != nullptr && !flag->IsOfType<bool>()) flag = nullptr;
      if (flag != nullptr) status = SetFlag(flag, name.substr(2), "false");
    } else if (flag != nullptr && equals != std::string::npos) {
      status = SetFlag(flag, name, argument.substr(equals + 1));
    } else if (flag != nullptr && flag->IsOfType<bool>()) {
      status = SetFlag(flag, name, "true");
    } else if (flag != nullptr && i + 1 < argc) {
      status = SetFlag(flag, name, argv[++i]);
    } else if (flag != nullptr) {
      status = absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
    }
    if (flag == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag --", name, "; --help lists the flags"));
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string FlagsHelp(const std::string& folder) {
  std::vector<absl::CommandLineFlag*> flags;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::StrContains(flag->Filename(), folder)) flags.push_back(flag);
  }
  std::sort(flags.begin(), flags.end(),
            [](auto* a, auto* b) { return std::string(a->Name()) < std::string(b->Name()); });
  std::string help;
  for (absl::CommandLineFlag* flag : flags) {
    absl::StrAppend(&help, "  --", flag->Name(), "=", flag->DefaultValue(), "\n      ",
                    flag->Help(), "\n");
  }
  return help;
}

}  // namespace octavo
