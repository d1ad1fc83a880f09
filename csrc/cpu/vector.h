// Floats or doubles side by side, eight where nothing else is said, for partial sums and maxima.
// Compilers keep them in registers, unlike plain arrays.

#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "instruction_set.h"

namespace fastad::cpu {

#if defined(__GNUC__)

template <class A, int kLanes>
struct VectorOf {
  typedef A type __attribute__((vector_size(kLanes * sizeof(A)), aligned(sizeof(A)), may_alias));
};
template <class A, int kLanes = 8>
using Vector = typename VectorOf<A, kLanes>::type;

template <class A, int kLanes = 8>
FASTAD_INLINE Vector<A, kLanes> load(const A* x) {
  return *reinterpret_cast<const Vector<A, kLanes>*>(x);
}

template <class A, int kLanes>
FASTAD_INLINE void store(A* x, Vector<A, kLanes> value) {
  *reinterpret_cast<Vector<A, kLanes>*>(x) = value;
}

template <class A, int... kLane>
FASTAD_INLINE Vector<A, sizeof...(kLane)> fused_lanes(Vector<A, sizeof...(kLane)> a, A b,
                                                      Vector<A, sizeof...(kLane)> sum,
                                                      std::integer_sequence<int, kLane...>) {
  return Vector<A, sizeof...(kLane)>{std::fma(a[kLane], b, sum[kLane])...};
}

// In each four lanes those of both vectors that the places name: 0 to 3 of a, 4 to 7 of b.
template <int k0, int k1, int k2, int k3, class A, int... kLane>
FASTAD_INLINE Vector<A, sizeof...(kLane)> pick(Vector<A, sizeof...(kLane)> a,
                                               Vector<A, sizeof...(kLane)> b,
                                               std::integer_sequence<int, kLane...>) {
  constexpr int kPlaces[4] = {k0, k1, k2, k3};
  constexpr auto place = [](int lane, int k) {
    const int in_both = k < 4 ? k : k - 4 + static_cast<int>(sizeof...(kLane));
    return lane / 4 * 4 + in_both;
  };
#if defined(__clang__)
  return __builtin_shufflevector(a, b, place(kLane, kPlaces[kLane % 4])...);
#else
  using Index = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  return __builtin_shuffle(a, b,
                           Vector<Index, sizeof...(kLane)>{place(kLane, kPlaces[kLane % 4])...});
#endif
}

// Lane 4 q + c of vector b becomes lane 4 q + b of vector c, for b, c < 4.
template <class A, int kLanes>
FASTAD_INLINE void transpose_fours(Vector<A, kLanes>* rows) {
  constexpr std::make_integer_sequence<int, kLanes> lanes{};
  const auto a = pick<0, 4, 1, 5, A>(rows[0], rows[1], lanes);
  const auto b = pick<2, 6, 3, 7, A>(rows[0], rows[1], lanes);
  const auto c = pick<0, 4, 1, 5, A>(rows[2], rows[3], lanes);
  const auto d = pick<2, 6, 3, 7, A>(rows[2], rows[3], lanes);
  rows[0] = pick<0, 1, 4, 5, A>(a, c, lanes);
  rows[1] = pick<2, 3, 6, 7, A>(a, c, lanes);
  rows[2] = pick<0, 1, 4, 5, A>(b, d, lanes);
  rows[3] = pick<2, 3, 6, 7, A>(b, d, lanes);
}

#else

template <class A, int kLanes = 8>
struct Vector {
  A lane[kLanes] = {};
  A operator[](int j) const { return lane[j]; }
};
template <class A, int kLanes = 8>
Vector<A, kLanes> load(const A* x) {
  Vector<A, kLanes> v;
  for (int j = 0; j < kLanes; ++j) v.lane[j] = x[j];
  return v;
}
template <class A, int kLanes>
void store(A* x, Vector<A, kLanes> value) {
  for (int j = 0; j < kLanes; ++j) x[j] = value.lane[j];
}
template <class A, int kLanes>
Vector<A, kLanes> operator+(Vector<A, kLanes> a, Vector<A, kLanes> b) {
  for (int j = 0; j < kLanes; ++j) a.lane[j] += b.lane[j];
  return a;
}
template <class A, int kLanes>
Vector<A, kLanes> operator-(Vector<A, kLanes> a, Vector<A, kLanes> b) {
  for (int j = 0; j < kLanes; ++j) a.lane[j] -= b.lane[j];
  return a;
}
template <class A, int kLanes>
Vector<A, kLanes> operator*(Vector<A, kLanes> a, Vector<A, kLanes> b) {
  for (int j = 0; j < kLanes; ++j) a.lane[j] *= b.lane[j];
  return a;
}
template <class A, int kLanes>
Vector<A, kLanes> operator*(Vector<A, kLanes> a, A b) {
  for (int j = 0; j < kLanes; ++j) a.lane[j] *= b;
  return a;
}
template <class A, int kLanes>
void transpose_fours(Vector<A, kLanes>* rows) {
  for (int q = 0; q < kLanes; q += 4)
    for (int b = 0; b < 4; ++b)
      for (int c = b + 1; c < 4; ++c) std::swap(rows[b].lane[q + c], rows[c].lane[q + b]);
}

#endif

// sum + a * b, `kFused`: rounded once, where the instruction set has that.
template <bool kFused, class A, int kLanes>
FASTAD_INLINE Vector<A, kLanes> multiply_add(Vector<A, kLanes> a, A b, Vector<A, kLanes> sum) {
#if defined(__GNUC__)
  if constexpr (kFused) {
    return fused_lanes<A>(a, b, sum, std::make_integer_sequence<int, kLanes>{});
  }
#endif
  return sum + a * b;
}

}  // namespace fastad::cpu
