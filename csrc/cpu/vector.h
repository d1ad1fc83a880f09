// Floats or doubles side by side, eight where nothing else is said, for partial sums and maxima.
// Compilers keep them in registers, unlike plain arrays.

#pragma once

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

#endif

}  // namespace fastad::cpu
