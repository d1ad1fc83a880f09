#include "cpu/upsampling_loops.h"

#include <cmath>

#include "cpu/vector.h"

namespace fastad::cpu {
namespace {

template <class A>
FASTAD_INLINE void expand(const A* FASTAD_RESTRICT row, const int* FASTAD_RESTRICT i0,
                          const int* FASTAD_RESTRICT i1, const A* FASTAD_RESTRICT w0,
                          const A* FASTAD_RESTRICT w1, int64_t width, A* FASTAD_RESTRICT out) {
  int64_t x = 0;
#if defined(__GNUC__) && !defined(__clang__)
  if constexpr (sizeof(A) == sizeof(int)) {
    // Where eight neighbours read eight neighbouring pixels, one load and two shuffles replace
    // sixteen gathers. All upsampling does but by factors close to 1. `last` keeps the load inside
    // the row.
    const int last = width > 0 ? i1[width - 1] - 7 : -1;
    for (; x + 8 <= width; x += 8) {
      const int base = i0[x] < last ? i0[x] : last;
      if (base < 0 || i1[x + 7] - base > 7) break;
      const Vector<A> source = load(row + base);
      const Vector<A> a = __builtin_shuffle(source, load(i0 + x) - base);
      const Vector<A> b = __builtin_shuffle(source, load(i1 + x) - base);
      *reinterpret_cast<Vector<A>*>(out + x) = load(w0 + x) * a + load(w1 + x) * b;
    }
  }
#endif
  for (; x < width; ++x) out[x] = w0[x] * row[i0[x]] + w1[x] * row[i1[x]];
}

// The usual case, a plain product, for `kCount` levels in one pass over the row.
template <class A, int kCount, bool kFirst>
FASTAD_INLINE void multiply(const Blend<A>* levels, int64_t width, A* FASTAD_RESTRICT out) {
  const A *FASTAD_RESTRICT above[kCount], *FASTAD_RESTRICT below[kCount];
  A h0[kCount], h1[kCount];
  for (int i = 0; i < kCount; ++i) {
    above[i] = levels[i].above, below[i] = levels[i].below;
    h0[i] = levels[i].h0, h1[i] = levels[i].h1;
  }
  for (int64_t x = 0; x < width; ++x) {
    A value = h0[0] * above[0][x] + h1[0] * below[0][x];
    for (int i = 1; i < kCount; ++i) value *= h0[i] * above[i][x] + h1[i] * below[i][x];
    out[x] = kFirst ? value : out[x] * value;
  }
}

template <class A>
FASTAD_INLINE void join(const Blend<A>* levels, int64_t count, bool product, int64_t width,
                        A* FASTAD_RESTRICT out) {
  int64_t done = 0;
  if (product) {
    while (done < count && levels[done].weight == A(1)) ++done;
    if (done >= 3) {
      done = 3;
      multiply<A, 3, true>(levels, width, out);
    } else if (done == 2) {
      multiply<A, 2, true>(levels, width, out);
    } else if (done == 1) {
      multiply<A, 1, true>(levels, width, out);
    }
  }
  if (done == 0) {
    for (int64_t x = 0; x < width; ++x) out[x] = product ? A(1) : A(0);
  }
  for (; done < count; ++done) {
    const Blend<A>& level = levels[done];
    const A *FASTAD_RESTRICT above = level.above, *FASTAD_RESTRICT below = level.below;
    if (product && level.weight == A(1)) {
      multiply<A, 1, false>(&level, width, out);
    } else if (product) {
      for (int64_t x = 0; x < width; ++x) {
        out[x] *= std::pow(level.h0 * above[x] + level.h1 * below[x], level.weight);
      }
    } else {
      for (int64_t x = 0; x < width; ++x) {
        out[x] += level.weight * (level.h0 * above[x] + level.h1 * below[x]);
      }
    }
  }
}

template <class A, class Y>
FASTAD_INLINE void narrow_all(const A* FASTAD_RESTRICT row, int64_t width, Y* FASTAD_RESTRICT out) {
  for (int64_t x = 0; x < width; ++x) out[x] = narrow<Y>(row[x]);
}

template <class Y, class A>
FASTAD_INLINE void widen_all(const Y* FASTAD_RESTRICT row, int64_t width, A* FASTAD_RESTRICT out) {
  for (int64_t x = 0; x < width; ++x) out[x] = widen<A>(row[x]);
}

template <class A>
FASTAD_INLINE A greater_or_nan(A a, A b) {
  return ((a > b) | (a != a)) ? a : b;
}

template <class A>
FASTAD_INLINE void update_maximum(const A* row, int64_t width, A* lanes) {
  int64_t x = 0;
#if defined(__GNUC__)
  // Both comparisons are false once a lane is NaN, so NaN propagates.
  Vector<A> low = load(lanes), high = load(lanes + 8);
  for (; x + 16 <= width; x += 16) {
    const Vector<A> a = load(row + x), b = load(row + x + 8);
    low = ((a > low) | (a != a)) ? a : low;
    high = ((b > high) | (b != b)) ? b : high;
  }
  *reinterpret_cast<Vector<A>*>(lanes) = low;
  *reinterpret_cast<Vector<A>*>(lanes + 8) = high;
#endif
  for (; x < width; ++x) lanes[x % 16] = greater_or_nan<A>(row[x], lanes[x % 16]);
}

template <class A>
FASTAD_INLINE void join_backward(const A* FASTAD_RESTRICT grad, const A* FASTAD_RESTRICT others,
                                 Blend<A> level, int64_t width, A* FASTAD_RESTRICT above_grad,
                                 A* FASTAD_RESTRICT below_grad) {
  if (level.weight == A(0)) return;  // value^0 is constant: no gradient, even at 0
  for (int64_t x = 0; x < width; ++x) {
    A g = grad[x] * level.weight;
    if (others != nullptr) {
      g *= others[x];
      if (level.weight != A(1)) {
        const A value = level.h0 * level.above[x] + level.h1 * level.below[x];
        g *= std::pow(value, level.weight - A(1));
      }
    }
    above_grad[x] += level.h0 * g;
    below_grad[x] += level.h1 * g;
  }
}

}  // namespace

template <class A>
void expand_row(const A* row, const int* i0, const int* i1, const A* w0, const A* w1, int64_t width,
                A* out) {
  dispatch<expand<A>>(row, i0, i1, w0, w1, width, out);
}

template <class A>
void join_row(const Blend<A>* levels, int64_t count, bool product, int64_t width, A* out) {
  dispatch<join<A>>(levels, count, product, width, out);
}

template <class A, class Y>
void narrow_row(const A* row, int64_t width, Y* out) {
  dispatch<narrow_all<A, Y>>(row, width, out);
}

template <class Y, class A>
void widen_row(const Y* row, int64_t width, A* out) {
  dispatch<widen_all<Y, A>>(row, width, out);
}

template <class A>
void join_row_backward(const A* grad, const A* others, Blend<A> level, int64_t width, A* above_grad,
                       A* below_grad) {
  dispatch<join_backward<A>>(grad, others, level, width, above_grad, below_grad);
}

template <class A>
void expand_row_backward(const A* expanded_grad, const int* i0, const int* i1, const A* w0,
                         const A* w1, int64_t width, A* row_grad) {
  for (int64_t x = 0; x < width; ++x) {
    row_grad[i0[x]] += w0[x] * expanded_grad[x];
    row_grad[i1[x]] += w1[x] * expanded_grad[x];
  }
}

template <class A>
void Maximum<A>::update(const A* row, int64_t width) {
  dispatch<update_maximum<A>>(row, width, lanes);
}

template <class A>
Maximum<A>::Maximum(A first) {
  for (A& lane : lanes) lane = first;
}

template <class A>
A Maximum<A>::value() const {
  A result = lanes[0];
  for (const A lane : lanes) result = greater_or_nan<A>(lane, result);
  return result;
}

#define FASTAD_ROWS(A)                                                                             \
  template void expand_row(const A*, const int*, const int*, const A*, const A*, int64_t, A*);     \
  template void join_row(const Blend<A>*, int64_t, bool, int64_t, A*);                             \
  template void join_row_backward(const A*, const A*, Blend<A>, int64_t, A*, A*);                  \
  template void expand_row_backward(const A*, const int*, const int*, const A*, const A*, int64_t, \
                                    A*);                                                           \
  template struct Maximum<A>;                                                                      \
  template void narrow_row(const A*, int64_t, Half*);                                              \
  template void narrow_row(const A*, int64_t, BFloat16*);                                          \
  template void widen_row(const Half*, int64_t, A*);                                               \
  template void widen_row(const BFloat16*, int64_t, A*);
FASTAD_ROWS(float)
FASTAD_ROWS(double)
#undef FASTAD_ROWS

}  // namespace fastad::cpu
