// Numbers in half precision to floats and back, two at a time.

#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "cuda/memory.cuh"

namespace fastad::cuda {

// A 32-bit word as the numbers that memory holds in it: one float, or two of half precision, which
// take one instruction each this way, and one for both on the way back.
template <class T>
constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
template <>
inline constexpr int kPerWord<void> = 1;

__device__ __forceinline__ float word_to_float(unsigned word) {
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

#ifdef __CUDACC__
__device__ __forceinline__ float2 unpack_half(unsigned word) {
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
__device__ __forceinline__ __half2 pack_pair(float a, float b, Half) {
  return __floats2half2_rn(a, b);
}
__device__ __forceinline__ __nv_bfloat162 pack_pair(float a, float b, BFloat16) {
  return __floats2bfloat162_rn(a, b);
}
#else
inline Vector<float, 2> unpack_half(unsigned word) {
  return {Half(word & 0xffffu, Half::from_bits()), Half(word >> 16, Half::from_bits())};
}
template <class T>
Vector<T, 2> pack_pair(float a, float b, T) {
  return {static_cast<T>(a), static_cast<T>(b)};
}
#endif

template <class T>
__device__ __forceinline__ void unpack(unsigned word, float (&values)[kPerWord<T>]) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    values[0] = word_to_float(word << 16);
    values[1] = word_to_float(word & 0xffff0000u);
  } else if constexpr (std::is_same_v<T, Half>) {
    const auto both = unpack_half(word);
    memcpy(values, &both, sizeof(values));
  } else {
    values[0] = word_to_float(word);
  }
}

template <class T>
__device__ __forceinline__ unsigned pack(const float (&values)[kPerWord<T>]) {
  unsigned word;
  if constexpr (sizeof(T) == 2) {
    const auto both = pack_pair(values[0], values[1], T());
    memcpy(&word, &both, sizeof(word));
  } else {
    memcpy(&word, values, sizeof(word));
  }
  return word;
}

}  // namespace fastad::cuda
