// What every kernel is made of: loads and stores, conversions of half precision, a launch.
//
// Device memory is read and written by CUDA's load and store functions only: that is where the
// emulation checks bounds.

#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "checks.h"

namespace fastad::cuda {

constexpr int kWarp = 32;
constexpr int kVectorBytes = 16;

// ---- memory -------------------------------------------------------------------------------------

template <class T, int kSize>
struct alignas(kSize * sizeof(T) < 16 ? kSize * sizeof(T) : 16) Vector {
  T v[kSize];
};

template <class T>
constexpr int kVectorSize = kVectorBytes / static_cast<int>(sizeof(T));

template <class To, class From>
__device__ __forceinline__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// What one instruction loads or stores.
template <size_t kBytes>
using Word = std::conditional_t<
    kBytes == 2, unsigned short,
    std::conditional_t<kBytes == 4, unsigned,
                       std::conditional_t<kBytes == 8, unsigned long long, uint4>>>;

// Reads memory that no thread writes during the launch.
template <class T>
__device__ __forceinline__ T load(const T* address) {
  return bits_as<T>(__ldg(reinterpret_cast<const Word<sizeof(T)>*>(address)));
}

// Reads memory that other blocks may have written during the launch: past the read-only caches.
template <class T>
__device__ __forceinline__ T load_written(const T* address) {
  return bits_as<T>(__ldcg(reinterpret_cast<const Word<sizeof(T)>*>(address)));
}

template <class T>
__device__ __forceinline__ void store(T* address, const T& value) {
  __stwb(reinterpret_cast<Word<sizeof(T)>*>(address), bits_as<Word<sizeof(T)>>(value));
}

// The block's shared memory, whose size the launch gives.
template <class T>
__device__ __forceinline__ T& shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return *reinterpret_cast<T*>(memory);
}

// ---- numbers ------------------------------------------------------------------------------------

// Calls visit(T{}) with the C++ type of a dtype.
template <class Visit>
__device__ __forceinline__ void visit_dtype(ScalarType dtype, const Visit& visit) {
  switch (dtype) {
    case ScalarType::Double:
      return visit(double{});
    case ScalarType::Float:
      return visit(float{});
    case ScalarType::Half:
      return visit(c10::Half{});
    default:
      return visit(c10::BFloat16{});
  }
}

inline int64_t element_size(ScalarType dtype) {
  return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
}

// The numbers that a register holds: two in half precision. Both take one instruction this way.
template <class T, class Word, class Acc, int kCount>
__device__ __forceinline__ void unpack(Word word, Acc (&values)[kCount]) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    values[0] = bits_as<float>(word << 16);
    values[1] = bits_as<float>(word & 0xffff0000u);
  } else {
    const auto numbers = bits_as<Vector<T, kCount>>(word);
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = static_cast<Acc>(numbers.v[i]);
  }
}

#ifdef __CUDACC__
__device__ __forceinline__ __half2 to_pair(float a, float b, c10::Half) {
  return __floats2half2_rn(a, b);
}
__device__ __forceinline__ __nv_bfloat162 to_pair(float a, float b, c10::BFloat16) {
  return __floats2bfloat162_rn(a, b);
}
#else
template <class T>
Vector<T, 2> to_pair(float a, float b, T) {
  return {static_cast<T>(a), static_cast<T>(b)};
}
#endif

template <class Word, class T, class Acc, int kCount>
__device__ __forceinline__ Word pack(const Acc (&values)[kCount]) {
  if constexpr (kCount == 2) {
    return bits_as<Word>(to_pair(values[0], values[1], T()));
  } else {
    return bits_as<Word>(values[0]);
  }
}

// 64-bit division is a subroutine of about a hundred instructions; few operands need it.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// ---- launch -------------------------------------------------------------------------------------

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class Params>
void launch(void (*kernel)(Params), int64_t blocks, int threads, size_t shared_bytes,
            cudaStream_t stream, const Params& params) {
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "too many pixels for one launch");
  const cudaLaunchConfig_t config = {.gridDim = dim3(static_cast<unsigned>(blocks)),
                                     .blockDim = dim3(static_cast<unsigned>(threads)),
                                     .dynamicSmemBytes = shared_bytes,
                                     .stream = stream};
  // Clears the error that it throws: a caller may go on without this kernel.
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

}  // namespace fastad::cuda
