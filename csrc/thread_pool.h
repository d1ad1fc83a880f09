// Threads that take parts of a loop as they come. Free of torch.
//
// Nobody waits for a thread that comes late: it finds nothing left to do. One that waits spins for
// a fifth of a millisecond and then sleeps, so that it holds no processor that others need.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#ifndef _WIN32
#include <unistd.h>
#endif

#include "instruction_set.h"

namespace fastad {

// Used by one thread, which works too.
class ThreadPool {
 public:
  using Body = void (*)(const void* context, int32_t part);

  explicit ThreadPool(int64_t threads) : size_(threads) {
    try {
      while (static_cast<int64_t>(others_.size()) < threads - 1)
        others_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
      // The system gives no more threads: those that run take the parts of the others.
    }
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ~ThreadPool() {
    if (forked()) {
      // These threads are the parent's. Nothing may be asked of them here.
      new std::vector<std::thread>(std::move(others_));
      return;
    }
    untaken_.store(kClosed, std::memory_order_release);
    untaken_.notify_all();
    for (std::thread& other : others_) other.join();
  }

  int64_t size() const { return size_; }

  // Whether this process is a copy of the one whose threads these are.
  bool forked() const { return process() != owner_; }

  // Calls body(context, part) for every part below `parts`. The first exception is thrown here,
  // when all are done.
  void run(int32_t parts, Body body, const void* context) {
    if (parts < 1) return;
    body_ = body;
    context_ = context;
    unfinished_.store(parts, std::memory_order_relaxed);
    untaken_.store(parts, std::memory_order_release);
    if (parts > static_cast<int64_t>(others_.size())) {
      untaken_.notify_all();
    } else {
      for (int32_t i = 1; i < parts; ++i) untaken_.notify_one();
    }
    work();
    for (int32_t left; (left = unfinished_.load(std::memory_order_acquire)) > 0;)
      wait_while(unfinished_, left);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  static constexpr int32_t kClosed = -1;
  static constexpr std::chrono::microseconds kSpin{200};

  static int64_t process() {
#ifdef _WIN32
    return 0;
#else
    return getpid();
#endif
  }

  // Takes parts and does them until none is left.
  void work() {
    int32_t left = untaken_.load(std::memory_order_acquire);
    while (left > 0) {
      if (!untaken_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire))
        continue;
      try {
        body_(context_, left - 1);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
      left = untaken_.load(std::memory_order_acquire);
    }
  }

  void serve() {
    while (untaken_.load(std::memory_order_acquire) != kClosed) {
      work();
      wait_while(untaken_, 0);
    }
  }

  // Returns when `value` is another one.
  static void wait_while(const std::atomic<int32_t>& value, int32_t old) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 64; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
#ifdef FASTAD_X86_64
        __builtin_ia32_pause();
#endif
      }
    } while (std::chrono::steady_clock::now() < end);
    value.wait(old, std::memory_order_acquire);
  }

  const int64_t owner_ = process();
  const int64_t size_;
  // Parts that nobody has taken, and those that are not done.
  std::atomic<int32_t> untaken_{0}, unfinished_{0};
  // Of the loop that runs. Read by who has taken a part of it.
  Body body_ = nullptr;
  const void* context_ = nullptr;
  std::exception_ptr failure_;
  std::mutex mutex_;
  std::vector<std::thread> others_;
};

}  // namespace fastad
