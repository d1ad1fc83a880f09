// Eight floats or doubles side by side, for partial sums and maxima. Compilers keep them in
// registers, unlike plain arrays.

#pragma once

#include "instruction_set.h"

namespace fastad::cpu {

#if defined(__GNUC__)

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(8 * sizeof(A)), aligned(sizeof(A)), may_alias));
};
template <class A>
using Vector = typename VectorOf<A>::type;

template <class A>
FASTAD_INLINE Vector<A> load(const A* x) {
  return *reinterpret_cast<const Vector<A>*>(x);
}

#else

template <class A>
struct Vector {
  A lane[8] = {};
  A operator[](int j) const { return lane[j]; }
};
template <class A>
Vector<A> load(const A* x) {
  Vector<A> v;
  for (int j = 0; j < 8; ++j) v.lane[j] = x[j];
  return v;
}
template <class A>
Vector<A> operator+(Vector<A> a, Vector<A> b) {
  for (int j = 0; j < 8; ++j) a.lane[j] += b.lane[j];
  return a;
}
template <class A>
Vector<A> operator-(Vector<A> a, Vector<A> b) {
  for (int j = 0; j < 8; ++j) a.lane[j] -= b.lane[j];
  return a;
}
template <class A>
Vector<A> operator*(Vector<A> a, Vector<A> b) {
  for (int j = 0; j < 8; ++j) a.lane[j] *= b.lane[j];
  return a;
}
template <class A>
Vector<A> operator*(Vector<A> a, A b) {
  for (int j = 0; j < 8; ++j) a.lane[j] *= b;
  return a;
}

#endif

}  // namespace fastad::cpu
