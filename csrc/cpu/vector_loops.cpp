#include "cpu/vector_loops.h"

#include <cstring>

#include "cpu/by_type.h"
#include "cpu/vector.h"
#include "half_precision.h"

#ifdef FASTAD_X86_64
#include <xmmintrin.h>
#endif

namespace fastad::cpu {
namespace {

// ---- sums ---------------------------------------------------------------------------------------

// sum_i value(i)^2, where value_at(i) is one value and vector_at(i) the eight from i on. Eight sums
// of eight, on every instruction set: one does not wait for another, and the order does not depend
// on the machine.
template <class A, class VectorAt, class ValueAt>
FASTAD_INLINE A sum_of_squares(int64_t count, VectorAt vector_at, ValueAt value_at) {
  constexpr int kSums = 8, kStep = 8 * kSums;
  Vector<A> sums[kSums] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int k = 0; k < kSums; ++k) {
      const Vector<A> x = vector_at(i + 8 * k);
      sums[k] = sums[k] + x * x;
    }
  }
  A tail = 0;
  for (; i < count; ++i) tail += value_at(i) * value_at(i);
  const Vector<A> sum =
      ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  const A half[2] = {(sum[0] + sum[4]) + (sum[2] + sum[6]), (sum[1] + sum[5]) + (sum[3] + sum[7])};
  return (half[0] + half[1]) + tail;
}

template <class A>
FASTAD_INLINE A square_sum_of(const A* x, int64_t count) {
  return sum_of_squares<A>(
      count, [&](int64_t i) FASTAD_LAMBDA { return load(x + i); },
      [&](int64_t i) FASTAD_LAMBDA { return x[i]; });
}

template <class A>
FASTAD_INLINE A distance_of(const A* t, const A* s, int64_t count, A t_inverse, A s_inverse) {
  return A(0.5) * sum_of_squares<A>(
                      count,
                      [&](int64_t i) FASTAD_LAMBDA {
                        return load(t + i) * t_inverse - load(s + i) * s_inverse;
                      },
                      [&](int64_t i) FASTAD_LAMBDA { return t[i] * t_inverse - s[i] * s_inverse; });
}

// ---- gradient -----------------------------------------------------------------------------------

FASTAD_INLINE void write_past_cache(const char* from, char* to, int64_t bytes) {
#ifdef FASTAD_X86_64
  const bool aligned = reinterpret_cast<uintptr_t>(to) % sizeof(__m128) == 0;
  for (; aligned && bytes >= 64; from += 64, to += 64, bytes -= 64) {
    for (int i = 0; i < 16; i += 4) {
      _mm_stream_ps(reinterpret_cast<float*>(to) + i,
                    _mm_load_ps(reinterpret_cast<const float*>(from) + i));
    }
  }
#endif
  std::memcpy(to, from, bytes);
}

template <class A, class Y>
FASTAD_INLINE void gradient_of(const A* FASTAD_RESTRICT t, const A* FASTAD_RESTRICT s,
                               int64_t count, A t_scale, A s_scale, void* data, bool past_cache) {
  Y* FASTAD_RESTRICT out = static_cast<Y*>(data);
  if (!past_cache) {
    for (int64_t i = 0; i < count; ++i) out[i] = narrow<Y>(s[i] * s_scale - t[i] * t_scale);
    return;
  }
  constexpr int64_t kPart = 512;
  alignas(64) Y part[kPart];
  for (int64_t first = 0; first < count; first += kPart) {
    const int64_t length = count - first < kPart ? count - first : kPart;
    for (int64_t i = 0; i < length; ++i) {
      part[i] = narrow<Y>(s[first + i] * s_scale - t[first + i] * t_scale);
    }
    write_past_cache(reinterpret_cast<const char*>(part), reinterpret_cast<char*>(out + first),
                     length * static_cast<int64_t>(sizeof(Y)));
  }
#ifdef FASTAD_X86_64
  _mm_sfence();  // for other threads
#endif
}

}  // namespace

template <class A>
A square_sum(const A* values, int64_t count) {
  return dispatch<square_sum_of<A>>(values, count);
}

template <class A>
A vector_distance(const A* t, const A* s, int64_t count, A t_inverse, A s_inverse) {
  return dispatch<distance_of<A>>(t, s, count, t_inverse, s_inverse);
}

template <class A>
void vector_gradient(const A* t, const A* s, int64_t count, A t_scale, A s_scale, void* out,
                     DType type, bool past_cache) {
  by_type(type, [&](auto value) {
    dispatch<gradient_of<A, decltype(value)>>(t, s, count, t_scale, s_scale, out, past_cache);
  });
}

#define FASTAD_VECTOR(A)                                         \
  template A square_sum(const A*, int64_t);                      \
  template A vector_distance(const A*, const A*, int64_t, A, A); \
  template void vector_gradient(const A*, const A*, int64_t, A, A, void*, DType, bool);
FASTAD_VECTOR(float)
FASTAD_VECTOR(double)
#undef FASTAD_VECTOR

}  // namespace fastad::cpu
