#include "cpu/smoothing_loops.h"

#include "cpu/vector.h"

namespace fastad::cpu {
namespace {

// `kVectors` of `kBytes` of each of the four rows. Rows at distance i above and below slide through
// registers: a step reads one more on each side.
template <class A, int kBytes, int kVectors, bool kFused>
FASTAD_INLINE void sums(const A* const* rows, const A* weights, int64_t radius, int64_t width,
                        A* const* out) {
  constexpr int kLanes = kBytes / sizeof(A);
  using Row = Vector<A, kLanes>;
  for (int64_t x = 0; x < width; x += kVectors * kLanes) {
    Row above[kVectors][4], below[kVectors][4], sums[kVectors][4];
#if defined(__GNUC__)
#pragma GCC unroll 2
#endif
    for (int v = 0; v < kVectors; ++v) {
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
      for (int b = 0; b < 4; ++b) {
        above[v][b] = below[v][b] = load<A, kLanes>(rows[b] + x + v * kLanes);
        sums[v][b] = above[v][b] * weights[0];
      }
    }
    // Row b - i lies in above[(b - i) mod 4], row b + i in below[(b + i) mod 4]. kPhase is i mod 4.
    const auto step = [&]<int kPhase>(std::integral_constant<int, kPhase>,
                                      int64_t i) FASTAD_LAMBDA {
      const A weight = weights[i];
#if defined(__GNUC__)
#pragma GCC unroll 2
#endif
      for (int v = 0; v < kVectors; ++v) {
        above[v][(4 - kPhase) % 4] = load<A, kLanes>(rows[-i] + x + v * kLanes);
        below[v][(3 + kPhase) % 4] = load<A, kLanes>(rows[3 + i] + x + v * kLanes);
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
        for (int b = 0; b < 4; ++b) {
          const Row both = above[v][(b + 4 - kPhase) % 4] + below[v][(b + kPhase) % 4];
          sums[v][b] = multiply_add<kFused, A, kLanes>(both, weight, sums[v][b]);
        }
      }
    };
    for (int64_t i = 1; i <= radius; i += 4) {
      step(std::integral_constant<int, 1>{}, i);
      if (i + 1 > radius) break;
      step(std::integral_constant<int, 2>{}, i + 1);
      if (i + 2 > radius) break;
      step(std::integral_constant<int, 3>{}, i + 2);
      if (i + 3 > radius) break;
      step(std::integral_constant<int, 0>{}, i + 3);
    }
#if defined(__GNUC__)
#pragma GCC unroll 2
#endif
    for (int v = 0; v < kVectors; ++v) {
      transpose_fours<A, kLanes>(sums[v]);
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
      for (int b = 0; b < 4; ++b) store<A, kLanes>(out[b] + x + v * kLanes, sums[v][b]);
    }
  }
}

}  // namespace

template <class A>
void blur(const A* const* rows, const A* weights, int64_t radius, int64_t width, A* const* out) {
  // As many rows as there are registers for: 32 of 64 bytes, or 16 of 32.
  if (kInstructionSet == InstructionSet::x86_64_v4) {
    dispatch<sums<A, 64, 2, true>>(rows, weights, radius, width, out);
  } else if (kInstructionSet == InstructionSet::x86_64_v3) {
    dispatch<sums<A, 32, 1, true>>(rows, weights, radius, width, out);
  } else {
    dispatch<sums<A, 32, 1, false>>(rows, weights, radius, width, out);
  }
}

template void blur(const float* const*, const float*, int64_t, int64_t, float* const*);
template void blur(const double* const*, const double*, int64_t, int64_t, double* const*);

}  // namespace fastad::cpu
