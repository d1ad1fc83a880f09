// Loops that several threads share: torch's threads, or in prediction this package's own.
//
// Torch's threads are libgomp's. Each loop ends when the last of them has come, and they spin for
// milliseconds where they wait. With other work on the machine that takes several times as long as
// the loop. So where all loops of a prediction are this package's, they run on a pool of its own
// (thread_pool.h). Own threads beside torch's would fight for processors: until it is left, torch
// takes one thread.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace fastad {

// What csrc/threads.cpp does for all modules of the package.
struct OwnThreads {
  // How many the calling thread has for its loops, itself among them; 0 where these are torch's.
  int64_t (*count)();
  void (*run)(int32_t parts, void (*body)(const void* context, int32_t part), const void* context);
};

inline const OwnThreads* own_threads = nullptr;  // of the module: set when it is imported

// Those of fastad._C.
extern const OwnThreads* const kOwnThreads;

// From now on the calling thread's loops run on own threads, as many as torch had, and torch takes
// one. False where nothing changes: there is one thread, they are own ones already, or torch's
// threads are no OpenMP's that can be told so.
bool enter_own_threads();
// After an `enter_own_threads` that was true.
void leave_own_threads();

inline int64_t own_thread_count() { return own_threads == nullptr ? 0 : own_threads->count(); }

inline int64_t thread_count() {
  const int64_t own = own_thread_count();
  return own > 0 ? own : torch::stable::get_num_threads();
}

// Calls body(first, last) for stretches of [begin, end), of about `grain` or longer. A body has no
// such loop of its own.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  constexpr int64_t kStretches = 4;  // a thread: so that one that is late holds up little
  const int64_t threads = own_thread_count(), count = end - begin;
  if (threads == 0) return torch::stable::parallel_for(begin, end, grain, body);
  if (count <= grain) {
    if (count > 0) body(begin, end);
    return;
  }
  const int64_t most = std::min((count + grain - 1) / grain, kStretches * threads);
  const int64_t stretch = (count + most - 1) / most;
  const auto part = [&](int32_t index) {
    const int64_t first = begin + index * stretch;
    body(first, std::min(first + stretch, end));
  };
  own_threads->run(
      static_cast<int32_t>((count + stretch - 1) / stretch),
      [](const void* context, int32_t index) {
        (*static_cast<const decltype(part)*>(context))(index);
      },
      &part);
}

}  // namespace fastad
