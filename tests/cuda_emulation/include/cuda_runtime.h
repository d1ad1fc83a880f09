// The part of CUDA that fastad's kernels use, for g++: one host thread plays a block's threads.
// The kernels are compiled unchanged; emulator.cpp holds the scheduler and the checks.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

extern thread_local dim3 threadIdx, blockIdx, gridDim, blockDim;

using std::exp;
using std::fma;
using std::max;
using std::min;
using std::pow;
using std::sqrt;

// ---------------------------------------------------------------- runtime

enum cudaError_t { cudaSuccess = 0, cudaErrorLaunchFailure = 719 };
using cudaStream_t = struct EmulatedStream*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream);

namespace emulation {

// Runs body(argument) as every thread of every block.
cudaError_t run(const cudaLaunchConfig_t& config, void (*body)(const void*), const void* argument);

void check_access(const void* address, size_t bytes, size_t alignment, bool write);
void block_barrier();
int block_barrier_or(int predicate);
uint64_t shuffle(uint64_t value, int source_lane);

}  // namespace emulation

template <class Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params),
                               const Params& params) {
  struct Call {
    void (*kernel)(Params);
    const Params* params;
  } call = {kernel, &params};
  return emulation::run(
      *config,
      [](const void* argument) {
        const Call& call = *static_cast<const Call*>(argument);
        call.kernel(*call.params);
      },
      &call);
}

// ---------------------------------------------------------------- threads of a block

inline void __syncthreads() { emulation::block_barrier(); }
inline int __syncthreads_or(int predicate) { return emulation::block_barrier_or(predicate); }
inline void __threadfence() {}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  (void)mask;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulation::shuffle(bits, static_cast<int>(threadIdx.x % 32) ^ lane_mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// ---------------------------------------------------------------- device memory, checked

template <class T>
T __ldg(const T* address) {
  emulation::check_access(address, sizeof(T), sizeof(T), false);
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  emulation::check_access(address, sizeof(T), sizeof(T), false);
  return *address;
}
template <class T>
void __stwb(T* address, T value) {
  emulation::check_access(address, sizeof(T), sizeof(T), true);
  *address = value;
}
template <class T, class Update>
T emulated_atomic(T* address, Update update) {
  emulation::check_access(address, sizeof(T), sizeof(T), true);
  const T old = *address;
  *address = update(old);
  return old;
}
template <class T>
T atomicAdd(T* address, T value) {
  return emulated_atomic(address, [&](T old) { return old + value; });
}
template <class T>
T atomicMax(T* address, T value) {
  return emulated_atomic(address, [&](T old) { return max(old, value); });
}
template <class T>
T atomicMin(T* address, T value) {
  return emulated_atomic(address, [&](T old) { return min(old, value); });
}
