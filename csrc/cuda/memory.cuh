// Every access of the kernels to memory: vectors and single elements of device memory, through
// CUDA's load and store functions, which is where the emulation checks bounds; shared memory.

#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstring>
#include <type_traits>

#include "cuda/feature_pyramid.cuh"

namespace fastad::cuda {

using c10::BFloat16;
using c10::Half;

template <class T, int kSize>
struct alignas(kSize * sizeof(T) < 16 ? kSize * sizeof(T) : 16) Vector {
  T v[kSize];
};

template <class T>
constexpr int kVectorSize = kVectorBytes / static_cast<int>(sizeof(T));

template <size_t kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = unsigned long long;
};
template <>
struct Word<16> {
  using type = uint4;
};

// Memory that no thread writes during the launch.
template <class T>
__device__ __forceinline__ T load(const T* address) {
  using W = typename Word<sizeof(T)>::type;
  const W word = __ldg(reinterpret_cast<const W*>(address));
  T value;
  memcpy(&value, &word, sizeof(T));
  return value;
}

// Memory that is written during the launch, by other blocks even: past the read-only caches.
template <class T>
__device__ __forceinline__ T load_written(const T* address) {
  using W = typename Word<sizeof(T)>::type;
  const W word = __ldcg(reinterpret_cast<const W*>(address));
  T value;
  memcpy(&value, &word, sizeof(T));
  return value;
}

template <class T>
__device__ __forceinline__ void store(T* address, const T& value) {
  using W = typename Word<sizeof(T)>::type;
  W word;
  memcpy(&word, &value, sizeof(T));
  __stwb(reinterpret_cast<W*>(address), word);
}

// The block's shared memory, whose size the launch gives.
template <class T>
__device__ __forceinline__ T& shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return *reinterpret_cast<T*>(memory);
}

// Calls visit(T{}) with the C++ type of a dtype.
template <class Visit>
__host__ __device__ __forceinline__ void visit_dtype(ScalarType dtype, const Visit& visit) {
  switch (dtype) {
    case ScalarType::Double:
      return visit(double{});
    case ScalarType::Float:
      return visit(float{});
    case ScalarType::Half:
      return visit(Half{});
    default:
      return visit(BFloat16{});
  }
}

}  // namespace fastad::cuda
