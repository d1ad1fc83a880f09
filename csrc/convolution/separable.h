// What blocks of separable convolutions share, in float32 and in int16: see separable.cpp.

#pragma once

#include <algorithm>
#include <cstdint>

#include "convolution/panel.h"

namespace fastad::cpu {

constexpr int64_t kGroup = 16;              // channels or filters that are computed together
constexpr int64_t kDepth = 4;               // groups between two sums of the results
constexpr int64_t kBandFloats = 32 * 1024;  // of a group of the expanded band: a part of L2

struct Separable {
  int64_t channels, inner, filters;
  int64_t height, width, rows, columns;  // of the input, of the result
  int64_t side, stride, top, left;       // of the depthwise convolution, and the zeros before
  bool expands, adds;
  // Of the 1x1 convolutions float32, (inner / kGroup, channels, kGroup) and (padded / kGroup,
  // inner, kGroup), or as many slabs of int16, which are two rows longer.
  const void* expand;
  const void* project;
  const float* depthwise;  // (inner / kGroup, side * side, kGroup)
  const float* bias;       // of the three, (inner + inner + padded)

  int64_t padded() const { return (filters + kGroup - 1) / kGroup * kGroup; }
  // Of the expanded band with its zeros.
  int64_t wide() const { return (columns - 1) * stride + side; }
  int64_t tall(int64_t count) const { return (count - 1) * stride + side; }
};

#ifdef FASTAD_PANELS

// Returns min(max(x, 0), 6). NaN propagates.
template <int kLanes>
FASTAD_INLINE Lanes<kLanes> relu6_of(Lanes<kLanes> x) {
  const Lanes<kLanes> six = Lanes<kLanes>{} + 6.0f, positive = relu_of<kLanes>(x);
  return positive > six ? six : positive;
}

// Zeros around one row of the expanded band, and without an expansion its channels, the input's.
// The pixels between the zeros.
FASTAD_INLINE float* begin_row(const Separable& a, int64_t group, const float* x, float* to) {
  std::fill(to, to + a.left * kGroup, 0.0f);
  std::fill(to + (a.left + a.width) * kGroup, to + a.wide() * kGroup, 0.0f);
  to += a.left * kGroup;
  if (!a.expands)
    for (int64_t p = 0; p < a.width; ++p)
      for (int64_t k = 0; k < kGroup; ++k)
        to[p * kGroup + k] = x[p * a.channels + group * kGroup + k];
  return to;
}

// Calls store(p, k, value) with ReLU6 of the depthwise convolution at pixel `first` + p < kPixels
// and the lanes from channel k on.
template <int kLanes, int kPixels, int kSide, class Store>
FASTAD_INLINE void depthwise_pixels(const Separable& a, const float* from, const float* filters,
                                    const float* bias, int64_t first, const Store& store) {
  const int64_t row = a.wide() * kGroup, step = a.stride * kGroup;
  for (int64_t k = 0; k < kGroup; k += kLanes) {
    Lanes<kLanes> sum[kPixels];
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) sum[p] = lanes_at<kLanes>(bias + k);
    for (int i = 0; i < kSide; ++i)
#pragma GCC unroll 5
      for (int j = 0; j < kSide; ++j) {
        const auto filter = lanes_at<kLanes>(filters + (i * kSide + j) * kGroup + k);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p)
          sum[p] += filter * lanes_at<kLanes>(from + i * row + j * kGroup + p * step + k);
      }
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) store(first + p, k, relu6_of<kLanes>(sum[p]));
  }
}

// One row of the result of the depthwise convolution.
template <int kLanes, int kSide, class Store>
FASTAD_INLINE void depthwise_row(const Separable& a, int64_t group, const float* from,
                                 const Store& store) {
  constexpr int kPixels = 8;
  const float* filters = a.depthwise + group * kSide * kSide * kGroup;
  const float* bias = a.bias + a.inner + group * kGroup;
  const int64_t step = a.stride * kGroup;
  int64_t p = 0;
  for (; p + kPixels <= a.columns; p += kPixels)
    depthwise_pixels<kLanes, kPixels, kSide>(a, from + p * step, filters, bias, p, store);
  for (; p < a.columns; ++p)
    depthwise_pixels<kLanes, 1, kSide>(a, from + p * step, filters, bias, p, store);
}

// y = sums (pixels, padded) + the input, where it is added. Rows from `first` on of the image x.
FASTAD_INLINE void finish_band(const Separable& a, const float* x, int64_t first, int64_t pixels,
                               const float* sums, float* y) {
  const int64_t padded = a.padded();
  const float* const added = a.adds ? x + first * a.width * a.channels : nullptr;
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t k = 0; k < a.filters; ++k)
      y[p * a.filters + k] =
          sums[p * padded + k] + (added == nullptr ? 0.0f : added[p * a.filters + k]);
}

#endif

// In int16: the floats of memory that a band of so many rows takes.
int64_t separable_int16_floats(const Separable& a, int64_t band);
// Rows first to last of the result, y (last - first, columns, filters), from the image x.
void separable_int16(const Separable& a, const float* x, int64_t first, int64_t last, float* y,
                     float* memory);

}  // namespace fastad::cpu
