#include "runtime/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/safetensors_header.h"
#include "tests/runtime/model_directory.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

absl::StatusOr<TensorFile> Parse(const std::string& bytes) {
  return ParseSafetensors(Bytes(bytes));
}

// One F32 tensor "a" of two elements, its header fields as given.
std::string OneTensor(std::string_view fields, size_t data_bytes = 8) {
  return SafetensorsBytes(absl::StrCat(R"({"a":{)", std::string(fields), "}}"),
                          std::string(data_bytes, '\0'));
}

void ExpectRefused(const std::string& bytes, const std::string& words) {
  const absl::StatusOr<TensorFile> file = Parse(bytes);
  ASSERT_FALSE(file.ok()) << "accepted; expected " << words;
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(words));
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string bytes = SafetensorsBytes({{"weight", F32Tensor({2, 3}, {1, 2, 3, 4, 5, 6})},
                                              {"ids", {"I64", {1, 2}, std::string(16, '\1')}},
                                              {"scalar", F32Tensor({}, {7})},
                                              {"empty", F32Tensor({0, 4}, {})}});
  absl::StatusOr<TensorFile> file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors.size(), 4u);
  EXPECT_EQ(file->metadata.at("format"), "pt");
  const Tensor& weight = file->tensors.at("weight");
  EXPECT_EQ(weight.type, TensorType::kF32);
  EXPECT_THAT(weight.shape, ElementsAre(2, 3));
  EXPECT_EQ(weight.elements(), 6);
  std::vector<float> values(6);
  ASSERT_TRUE(ToFloat(weight, values).ok());
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(file->tensors.at("ids").type, TensorType::kI64);
  EXPECT_EQ(file->tensors.at("scalar").elements(), 1);
  EXPECT_EQ(file->tensors.at("empty").elements(), 0);
}

TEST(Safetensors, AcceptsHeaderPaddedWithSpaces) {
  EXPECT_TRUE(Parse(SafetensorsBytes("{}      ", "")).ok());
}

TEST(Safetensors, RefusesBadHeaderLength) {
  ExpectRefused("", "0 bytes cannot hold");
  ExpectRefused("1234567", "7 bytes cannot hold");
  std::string bytes = SafetensorsBytes("{}", "");
  bytes[0] = 3;  // one more than there is
  ExpectRefused(bytes, "truncated");
  bytes = SafetensorsBytes("{}", "");
  std::memset(bytes.data(), 0xff, 8);
  ExpectRefused(bytes, "over the limit");
  const uint64_t over = kMaxHeaderBytes + 1;
  std::memcpy(bytes.data(), &over, 8);
  ExpectRefused(bytes, "over the limit of 16777216");
}

TEST(Safetensors, AcceptsHeaderOfExactlyTheLimit) {
  const std::string header = "{}" + std::string(kMaxHeaderBytes - 2, ' ');
  EXPECT_TRUE(Parse(SafetensorsBytes(header, "")).ok());
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string whole =
      SafetensorsBytes({{"a", F32Tensor({2, 2}, {1, 2, 3, 4})}, {"b", F32Tensor({1}, {5})}});
  ASSERT_TRUE(Parse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    const absl::StatusOr<TensorFile> file = Parse(whole.substr(0, size));
    EXPECT_FALSE(file.ok()) << size;
  }
}

TEST(Safetensors, SurvivesEveryChangedByte) {
  const std::string whole =
      SafetensorsBytes({{"a", F32Tensor({2, 2}, {1, 2, 3, 4})}, {"b", F32Tensor({1}, {5})}});
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char value : {'\0', '"', '{', '}', '[', ']', '9', '-', '\\', '\xff'}) {
      std::string bytes = whole;
      bytes[i] = value;
      const absl::StatusOr<TensorFile> file = Parse(bytes);
      if (!file.ok()) continue;
      for (const auto& [name, tensor] : file->tensors) {
        std::vector<float> values(tensor.elements());
        (void)ToFloat(tensor, values);  // must stay within the buffer
      }
    }
  }
}

TEST(Safetensors, RefusesHeadersThatAreNotTheSchema) {
  for (const char* header : {"", "3", "null", "[]", "\"a\"", "{", "{}}", "{} {}", "{\"a\"}",
                             "{\"a\":1}", "{\"a\":null}", "{\"a\":[]}", "{\"a\":\"b\"}"}) {
    EXPECT_FALSE(Parse(SafetensorsBytes(header, "")).ok()) << header;
  }
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[2])"), "needs dtype, shape and data_offsets");
  ExpectRefused(OneTensor(R"("dtype":"F32","data_offsets":[0,8])"), "needs dtype");
  ExpectRefused(OneTensor(R"("shape":[2],"data_offsets":[0,8])"), "needs dtype");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"),
                "unknown field \"x\"");
  ExpectRefused(OneTensor(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
                "dtype twice");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "two numbers");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), "two numbers");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), "an array");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":{},"data_offsets":[0,8])"), "an object");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
                "a negative number");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
                "not an unsigned 64-bit integer");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])"),
                "not an unsigned 64-bit integer");
  ExpectRefused(OneTensor(R"("dtype":4,"shape":[2],"data_offsets":[0,8])"), "a number");
  ExpectRefused(SafetensorsBytes(R"({"__metadata__":{"a":1}})", ""), "a number");
  ExpectRefused(SafetensorsBytes(R"({"__metadata__":{"a":"b","a":"c"}})", ""), "twice");
  ExpectRefused(SafetensorsBytes(R"({"__metadata__":{},"__metadata__":{}})", ""), "twice");
  ExpectRefused(SafetensorsBytes("{\"a\xff\":1}", ""), "not valid JSON");
}

TEST(Safetensors, DeepNestingIsRefusedWithoutRecursion) {
  const std::string deep = std::string(4'000'000, '[');
  EXPECT_FALSE(Parse(SafetensorsBytes(deep, "")).ok());
  EXPECT_FALSE(Parse(SafetensorsBytes("{\"a\":" + deep, "")).ok());
  std::string objects;
  for (int i = 0; i < 500'000; ++i) objects += "{\"a\":";
  EXPECT_FALSE(Parse(SafetensorsBytes(objects, "")).ok());
}

TEST(Safetensors, NamesUnknownDtype) {
  for (const char* dtype : {"F64", "F8_E4M3", "BOOL", "f32", ""}) {
    ExpectRefused(
        OneTensor(absl::StrCat(R"("dtype":")", dtype, R"(","shape":[2],"data_offsets":[0,8])")),
        absl::StrCat("tensor \"a\": dtype \"", dtype, "\" is not supported"));
  }
}

TEST(Safetensors, ComparesShapeWithBytes) {
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
                "needs 12 bytes, data_offsets hold 8");
  ExpectRefused(OneTensor(R"("dtype":"F16","shape":[2],"data_offsets":[0,8])"), "needs 4 bytes");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[],"data_offsets":[0,8])"), "needs 4 bytes");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[0],"data_offsets":[0,8])"), "needs 0 bytes");
  // 2^62 * 4 = 2^64, which wraps to 0; and 2^32 * 2^32 * 4.
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])", 0),
                "overflows");
  ExpectRefused(
      OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0),
      "overflows");
  ExpectRefused(OneTensor(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8])"),
                "overflows");
  // A zero must not hide an overflow before it.
  ExpectRefused(
      OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])", 0),
      "overflows");
}

TEST(Safetensors, ChecksBounds) {
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"), "outside the 8");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[8,4])"), "outside");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615])"),
                "outside");
  ExpectRefused(OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0])"),
                "outside");
}

TEST(Safetensors, RefusesOverlapsHolesAndTails) {
  const auto two = [](const char* first, const char* second, size_t bytes) {
    return SafetensorsBytes(
        absl::StrCat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", first,
                     R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", second, "}}"),
        std::string(bytes, '\0'));
  };
  EXPECT_TRUE(Parse(two("[0,4]", "[4,8]", 8)).ok());
  EXPECT_TRUE(Parse(two("[4,8]", "[0,4]", 8)).ok());
  ExpectRefused(two("[0,4]", "[3,7]", 8), "tensor \"b\": overlaps tensor \"a\"");
  ExpectRefused(two("[0,4]", "[0,4]", 4), "overlaps");
  ExpectRefused(two("[0,4]", "[5,9]", 9), "a hole of 1 bytes");
  ExpectRefused(two("[1,5]", "[5,9]", 9), "a hole of 1 bytes");
  ExpectRefused(two("[0,4]", "[4,8]", 11), "3 bytes after the last tensor");
  ExpectRefused(SafetensorsBytes("{}", "x"), "1 bytes after the last tensor");
}

TEST(Safetensors, RefusesDuplicateNames) {
  ExpectRefused(SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                 R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                 "xy"),
                "tensor \"a\": the name appears twice");
}

TEST(Safetensors, LimitsCounts) {
  const auto many = [](size_t count) {
    std::string header = "{";
    for (size_t i = 0; i < count; ++i) {
      absl::StrAppend(&header, i == 0 ? "" : ",", "\"", i,
                      R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
    }
    return SafetensorsBytes(header + "}", "");
  };
  absl::StatusOr<TensorFile> most = Parse(many(kMaxTensors));
  ASSERT_TRUE(most.ok()) << most.status();
  EXPECT_EQ(most->tensors.size(), kMaxTensors);
  ExpectRefused(many(kMaxTensors + 1), "more than 100000 tensors");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"),
                "more than 8 dimensions");
  EXPECT_TRUE(
      Parse(OneTensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,2],"data_offsets":[0,8])")).ok());
}

TEST(Safetensors, MessagesEscapeAndCutNames) {
  const std::string name(10'000, 'n');
  const absl::StatusOr<TensorFile> file =
      Parse(SafetensorsBytes(absl::StrCat("{\"\\u0001", name, "\":{}}"), ""));
  ASSERT_FALSE(file.ok());
  EXPECT_LT(file.status().message().size(), 400u);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("\\x01nnn"));
}

TEST(ToFloat, ConvertsHalfAndBfloat16Unaligned) {
  // 1, -2, 65504, 2^-24 (subnormal), -0 and infinity in half precision.
  const uint16_t half[] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00};
  std::string bytes(1 + sizeof(half), '\0');
  std::memcpy(bytes.data() + 1, half, sizeof(half));
  Tensor tensor{TensorType::kF16, {6}, Bytes(bytes).subspan(1)};
  std::vector<float> values(6);
  ASSERT_TRUE(ToFloat(tensor, values).ok());
  EXPECT_THAT(values, ElementsAre(1.0f, -2.0f, 65504.0f, 0x1p-24f, -0.0f, INFINITY));
  EXPECT_TRUE(std::signbit(values[4]));

  const uint16_t brain[] = {0x3f80, 0xc040, 0x7f7f, 0x0001, 0x8000, 0xff80};
  std::memcpy(bytes.data() + 1, brain, sizeof(brain));
  tensor.type = TensorType::kBf16;
  ASSERT_TRUE(ToFloat(tensor, values).ok());
  EXPECT_THAT(values, ElementsAre(1.0f, -3.0f, 0x1.fep127f, 0x1p-133f, -0.0f, -INFINITY));

  std::vector<float> five(5), seven(7);
  EXPECT_EQ(ToFloat(tensor, five).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ToFloat(tensor, seven).code(), absl::StatusCode::kInvalidArgument);
  tensor.type = TensorType::kI64;
  EXPECT_EQ(ToFloat(tensor, values).code(), absl::StatusCode::kInvalidArgument);
}

// Lines of /proc/self/maps that name the file.
int MappingsOf(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(path) != line.npos;
  return count;
}

int64_t ResidentKilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6));
  }
  return -1;
}

TEST(MappedFile, HoldsTheBytesAndReleasesThem) {
  TemporaryDirectory directory;
  const std::string path = directory.File("weights");
  std::string content(64 << 20, 'x');
  content[12345678] = 'y';
  directory.Write("weights", content);
  const int64_t before = ResidentKilobytes();
  {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ((*file)->bytes().size(), content.size());
    EXPECT_EQ(std::memcmp((*file)->bytes().data(), content.data(), content.size()), 0);
    EXPECT_TRUE((*file)->CheckUnchanged().ok());
    EXPECT_GT(ResidentKilobytes(), before + (60 << 10));
  }
  EXPECT_EQ(MappingsOf(path), 0);
  EXPECT_LT(ResidentKilobytes(), before + (8 << 10));
}

TEST(MappedFile, KeepsItsBytesWhenTheFileIsTruncatedOrRewritten) {
  TemporaryDirectory directory;
  const std::string path = directory.File("weights");
  directory.Write("weights", std::string(1 << 20, 'x'));
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(truncate(path.c_str(), 10), 0);
  // Under a mapping of the file this loop would end in SIGBUS.
  size_t same = 0;
  for (uint8_t byte : (*file)->bytes()) same += byte == 'x';
  EXPECT_EQ(same, size_t{1} << 20);
  const absl::Status changed = (*file)->CheckUnchanged();
  EXPECT_EQ(changed.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(changed.message()), HasSubstr(path));
}

TEST(MappedFile, ReadStopsWhereTheFileEnds) {
  TemporaryDirectory directory;
  const std::string path = directory.File("weights");
  directory.Write("weights", std::string(1000, 'x'));
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  std::vector<uint8_t> whole(1000), more(1001);
  EXPECT_TRUE(ReadExactly(descriptor, 0, whole, path).ok());
  // As after an fstat that saw 1001 bytes.
  const absl::Status status = ReadExactly(descriptor, 0, more, path);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("was truncated while it was read"));
  close(descriptor);
}

TEST(MappedFile, SurvivesAFileTruncatedAgainAndAgain) {
  TemporaryDirectory directory;
  const std::string path = directory.File("weights");
  constexpr size_t kSize = 4 << 20;
  directory.Write("weights", std::string(kSize, 'x'));
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      if (truncate(path.c_str(), 4096) != 0 || truncate(path.c_str(), kSize) != 0) break;
    }
  });
  // The writer may sleep through any number of reads, so the loop ends by what it has seen; the
  // deadline is there for a writer that never runs.
  int opened = 0, refused = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while ((opened + refused < 300 || refused == 0) && std::chrono::steady_clock::now() < deadline) {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << file.status();
      ++refused;
      continue;
    }
    ++opened;
    uint64_t sum = 0;
    for (uint8_t byte : (*file)->bytes()) sum += byte;
    EXPECT_LE(sum, uint64_t{255} * kSize);
  }
  stop = true;
  writer.join();
  RecordProperty("opened", opened);
  RecordProperty("refused", refused);
  EXPECT_GT(refused, 0) << "the writer never hit a read";
}

TEST(MappedFile, RefusesWhatIsNotARegularFile) {
  TemporaryDirectory directory;
  EXPECT_EQ(MappedFile::Open(directory.File("missing")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(directory.path()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const std::string fifo = directory.File("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(fifo).status().code(), absl::StatusCode::kFailedPrecondition);
  directory.Write("empty", "");
  absl::StatusOr<std::unique_ptr<MappedFile>> empty = MappedFile::Open(directory.File("empty"));
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_TRUE((*empty)->bytes().empty());
}

}  // namespace
}  // namespace octavo
