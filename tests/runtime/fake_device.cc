#include "tests/runtime/fake_device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/cpu/team.h"
#include "kernels/plan.h"
#include "quant/format.h"

namespace octavo::testing {
namespace {

constexpr auto kPatience = std::chrono::seconds(20);

FakeDevice* current = nullptr;

// Host memory that the device reads and writes when it computes.
std::mutex host_mutex;
std::map<const void*, int64_t> host_memory;  // guarded by host_mutex: begin, bytes

bool IsHostMemory(const void* data) {
  std::lock_guard<std::mutex> lock(host_mutex);
  const auto after = host_memory.upper_bound(data);
  if (after == host_memory.begin()) return false;
  const auto& [begin, bytes] = *std::prev(after);
  return static_cast<const uint8_t*>(data) < static_cast<const uint8_t*>(begin) + bytes;
}

const Backend& Cpu() {
  static const Backend& cpu = **FindBackend("cpu");
  return cpu;
}

absl::StatusOr<Buffer> AllocateHost(int64_t bytes) {
  std::lock_guard<std::mutex> lock(host_mutex);
  void* const data = std::calloc(bytes + 1, 1);
  host_memory[data] = bytes;
  return Buffer(data, bytes, [](void* freed) {
    std::lock_guard<std::mutex> lock(host_mutex);
    host_memory.erase(freed);
    std::free(freed);
  });
}

}  // namespace

struct FakeDevice::Graph final : public Stream::Graph {
  std::vector<Item> items;
};

class FakeStream final : public Stream {
 public:
  FakeStream(FakeDevice& device, bool urgent) : device_(device), queue_(device.queue(urgent)) {}

  std::string processor() const override { return "fake"; }
  int slots() const override { return 1; }
  void ForEachBlock(int64_t blocks, absl::FunctionRef<void(int64_t, int, Stream&)> body) override {
    for (int64_t block = 0; block < blocks; ++block) body(block, 0, *this);
  }
  void ForEachTask(int64_t tasks, absl::FunctionRef<void(int64_t)> body) override {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  }

  void Add(std::function<void()> work, double flops = 0) {
    const std::chrono::duration<double> time(flops / FakeDevice::kFlopsPerSecond);
    FakeDevice::Item item = {std::move(work),
                             std::chrono::duration_cast<std::chrono::nanoseconds>(time), false};
    if (captured_ != nullptr) {
      captured_->push_back(std::move(item));
      return;
    }
    std::lock_guard<std::mutex> lock(device_.mutex_);
    queue_.items.push_back(std::move(item));
    device_.changed_.notify_all();
  }

  void Upload(void* device, const void* host, int64_t bytes) override {
    if (IsHostMemory(host)) {
      Add([=] { std::memcpy(device, host, bytes); });
      return;
    }
    std::vector<uint8_t> held(bytes);
    std::memcpy(held.data(), host, bytes);
    Add([device, held = std::move(held)] { std::memcpy(device, held.data(), held.size()); });
  }
  // At once, whatever still waits to be computed.
  void UploadBeside(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void Download(void* host, const void* device, int64_t bytes) override {
    Add([=] { std::memcpy(host, device, bytes); });
  }

  uint64_t Mark() override {
    std::lock_guard<std::mutex> lock(device_.mutex_);
    if (queue_.items.empty()) {
      queue_.times.push_back(device_.now_);
      ++queue_.reached;
    } else {
      const bool after_work = static_cast<bool>(queue_.items.back().work);
      queue_.items.push_back({.after_work = after_work});
      queue_.pending += after_work ? 1 : 0;
      device_.changed_.notify_all();
    }
    return ++queue_.marked;
  }
  bool Reached(uint64_t mark) override {
    std::lock_guard<std::mutex> lock(device_.mutex_);
    return mark <= queue_.reached || device_.failed_;
  }
  std::chrono::nanoseconds Between(uint64_t from, uint64_t to) override {
    std::lock_guard<std::mutex> lock(device_.mutex_);
    if (device_.failed_) return std::chrono::nanoseconds(0);
    EXPECT_LT(queue_.marked - from, kMarks);
    return queue_.times.at(to - 1) - queue_.times.at(from - 1);
  }
  absl::Status status() const override {
    std::lock_guard<std::mutex> lock(device_.mutex_);
    return device_.failed_ ? absl::UnavailableError("the fake device failed") : absl::OkStatus();
  }
  absl::Status Finish() override {
    {
      std::unique_lock<std::mutex> lock(device_.mutex_);
      if (device_.thread_.joinable()) {
        device_.changed_.wait(
            lock, [&] { return queue_.reached == queue_.marked && queue_.items.empty(); });
      }
      while (!queue_.items.empty()) device_.RunItem(queue_, lock);
    }
    return status();
  }
  bool captures() const override { return true; }
  absl::StatusOr<std::unique_ptr<Graph>> Capture(absl::FunctionRef<void()> body) override {
    auto graph = std::make_unique<FakeDevice::Graph>();
    captured_ = &graph->items;
    body();
    captured_ = nullptr;
    return graph;
  }
  void Replay(Graph& graph) override {
    std::lock_guard<std::mutex> lock(device_.mutex_);
    const std::vector<FakeDevice::Item>& items = static_cast<FakeDevice::Graph&>(graph).items;
    queue_.items.insert(queue_.items.end(), items.begin(), items.end());
    device_.changed_.notify_all();
  }
  absl::StatusOr<std::unique_ptr<Stream>> OpenUrgent() override {
    if (!device_.urgent_streams_) return nullptr;
    return std::make_unique<FakeStream>(device_, /*urgent=*/true);
  }

 private:
  FakeDevice& device_;
  FakeDevice::Queue& queue_;
  std::vector<FakeDevice::Item>* captured_ = nullptr;
};

namespace {

FakeStream& Fake(Stream& stream) { return static_cast<FakeStream&>(stream); }

// The CPU's rows of f32 whose work is put off.
const LinearKernel& CpuLinear() {
  static const LinearKernel& row =
      *UsableKernels(Cpu(), **FindFormat("f32"), {.n = 64, .k = 64}, nullptr).front();
  return row;
}

const AttentionKernel& CpuAttention() {
  static const AttentionKernel& row =
      *std::find_if(Cpu().attention_kernels().begin(), Cpu().attention_kernels().end(),
                    [](const AttentionKernel& row) {
                      return row.input == Element::kF32 &&
                             (row.instruction_sets & ~Cpu().instruction_sets()) == 0;
                    });
  return row;
}

// What the CPU's kernels do not know: that the number of rows is known when they run.
template <typename Args>
Args WithRowsOfNow(Args args) {
  if (args.device_rows != nullptr) args.rows = std::min<int64_t>(args.rows, *args.device_rows);
  return args;
}

void RunLinear(const LinearArgs& args, Stream& stream) {
  const LinearShape& shape = args.weight->shape;
  Fake(stream).Add([args] { CpuLinear().run(WithRowsOfNow(args), cpu::Inline()); },
                   2.0 * static_cast<double>(args.rows * shape.n * shape.k));
}

void RunAttention(const AttentionArgs& args, Stream& stream) {
  Fake(stream).Add([args] {
    AttentionArgs now = args;
    now.row_end = std::min<int64_t>(args.row_end, args.offsets[args.sequences]);
    CpuAttention().run(now, cpu::Inline());
  });
}

std::span<const LinearKernel> LinearKernels() {
  static const LinearKernel row = [] {
    LinearKernel later = CpuLinear();
    later.run = RunLinear;
    return later;
  }();
  return {&row, 1};
}

std::span<const AttentionKernel> AttentionKernels() {
  static const AttentionKernel row = [] {
    AttentionKernel later = CpuAttention();
    later.run = RunAttention;
    return later;
  }();
  return {&row, 1};
}

// A row operation put off.
template <auto kOperation>
void RunRows(const NormArgs& args, Stream& stream) {
  Fake(stream).Add([args] { (Cpu().rows.*kOperation)(WithRowsOfNow(args), cpu::Inline()); });
}

template <auto kOperation>
void RunPool(const PoolArgs& args, Stream& stream) {
  Fake(stream).Add([args] {
    PoolArgs now = args;
    now.sequences =
        std::distance(args.offsets, std::lower_bound(args.offsets, args.offsets + args.sequences,
                                                     args.offsets[args.sequences]));
    (Cpu().rows.*kOperation)(now, cpu::Inline());
  });
}

void RunEmbed(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
              const NormArgs& norm, Stream& stream) {
  Fake(stream).Add(
      [=] { Cpu().rows.embed(tables, ids, positions, WithRowsOfNow(norm), cpu::Inline()); });
}

void RunEncode(const EncodeArgs& args, Stream& stream) {
  Fake(stream).Add([args] { Cpu().rows.encode(WithRowsOfNow(args), cpu::Inline()); });
}

absl::StatusOr<std::unique_ptr<Stream>> OpenStream(int, const DeviceOptions&) {
  return std::make_unique<FakeStream>(*current, /*urgent=*/false);
}

}  // namespace

FakeDevice::FakeDevice(bool urgent_streams) : urgent_streams_(urgent_streams) {
  EXPECT_EQ(current, nullptr);
  current = this;
}

FakeDevice::~FakeDevice() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  current = nullptr;
}

const Backend& FakeDevice::backend() const {
  static const Backend backend = [] {
    Backend later = Cpu();
    later.name = "fake";
    later.linear_kernels = LinearKernels;
    later.attention_kernels = AttentionKernels;
    later.rows = {RunEmbed, RunRows<&RowOperations::norm>, RunEncode,
                  RunPool<&RowOperations::mean_pool>, RunPool<&RowOperations::first_pool>};
    later.allocate_host = AllocateHost;
    later.open_stream = OpenStream;
    later.document_unit = {.least = 16, .most = 4096};
    return later;
  }();
  return backend;
}

int FakeDevice::WaitForPending(bool urgent, int marks) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, kPatience, [&] { return queue(urgent).pending >= marks; });
  return queue(urgent).pending;
}

int FakeDevice::Pending(bool urgent) {
  std::lock_guard<std::mutex> lock(mutex_);
  return queue(urgent).pending;
}

void FakeDevice::RunItem(Queue& queue, std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [this] { return !computing_; });
  if (queue.items.empty()) return;  // another caller did it
  computing_ = true;
  const Item item = std::move(queue.items.front());
  if (item.work && !failed_) {
    lock.unlock();
    item.work();
    lock.lock();
  }
  computing_ = false;
  now_ += item.time;
  queue.busy += item.time;
  if (!item.work) {
    queue.times.push_back(now_);
    ++queue.reached;
    if (item.after_work) {
      --queue.pending;
      ++queue.done;
    }
  }
  queue.items.pop_front();
  changed_.notify_all();
}

bool FakeDevice::RunToMark(bool urgent) {
  std::unique_lock<std::mutex> lock(mutex_);
  Queue& queue = this->queue(urgent);
  if (queue.pending == 0) return false;
  for (const int done = queue.done; queue.done == done;) RunItem(queue, lock);
  return true;
}

void FakeDevice::RunFreely() {
  thread_ = std::thread([this] {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(
          lock, [this] { return stop_ || !queues_[0].items.empty() || !queues_[1].items.empty(); });
      if (stop_) return;
      RunItem(queues_[1].items.empty() ? queues_[0] : queues_[1], lock);
    }
  });
}

void FakeDevice::Fail() {
  std::lock_guard<std::mutex> lock(mutex_);
  failed_ = true;
  changed_.notify_all();
}

std::chrono::nanoseconds FakeDevice::Busy(bool urgent) {
  std::lock_guard<std::mutex> lock(mutex_);
  return queue(urgent).busy;
}

std::vector<std::chrono::nanoseconds> FakeDevice::DocumentUnits() {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::vector<std::chrono::nanoseconds>& times = queue(false).times;
  std::vector<std::chrono::nanoseconds> units;
  for (size_t i = 1; i < times.size(); ++i) {
    if (times[i] > times[i - 1]) units.push_back(times[i] - times[i - 1]);
  }
  return units;
}

}  // namespace octavo::testing
