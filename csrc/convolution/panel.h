// The innermost loop of convolutions in prediction: a few pixels times a panel of filters, whose
// sums stay in registers.
//
// The files of this folder are compiled with contraction of sums of products to FMA, which doubles
// the speed (setup.py). Nothing depends on their rounding being the same on every machine.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "instruction_set.h"

// FASTAD_NO_PANELS: a test of what other machines do.
#if defined(FASTAD_X86_64) && !defined(FASTAD_NO_PANELS)
#define FASTAD_PANELS
#endif

namespace fastad::cpu {

constexpr int64_t kPanel = 32;  // filters that are computed together

// Whether this processor has the instructions, AVX2 at least.
inline bool has_panels() {
#ifdef FASTAD_PANELS
  return kInstructionSet >= InstructionSet::x86_64_v3;
#else
  return false;
#endif
}

// Whether it has 32 registers of 16 lanes.
inline bool has_wide_panels() { return kInstructionSet == InstructionSet::x86_64_v4; }

#ifdef FASTAD_PANELS

// Floats side by side, at any address. As a template argument the type would lose its
// alignment: pass the number of lanes.
template <int kLanes>
struct LanesOf {
  typedef float type __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
};
template <int kLanes>
using Lanes = typename LanesOf<kLanes>::type;

template <int kLanes>
FASTAD_INLINE Lanes<kLanes> lanes_at(const float* x) {
  return *reinterpret_cast<const Lanes<kLanes>*>(x);
}

template <int kLanes>
FASTAD_INLINE void store_lanes(float* x, Lanes<kLanes> value) {
  *reinterpret_cast<Lanes<kLanes>*>(x) = value;
}

// Returns max(x, 0). NaN propagates.
template <int kLanes>
FASTAD_INLINE Lanes<kLanes> relu_of(Lanes<kLanes> x) {
  const Lanes<kLanes> zero{};
  return x < zero ? zero : x;
}

// sum[r][k] += sum over c < count of x[r * stride + c] * filters[c * kStep + k].
template <int kLanes, int kRows, int kVectors, int64_t kStep = kPanel>
FASTAD_INLINE void multiply_add(Lanes<kLanes> (&sum)[kRows][kVectors],
                                const float* FASTAD_RESTRICT x, int64_t stride,
                                const float* FASTAD_RESTRICT filters, int64_t count) {
  for (int64_t c = 0; c < count; ++c) {
    Lanes<kLanes> filter[kVectors];
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k)
      filter[k] = lanes_at<kLanes>(filters + c * kStep + k * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float value = x[r * stride + c];
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) sum[r][k] += value * filter[k];
    }
  }
}

// to[r * kPanel + k] = sum[r][k].
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void store_panel(const Lanes<kLanes> (&sum)[kRows][kVectors], float* to) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) store_lanes<kLanes>(to + r * kPanel + k * kLanes, sum[r][k]);
}

// Memory of a thread, kept from call to call: fresh pages would take as long as the arithmetic. One
// for each `kUse`: 0 of the inner loops, 1 of what calls them.
template <int kUse = 0>
inline float* scratch(int64_t count) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t size = 0;
  if (size < count) {
    size = 0;
    memory.reset(static_cast<float*>(std::aligned_alloc(64, (count * 4 + 63) / 64 * 64)));
    if (memory == nullptr) throw std::bad_alloc();
    size = count;
  }
  return memory.get();
}

#endif

}  // namespace fastad::cpu
