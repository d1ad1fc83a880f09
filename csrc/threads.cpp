// This package's own threads, a pool for each thread that predicts.

#include <memory>
#include <utility>

#include "parallel.h"
#include "thread_pool.h"

// Of the OpenMP that torch uses; null where it uses none, or another one.
#ifdef __linux__
extern "C" {
__attribute__((weak)) int omp_in_parallel();
__attribute__((weak)) int omp_get_max_threads();
__attribute__((weak)) void omp_set_num_threads(int);
}
#endif

namespace fastad {
namespace {

thread_local int64_t count = 0;

int64_t own_count() { return count; }

void run(int32_t parts, ThreadPool::Body body, const void* context) {
  thread_local std::unique_ptr<ThreadPool> pool;
  if (pool == nullptr || pool->size() != count || pool->forked())
    pool = std::make_unique<ThreadPool>(count);
  pool->run(parts, body, context);
}

const OwnThreads threads{own_count, run};

}  // namespace

const OwnThreads* const kOwnThreads = &threads;

bool enter_own_threads() {
#ifdef __linux__
  const int torchs = static_cast<int>(torch::stable::get_num_threads());
  if (count > 0 || torchs < 2 || omp_set_num_threads == nullptr || omp_in_parallel()) return false;
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);                       // of this thread alone
  if (torch::stable::get_num_threads() != 1) {  // torch has another OpenMP
    omp_set_num_threads(before);
    return false;
  }
  count = torchs;
  return true;
#else
  return false;
#endif
}

void leave_own_threads() {
#ifdef __linux__
  omp_set_num_threads(static_cast<int>(std::exchange(count, 0)));
#endif
}

}  // namespace fastad
