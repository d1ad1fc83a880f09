// Blocks of separable convolutions whose 1x1 convolutions multiply 16-bit integers (int16.h). The
// depthwise convolution, an eighth of the products, stays in float32.
//
// Each pixel of the input has a scale of its own. What is projected lies between 0 and 6 and has
// one fixed scale. Sums are in integers over the input's channels and over kDepth groups, then in
// float32.

#include <cmath>
#include <numeric>

#include "convolution/int16.h"
#include "convolution/separable.h"

namespace fastad::cpu {

#ifdef FASTAD_PANELS

namespace {

constexpr float kToInteger = kMost / 6.0f;  // of values that ReLU6 has bounded

// Sums of pairs in 32 bits: sum[r] = sum over i < pairs of x[r * stride + 2 i, + 1] * filters[i].
template <int kRows>
FASTAD_VNNI FASTAD_INLINE void multiply_pairs(__m512i (&sum)[kRows], const int16_t* x,
                                              int64_t stride, const int16_t* filters,
                                              int64_t pairs) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_si512();
  for (int64_t i = 0; i < pairs; ++i) {
    const __m512i filter = _mm512_loadu_si512(filters + i * 2 * kGroup);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + r * stride + 2 * i, sizeof(pair));
      const __m512i value = _mm512_set1_epi32(pair);
      // As in multiply_int16.
      asm("vpdpwssd %2, %1, %0" : "+v"(sum[r]) : "v"(value), "v"(filter));
    }
  }
}

// to (kRows, kGroup) = ReLU6 of x (kRows, channels) times a slab, plus bias. `scales` are the
// rows'.
template <int kRows>
FASTAD_VNNI __attribute__((noinline)) void expand_pixels(const int16_t* x, int64_t stride,
                                                         int64_t channels, const float* scales,
                                                         const int16_t* slab, const float* bias,
                                                         float* to) {
  __m512i sum[kRows];
  multiply_pairs<kRows>(sum, x, stride, slab, channels / 2);
  const __m512 scale = _mm512_loadu_ps(slab + channels * kGroup), added = _mm512_loadu_ps(bias);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(scales[r]));
    const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), by, added);
    // Each returns the second operand where one is NaN: NaN propagates.
    const __m512 positive = _mm512_max_ps(_mm512_setzero_ps(), value);
    _mm512_storeu_ps(to + r * kGroup, _mm512_min_ps(_mm512_set1_ps(6.0f), positive));
  }
}

// sums (kRows), `padded` apart, += x (kRows, depth) times a part of a slab.
template <int kRows>
FASTAD_VNNI __attribute__((noinline)) void project_pixels(const int16_t* x, int64_t depth,
                                                          const int16_t* filters, __m512 scale,
                                                          float* sums, int64_t padded) {
  __m512i sum[kRows];
  multiply_pairs<kRows>(sum, x, kDepth * kGroup, filters, depth / 2);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* const to = sums + r * padded;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), scale, _mm512_loadu_ps(to)));
  }
}

// Where the results of the depthwise convolution go: integers, `kDepth` groups side by side. NaN,
// which integers do not have, goes into `nan`, a group a pixel. Without intrinsics: what it is
// inlined into is compiled for no instruction set of its own.
struct StoreInteger {
  typedef int32_t Words __attribute__((vector_size(64)));
  typedef int16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));

  int16_t* to;
  float* nan;

  FASTAD_INLINE void operator()(int64_t p, int64_t, Lanes<16> value) const {
    const Words whole = __builtin_convertvector(value * kToInteger + 0.5f, Words);
    *reinterpret_cast<Halves*>(to + p * kDepth * kGroup) = __builtin_convertvector(whole, Halves);
    float* const at = nan + p * kGroup;
    store_lanes<16>(at, lanes_at<16>(at) + value * 0.0f);
  }
};

int64_t row_of(const Separable& a) { return (a.channels + 15) / 16 * 16; }

// One row of the input in integers, (width, row_of), and the pixels' scales.
FASTAD_VNNI void prepare_row(const Separable& a, const float* from, int16_t* to, float* scales) {
  for (int64_t p = 0; p < a.width; ++p, from += a.channels, to += row_of(a)) {
    const int64_t whole = a.channels / 16 * 16;
    const auto mask = static_cast<__mmask16>((1 << (a.channels - whole)) - 1);
    const __m512 last = _mm512_maskz_loadu_ps(mask, from + whole);
    __m512i most = larger_magnitude(_mm512_setzero_si512(), last);
    for (int64_t c = 0; c < whole; c += 16)
      most = larger_magnitude(most, _mm512_loadu_ps(from + c));
    const Int16Scale scale = int16_scale(most);
    to_int16(from, whole, scale.factor, to);
    if (mask != 0) {
      const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(last, _mm512_set1_ps(scale.factor)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + whole), _mm512_cvtepi32_epi16(value));
    }
    scales[p] = scale.inverse;
  }
}

// One row of the expanded band from a row of integers.
FASTAD_VNNI void expand_row(const Separable& a, int64_t group, const int16_t* x,
                            const float* scales, float* to) {
  constexpr int kRows = 16;
  const int16_t* const slab =
      static_cast<const int16_t*>(a.expand) + group * (a.channels + 2) * kGroup;
  const float* const bias = a.bias + group * kGroup;
  const int64_t stride = row_of(a);
  int64_t p = 0;
  for (; p + kRows <= a.width; p += kRows)
    expand_pixels<kRows>(x + p * stride, stride, a.channels, scales + p, slab, bias,
                         to + p * kGroup);
  for (; p < a.width; ++p)
    expand_pixels<1>(x + p * stride, stride, a.channels, scales + p, slab, bias, to + p * kGroup);
}

}  // namespace

int64_t separable_int16_floats(const Separable& a, int64_t band) {
  const int64_t pixels = band * a.columns, read = a.tall(band) * a.width;
  // Integers of the band and of the input are half as long.
  return pixels * (a.padded() + kDepth * kGroup / 2 + kGroup) + a.tall(band) * a.wide() * kGroup +
         read * (row_of(a) / 2 + 1);
}

FASTAD_VNNI void separable_int16(const Separable& a, const float* x, int64_t first, int64_t last,
                                 float* y, float* memory) {
  const int64_t pixels = (last - first) * a.columns, padded = a.padded(), wide = a.wide();
  const int64_t tall = a.tall(last - first), stride = row_of(a);
  float* const sums = memory;
  float* const expanded = sums + pixels * padded;
  float* const nan = expanded + tall * wide * kGroup;
  float* const scales = nan + pixels * kGroup;
  auto* const inner = reinterpret_cast<int16_t*>(scales + tall * a.width);
  int16_t* const input = inner + pixels * kDepth * kGroup;
  std::fill_n(nan, pixels * kGroup, 0.0f);
  for (int64_t p = 0; p < pixels; ++p) std::copy_n(a.bias + 2 * a.inner, padded, sums + p * padded);
  const auto row_at = [&](int64_t i) { return first * a.stride - a.top + i; };
  const auto is_inside = [&](int64_t i) { return row_at(i) >= 0 && row_at(i) < a.height; };
  if (a.expands)
    for (int64_t i = 0; i < tall; ++i)
      if (is_inside(i))
        prepare_row(a, x + row_at(i) * a.width * a.channels, input + i * a.width * stride,
                    scales + i * a.width);
  for (int64_t group = 0; group < a.inner / kGroup; group += kDepth) {
    const int64_t count = std::min(kDepth, a.inner / kGroup - group);
    for (int64_t g = 0; g < count; ++g) {
      for (int64_t i = 0; i < tall; ++i) {
        float* to = expanded + i * wide * kGroup;
        if (!is_inside(i)) {
          std::fill(to, to + wide * kGroup, 0.0f);
          continue;
        }
        to = begin_row(a, group + g, x + row_at(i) * a.width * a.channels, to);
        if (a.expands)
          expand_row(a, group + g, input + i * a.width * stride, scales + i * a.width, to);
      }
      for (int64_t i = 0; i < last - first; ++i) {
        const float* const from = expanded + i * a.stride * wide * kGroup;
        const StoreInteger store{inner + (i * a.columns * kDepth + g) * kGroup,
                                 nan + i * a.columns * kGroup};
        if (a.side == 3)
          depthwise_row<16, 3>(a, group + g, from, store);
        else
          depthwise_row<16, 5>(a, group + g, from, store);
      }
    }
    for (int64_t k = 0; k < padded; k += kGroup) {
      constexpr int kRows = 16;
      const int16_t* const slab = static_cast<const int16_t*>(a.project) + k * (a.inner + 2);
      const __m512 scale =
          _mm512_mul_ps(_mm512_loadu_ps(slab + a.inner * kGroup), _mm512_set1_ps(1 / kToInteger));
      const int16_t* const filters = slab + group * kGroup * kGroup;
      int64_t p = 0;
      for (; p + kRows <= pixels; p += kRows)
        project_pixels<kRows>(inner + p * kDepth * kGroup, count * kGroup, filters, scale,
                              sums + p * padded + k, padded);
      for (; p < pixels; ++p)
        project_pixels<1>(inner + p * kDepth * kGroup, count * kGroup, filters, scale,
                          sums + p * padded + k, padded);
    }
  }
  for (int64_t p = 0; p < pixels; ++p) {
    const float total = std::accumulate(nan + p * kGroup, nan + (p + 1) * kGroup, 0.0f);
    if (std::isnan(total)) std::fill_n(sums + p * padded, padded, total);
  }
  finish_band(a, x, first, pixels, sums, y);
}

#endif

}  // namespace fastad::cpu
