// Products in 16-bit integers, summed in 32 bits: twice as many a cycle as in float32, and finer
// than bfloat16. See panel.h before including it.
//
// Inputs of one result are scaled together, to at most kMost. A filter's values are scaled so that
// no sum can exceed 32 bits, whatever the inputs: the absolute values that are summed in integers
// (a chunk) add up to at most kMostSum. Chunks are summed in float32.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#pragma GCC diagnostic push
#ifndef __clang__
// Of g++ 12 in its own header.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "convolution/panel.h"

#ifdef FASTAD_PANELS
#define FASTAD_VNNI __attribute__((target("arch=x86-64-v4,avx512vnni")))
#endif

namespace fastad::cpu {

constexpr int64_t kMost = 16383;      // 2^14 - 1
constexpr int64_t kMostSum = 131071;  // 2^17 - 1: the product is below 2^31

// Whether this processor multiplies pairs of 16-bit integers (AVX-512 VNNI).
bool has_int16();

// How many of a multiple of 32 channels are summed in integers.
constexpr int64_t int16_chunk(int64_t channels) {
  return channels % 128 == 0 ? 128 : channels < 128 ? channels : channels % 64 == 0 ? 64 : 32;
}

// The int16 numbers of a slab: `length` values, an even number, of each of a panel's filters, and
// their float32 scales.
constexpr int64_t slab_size(int64_t length) { return (length + 2) * kPanel; }

inline const float* slab_scales(const int16_t* slab, int64_t length) {
  return reinterpret_cast<const float*>(slab + length * kPanel);
}

// A slab from `value(k, i)`, the i-th of `length` values of the panel's k-th filter, in chunks of
// `chunk` values: pairs side by side, (length / 2, kWide, 2), then (kWide) float32.
template <int64_t kWide = kPanel, class Value>
void pack_slab(int64_t length, int64_t chunk, Value value, int16_t* slab) {
  float scales[kWide];
  for (int64_t k = 0; k < kWide; ++k) {
    double largest = 0, most = 0;
    for (int64_t start = 0; start < length; start += chunk) {
      double sum = 0;
      for (int64_t i = start; i < start + chunk && i < length; ++i) {
        const double size = value(k, i) < 0 ? -value(k, i) : value(k, i);
        sum += size;
        // NaN propagates.
        if (size > largest || size != size) largest = size;
      }
      if (sum > most || sum != sum) most = sum;
    }
    // Rounding adds at most a half to each.
    const double by_sum = static_cast<double>(kMostSum - (chunk + 1) / 2) / most;
    const double by_value = 32767 / largest;
    // Filters this small count as zero.
    const double factor = most > 1e-30 ? (by_sum < by_value ? by_sum : by_value) : 0;
    scales[k] = factor > 0 ? static_cast<float>(1 / factor) : static_cast<float>(most);
    for (int64_t i = 0; i < length; ++i) {
      const double scaled = value(k, i) * factor;
      // NaN propagates through the scale.
      const auto nearest =
          static_cast<int16_t>(scaled == scaled ? (scaled < 0 ? scaled - 0.5 : scaled + 0.5) : 0.0);
      slab[(i / 2 * kWide + k) * 2 + i % 2] = nearest;
    }
  }
  std::memcpy(slab + length * kWide, scales, sizeof(scales));
}

constexpr int kInt16Rows = 8;  // rows of inputs whose sums with two vectors stay in registers

#ifdef FASTAD_PANELS

// m[r * kPanel + k] = (more ? what is there : 0) + rows[r * row_stride] * scales[k] * sum over
// i < segments, j < 2 * pairs of x[r * stride + i * step + j] * filters[i * 2 * pairs + j][k],
// where r < kInt16Rows.
void multiply_int16(const int16_t* x, int64_t stride, int64_t step, const int16_t* filters,
                    int64_t segments, int64_t pairs, const float* scales, const float* rows,
                    int64_t row_stride, bool more, float* m);

// Returns the larger absolute value, as bits. The bits of NaN are the largest, so NaN propagates.
FASTAD_VNNI FASTAD_INLINE __m512i larger_magnitude(__m512i most, __m512 x) {
  const __m512i size = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
  return _mm512_max_epu32(most, size);
}

// The factor from inputs to integers, and the factor back.
struct Int16Scale {
  float factor, inverse;
};

FASTAD_VNNI FASTAD_INLINE Int16Scale int16_scale(__m512i most) {
  const uint32_t bits = _mm512_reduce_max_epu32(most);
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  if (largest < 1e-30f) return {0.0f, 0.0f};
  return {kMost / largest, largest / kMost};
}

// to[i] = from[i] * factor, i < count, a multiple of 16.
FASTAD_VNNI FASTAD_INLINE void to_int16(const float* FASTAD_RESTRICT from, int64_t count,
                                        float factor, int16_t* FASTAD_RESTRICT to) {
  const __m512 by = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < count; i += 16) {
    const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + i), by));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm512_cvtepi32_epi16(value));
  }
}

#endif

}  // namespace fastad::cpu
