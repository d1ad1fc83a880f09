#include "cpu/smoothing_loops.h"

#include <algorithm>

#include "cpu/vector.h"

namespace fastad::cpu {
namespace {

// Bytes of a vector: of a register with AVX-512, and of one without.
constexpr int kWide = 64, kNarrow = 32;

// Two vectors of four rows: eight sums hide the latency of an addition.
template <class A, int kBytes>
FASTAD_INLINE void down(const A* const* rows, const A* weights, int64_t taps, int64_t width, A* out,
                        int64_t stride) {
  constexpr int kLanes = kBytes / sizeof(A);
  for (int64_t x = 0; x < width; x += 2 * kLanes) {
    Vector<A, kLanes> low[kBlurRows] = {}, high[kBlurRows] = {};
    const auto add = [&](int64_t row, int first, int end) FASTAD_LAMBDA {
      const auto a = load<A, kLanes>(rows[row] + x), b = load<A, kLanes>(rows[row] + x + kLanes);
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
      for (int r = first; r < end; ++r) {
        const A weight = weights[row - r];
        low[r] = low[r] + a * weight;
        high[r] = high[r] + b * weight;
      }
    };
    // The first rows are the first sum's alone, the last ones the last sum's: 0 * NaN is no 0.
    add(0, 0, 1), add(1, 0, 2), add(2, 0, 3);
    for (int64_t row = 3; row < taps; ++row) add(row, 0, 4);
    add(taps, 1, 4), add(taps + 1, 2, 4), add(taps + 2, 3, 4);
    for (int r = 0; r < kBlurRows; ++r) {
      store<A, kLanes>(out + r * stride + x, low[r]);
      store<A, kLanes>(out + r * stride + x + kLanes, high[r]);
    }
  }
}

// A vector read at one place counts in the sums of its own columns, and of those before it.
template <class A, int kBytes>
FASTAD_INLINE void across(const A* row, const A* weights, int64_t taps, int64_t width, A* out) {
  constexpr int kLanes = kBytes / sizeof(A), kVectors = kBytes / 8;
  constexpr int64_t kStep = kVectors * kLanes;
  A rest[kStep];
  for (int64_t x = 0; x < width; x += kStep) {
    Vector<A, kLanes> sums[kVectors] = {};
    for (int64_t first = 0; first < std::min<int64_t>(kLanes, taps); ++first) {
      const A* FASTAD_RESTRICT next = row + x + first;
      Vector<A, kLanes> shifted[kVectors + 1];
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
      for (int v = 0; v < kVectors; ++v) shifted[v + 1] = load<A, kLanes>(next + v * kLanes);
      next += kVectors * kLanes;
      for (int64_t i = first;;) {
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
        for (int v = 0; v < kVectors; ++v) {
          shifted[v] = shifted[v + 1];
          sums[v] = sums[v] + shifted[v] * weights[i];
        }
        i += kLanes;
        if (i >= taps) break;
        shifted[kVectors] = load<A, kLanes>(next);
        next += kLanes;
      }
    }
    A* to = x + kStep <= width ? out + x : rest;
    for (int v = 0; v < kVectors; ++v) store<A, kLanes>(to + v * kLanes, sums[v]);
    if (to == rest) std::copy_n(rest, width - x, out + x);
  }
}

}  // namespace

template <class A>
void blur_down(const A* const* rows, const A* weights, int64_t taps, int64_t width, A* out,
               int64_t stride) {
  if (kInstructionSet == InstructionSet::x86_64_v4) {
    dispatch<down<A, kWide>>(rows, weights, taps, width, out, stride);
  } else {
    dispatch<down<A, kNarrow>>(rows, weights, taps, width, out, stride);
  }
}

template <class A>
void blur_across(const A* row, const A* weights, int64_t taps, int64_t width, A* out) {
  if (kInstructionSet == InstructionSet::x86_64_v4) {
    dispatch<across<A, kWide>>(row, weights, taps, width, out);
  } else {
    dispatch<across<A, kNarrow>>(row, weights, taps, width, out);
  }
}

#define FASTAD_BLURS(A)                                                              \
  template void blur_down(const A* const*, const A*, int64_t, int64_t, A*, int64_t); \
  template void blur_across(const A*, const A*, int64_t, int64_t, A*);
FASTAD_BLURS(float)
FASTAD_BLURS(double)
#undef FASTAD_BLURS

}  // namespace fastad::cpu
