// Plays CUDA on one host thread: a block's threads are fibers that run one after the other, warps
// and lanes in another random order every time, until each waits at a barrier or ends. Blocks come
// in random order too. A missing barrier or an order-dependent sum therefore changes results.
//
// Checked, each with an error that the op raises: every access to device memory lies in a tensor
// whose pointer the op took, is aligned, and writes only where the op asked for a mutable pointer;
// shared memory is poisoned with NaN before each block and not exceeded; every thread reaches every
// barrier; launches and memsets use the current stream, under a device guard. emulated_torch.cpp
// tells which tensors those are, and reports undefined behaviour.

#include "emulator.h"

#include <cuda_runtime.h>
#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <numeric>
#include <random>
#include <vector>

thread_local dim3 threadIdx, blockIdx, gridDim, blockDim;

namespace fastad::cuda {
alignas(16) unsigned char memory[48 * 1024];  // what kernels declare as extern __shared__
}

namespace emulation {
namespace {

constexpr size_t kStack = 64 * 1024;
constexpr unsigned kWarp = 32;
constexpr unsigned char kPoison = 0xff, kCanary = 0x5a;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  jmp_buf context;
  ucontext_t entry;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
  bool started;
  State state;
  uint64_t shuffled;
};

std::vector<Fiber> fibers;
Fiber* current;
jmp_buf scheduler;
ucontext_t unused;
void (*body)(const void*);
const void* argument;
int any_predicate, last_predicate;
std::mt19937 random_order;

[[noreturn]] void leave() { _longjmp(scheduler, 1); }

void enter() {
  body(argument);
  current->state = State::kDone;
  leave();
}

void resume(Fiber& fiber, unsigned index) {
  current = &fiber;
  threadIdx = dim3(index, 0, 0);
  if (_setjmp(scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = fiber.stack.get();
    fiber.entry.uc_stack.ss_size = kStack;
    fiber.entry.uc_link = &unused;
    makecontext(&fiber.entry, enter, 0);
    setcontext(&fiber.entry);
  }
  current = nullptr;
}

void wait(State state) {
  current->state = state;
  if (_setjmp(current->context) == 0) leave();
}

bool all(unsigned begin, unsigned end, State state) {
  return std::all_of(fibers.begin() + begin, fibers.begin() + end,
                     [&](const Fiber& fiber) { return fiber.state == state; });
}

void release(unsigned begin, unsigned end) {
  for (unsigned i = begin; i < end; ++i) fibers[i].state = State::kReady;
}

// Runs the lanes of a warp, in random order, as far as they get by themselves.
void run_warp(unsigned first) {
  std::vector<unsigned> lanes(kWarp);
  std::iota(lanes.begin(), lanes.end(), first);
  for (bool moved = true; moved;) {
    moved = false;
    std::shuffle(lanes.begin(), lanes.end(), random_order);
    for (const unsigned i : lanes) {
      if (fibers[i].state != State::kReady) continue;
      resume(fibers[i], i);
      if (!op.error.empty()) return;
      moved = true;
    }
    if (all(first, first + kWarp, State::kAtWarp)) release(first, first + kWarp);
  }
}

// Each warp in turn runs to the next barrier of the block before another one moves: what a warp
// overwrites too early, others have not read yet.
void run_block(unsigned threads) {
  std::vector<unsigned> warps;
  for (unsigned first = 0; first < threads; first += kWarp) warps.push_back(first);
  for (unsigned i = 0; i < threads; ++i) fibers[i].started = false;
  release(0, threads);
  any_predicate = 0;
  while (true) {
    std::shuffle(warps.begin(), warps.end(), random_order);
    for (const unsigned first : warps) {
      run_warp(first);
      if (!op.error.empty()) return;
    }
    if (all(0, threads, State::kDone)) return;
    if (!all(0, threads, State::kAtBlock)) {
      return fail("a barrier or shuffle was not reached by every thread");
    }
    last_predicate = any_predicate;
    any_predicate = 0;
    release(0, threads);
  }
}

}  // namespace

Op op;

void fail(const std::string& what) {
  if (op.error.empty()) {
    op.error = what;
    if (current != nullptr) {
      op.error +=
          " (block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ")";
    }
  }
  if (current != nullptr) leave();
}

cudaError_t run(const cudaLaunchConfig_t& config, void (*kernel)(const void*),
                const void* parameters) {
  ++op.launches;
  const unsigned blocks = config.gridDim.x, threads = config.blockDim.x;
  const size_t shared = config.dynamicSmemBytes;
  if (blocks == 0 || threads == 0 || threads % kWarp != 0 || threads > 1024)
    fail("bad launch size");
  if (shared > sizeof(fastad::cuda::memory)) fail("too much shared memory");
  if (config.stream != current_stream()) fail("launch on another than the current stream");
  if (op.guards == 0) fail("launch without a device guard");
  if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
  body = kernel;
  argument = parameters;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random_order);
  for (const unsigned block : order) {
    if (!op.error.empty()) break;
    blockIdx = dim3(block, 0, 0);
    std::memset(fastad::cuda::memory, kCanary, sizeof(fastad::cuda::memory));
    std::memset(fastad::cuda::memory, kPoison, shared);
    run_block(threads);
    const unsigned char *rest = fastad::cuda::memory + shared,
                        *end = std::end(fastad::cuda::memory);
    if (std::any_of(rest, end, [](unsigned char x) { return x != kCanary; })) {
      fail("a write beyond the shared memory of the launch");
    }
  }
  return op.error.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

void check_access(const void* address, size_t bytes, size_t alignment, bool write) {
  const char* begin = static_cast<const char*>(address);
  if (reinterpret_cast<uintptr_t>(begin) % alignment != 0) fail("misaligned access");
  for (const Range& range : op.ranges) {
    if (range.begin <= begin && begin + bytes <= range.end && (range.writable || !write)) {
      op.traffic[2 * write + (bytes < 16)] += static_cast<int64_t>(bytes);
      return;
    }
  }
  fail(write ? "a write outside of the op's results" : "a read outside of the op's tensors");
}

void block_barrier() { wait(State::kAtBlock); }

int block_barrier_or(int predicate) {
  any_predicate |= predicate;
  wait(State::kAtBlock);
  return last_predicate;
}

uint64_t shuffle(uint64_t value, int source_lane) {
  current->shuffled = value;
  const size_t warp = threadIdx.x / kWarp * kWarp;
  wait(State::kAtWarp);
  value = fibers[warp + source_lane].shuffled;
  wait(State::kAtWarp);  // nobody overwrites what others have yet to read
  return value;
}

}  // namespace emulation

extern "C" void emulation_seed(unsigned seed) { emulation::random_order.seed(seed); }
