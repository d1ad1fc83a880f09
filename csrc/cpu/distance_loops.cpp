#include "cpu/distance_loops.h"

#include <cmath>
#include <type_traits>

#include "cpu/by_type.h"
#include "cpu/vector.h"
#include "half_precision.h"

namespace fastad::cpu {
namespace {

// Sums over the channels of an interleaved pixel run in this many lanes on every instruction set:
// the order of summation, and so the result, does not depend on the machine.
constexpr int64_t kLanes = 16;

// sum_c value(c)^2, where value_at(c) is one value and vector_at(c) the eight from c on.
template <class A, class VectorAt, class ValueAt>
FASTAD_INLINE A square_sum(int64_t channels, VectorAt vector_at, ValueAt value_at) {
  Vector<A> low{}, high{};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Vector<A> a = vector_at(c), b = vector_at(c + 8);
    low = low + a * a;
    high = high + b * b;
  }
  low = low + high;
  A tail = 0;
  for (; c < channels; ++c) tail += value_at(c) * value_at(c);
  const A quarter[4] = {low[0] + low[4], low[1] + low[5], low[2] + low[6], low[3] + low[7]};
  return ((quarter[0] + quarter[2]) + (quarter[1] + quarter[3])) + tail;
}

// ---- stage --------------------------------------------------------------------------------------

// X -> A; the values are copied to scratch only where X is not A.
template <class X, class A>
FASTAD_INLINE void stage_planar(const X* FASTAD_RESTRICT x, int64_t stride, int64_t channels,
                                int64_t pixels, A* FASTAD_RESTRICT scratch,
                                A* FASTAD_RESTRICT square_sums) {
  for (int64_t p = 0; p < pixels; ++p) square_sums[p] = 0;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    const X* FASTAD_RESTRICT row[4];
    for (int k = 0; k < 4; ++k) row[k] = x + (c + k) * stride;
    for (int64_t p = 0; p < pixels; ++p) {
      const A v0 = widen<A>(row[0][p]), v1 = widen<A>(row[1][p]);
      const A v2 = widen<A>(row[2][p]), v3 = widen<A>(row[3][p]);
      if constexpr (!std::is_same_v<X, A>) {
        scratch[(c + 0) * pixels + p] = v0;
        scratch[(c + 1) * pixels + p] = v1;
        scratch[(c + 2) * pixels + p] = v2;
        scratch[(c + 3) * pixels + p] = v3;
      }
      square_sums[p] += (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3);
    }
  }
  for (; c < channels; ++c) {
    for (int64_t p = 0; p < pixels; ++p) {
      const A v = widen<A>(x[c * stride + p]);
      if constexpr (!std::is_same_v<X, A>) scratch[c * pixels + p] = v;
      square_sums[p] += v * v;
    }
  }
}

template <class X, class A>
FASTAD_INLINE void stage_interleaved(const X* x, int64_t stride, int64_t channels, int64_t pixels,
                                     A* scratch, A* FASTAD_RESTRICT square_sums) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A* values;
    if constexpr (std::is_same_v<X, A>) {
      values = x + p * stride;
    } else {
      const X* FASTAD_RESTRICT in = x + p * stride;
      A* FASTAD_RESTRICT out = scratch + p * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] = widen<A>(in[c]);
      values = out;
    }
    square_sums[p] = square_sum<A>(
        channels, [&](int64_t c) FASTAD_LAMBDA { return load(values + c); },
        [&](int64_t c) FASTAD_LAMBDA { return values[c]; });
  }
}

// Teacher and student of different layouts: the block is transposed on its way to scratch.
template <class X, class A>
FASTAD_INLINE void stage_transposed(const X* FASTAD_RESTRICT x, Layout from, int64_t stride,
                                    int64_t channels, int64_t pixels, A* FASTAD_RESTRICT scratch,
                                    A* FASTAD_RESTRICT square_sums) {
  for (int64_t p = 0; p < pixels; ++p) square_sums[p] = 0;
  if (from == Layout::planar) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) {
        const A v = widen<A>(x[c * stride + p]);
        scratch[p * channels + c] = v;
        square_sums[p] += v * v;
      }
    }
  } else {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        const A v = widen<A>(x[p * stride + c]);
        scratch[c * pixels + p] = v;
        square_sums[p] += v * v;
      }
    }
  }
}

template <class X, class A>
FASTAD_INLINE Staged<A> stage_as(const void* data, Layout from, int64_t stride, Layout to,
                                 int64_t channels, int64_t pixels, A* scratch, A* square_sums) {
  const X* x = static_cast<const X*>(data);
  const int64_t scratch_stride = to == Layout::planar ? pixels : channels;
  if (from != to) {
    stage_transposed<X, A>(x, from, stride, channels, pixels, scratch, square_sums);
    return {scratch, scratch_stride};
  }
  if (to == Layout::planar) {
    stage_planar<X, A>(x, stride, channels, pixels, scratch, square_sums);
  } else {
    stage_interleaved<X, A>(x, stride, channels, pixels, scratch, square_sums);
  }
  if constexpr (std::is_same_v<X, A>) {
    return {x, stride};
  } else {
    return {scratch, scratch_stride};
  }
}

// ---- standard -----------------------------------------------------------------------------------

// A channel's numbers less its mean, times its factor. `standard` may be null: mean 0, factor 1.
template <class A>
struct Standard {
  A mean, factor;

  FASTAD_INLINE Standard(const A* standard, int64_t channels, int64_t c)
      : mean(standard == nullptr ? A(0) : standard[c]),
        factor(standard == nullptr ? A(1) : standard[channels + c]) {}
  FASTAD_INLINE A operator()(A x) const { return (x - mean) * factor; }
};

template <class A>
FASTAD_INLINE void standard_squares_of(Staged<A> t, Layout layout, int64_t channels, int64_t pixels,
                                       A* FASTAD_RESTRICT square_sums) {
  if (layout == Layout::interleaved) {
    const A *const mean = t.standard, *const factor = mean + channels;
    for (int64_t p = 0; p < pixels; ++p) {
      const A* const pixel = t.data + p * t.stride;
      square_sums[p] = square_sum<A>(
          channels,
          [&](int64_t c)
              FASTAD_LAMBDA { return (load(pixel + c) - load(mean + c)) * load(factor + c); },
          [&](int64_t c) FASTAD_LAMBDA { return (pixel[c] - mean[c]) * factor[c]; });
    }
    return;
  }
  for (int64_t p = 0; p < pixels; ++p) square_sums[p] = 0;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    const A *FASTAD_RESTRICT r0 = t.data + c * t.stride, *FASTAD_RESTRICT r1 = r0 + t.stride;
    const A *FASTAD_RESTRICT r2 = r1 + t.stride, *FASTAD_RESTRICT r3 = r2 + t.stride;
    const Standard<A> at0(t.standard, channels, c), at1(t.standard, channels, c + 1);
    const Standard<A> at2(t.standard, channels, c + 2), at3(t.standard, channels, c + 3);
    for (int64_t p = 0; p < pixels; ++p) {
      const A v0 = at0(r0[p]), v1 = at1(r1[p]), v2 = at2(r2[p]), v3 = at3(r3[p]);
      square_sums[p] += (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3);
    }
  }
  for (; c < channels; ++c) {
    const A* FASTAD_RESTRICT row = t.data + c * t.stride;
    const Standard<A> at(t.standard, channels, c);
    for (int64_t p = 0; p < pixels; ++p) square_sums[p] += at(row[p]) * at(row[p]);
  }
}

// ---- inverse norms ------------------------------------------------------------------------------

template <class A>
FASTAD_INLINE void inverse_norms_of(int64_t pixels, A eps, A* FASTAD_RESTRICT t,
                                    A* FASTAD_RESTRICT s, A* FASTAD_RESTRICT projection,
                                    A* FASTAD_RESTRICT t_projection) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A t_norm = std::sqrt(t[p]), s_norm = std::sqrt(s[p]);
    t[p] = A(1) / (t_norm < eps ? eps : t_norm);
    s[p] = A(1) / (s_norm < eps ? eps : s_norm);
    const A t_hat = t_norm < eps ? t_norm * t[p] : A(1);
    const A s_hat = s_norm < eps ? s_norm * s[p] : A(1);
    projection[p] = s_norm < eps ? A(-1) : A(0.5) * (A(1) - t_hat * t_hat);
    t_projection[p] = t_norm < eps ? A(-1) : A(0.5) * (A(1) - s_hat * s_hat);
  }
}

// ---- distance -----------------------------------------------------------------------------------

template <class A, bool kStandard>
FASTAD_INLINE void distance_planar(const A* FASTAD_RESTRICT t, int64_t t_stride, const A* standard,
                                   const A* FASTAD_RESTRICT s, int64_t s_stride, int64_t channels,
                                   int64_t pixels, const A* FASTAD_RESTRICT t_inverse,
                                   const A* FASTAD_RESTRICT s_inverse,
                                   A* FASTAD_RESTRICT distances) {
  for (int64_t p = 0; p < pixels; ++p) distances[p] = 0;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    const A *FASTAD_RESTRICT t0 = t + c * t_stride, *FASTAD_RESTRICT t1 = t0 + t_stride;
    const A *FASTAD_RESTRICT t2 = t1 + t_stride, *FASTAD_RESTRICT t3 = t2 + t_stride;
    const A *FASTAD_RESTRICT s0 = s + c * s_stride, *FASTAD_RESTRICT s1 = s0 + s_stride;
    const A *FASTAD_RESTRICT s2 = s1 + s_stride, *FASTAD_RESTRICT s3 = s2 + s_stride;
    if constexpr (kStandard) {
      const Standard<A> at0(standard, channels, c), at1(standard, channels, c + 1);
      const Standard<A> at2(standard, channels, c + 2), at3(standard, channels, c + 3);
      for (int64_t p = 0; p < pixels; ++p) {
        const A a = t_inverse[p], b = s_inverse[p];
        const A u0 = at0(t0[p]) * a - s0[p] * b, u1 = at1(t1[p]) * a - s1[p] * b;
        const A u2 = at2(t2[p]) * a - s2[p] * b, u3 = at3(t3[p]) * a - s3[p] * b;
        distances[p] += (u0 * u0 + u1 * u1) + (u2 * u2 + u3 * u3);
      }
      continue;
    }
    for (int64_t p = 0; p < pixels; ++p) {
      const A a = t_inverse[p], b = s_inverse[p];
      const A u0 = t0[p] * a - s0[p] * b, u1 = t1[p] * a - s1[p] * b;
      const A u2 = t2[p] * a - s2[p] * b, u3 = t3[p] * a - s3[p] * b;
      distances[p] += (u0 * u0 + u1 * u1) + (u2 * u2 + u3 * u3);
    }
  }
  for (; c < channels; ++c) {
    const Standard<A> at(standard, channels, c);
    for (int64_t p = 0; p < pixels; ++p) {
      const A u = at(t[c * t_stride + p]) * t_inverse[p] - s[c * s_stride + p] * s_inverse[p];
      distances[p] += u * u;
    }
  }
  for (int64_t p = 0; p < pixels; ++p) distances[p] *= A(0.5);
}

template <class A>
FASTAD_INLINE void distance_interleaved(const A* t, int64_t t_stride, const A* s, int64_t s_stride,
                                        int64_t channels, int64_t pixels, const A* t_inverse,
                                        const A* s_inverse, A* FASTAD_RESTRICT distances) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A *t_pixel = t + p * t_stride, *s_pixel = s + p * s_stride;
    const A t_scale = t_inverse[p], s_scale = s_inverse[p];
    distances[p] =
        A(0.5) *
        square_sum<A>(
            channels,
            [&](int64_t c)
                FASTAD_LAMBDA { return load(t_pixel + c) * t_scale - load(s_pixel + c) * s_scale; },
            [&](int64_t c) FASTAD_LAMBDA { return t_pixel[c] * t_scale - s_pixel[c] * s_scale; });
  }
}

template <class A>
FASTAD_INLINE void standard_distance_interleaved(Staged<A> t, Staged<A> s, int64_t channels,
                                                 int64_t pixels, const A* t_inverse,
                                                 const A* s_inverse, A* FASTAD_RESTRICT distances) {
  const A *const mean = t.standard, *const factor = mean + channels;
  for (int64_t p = 0; p < pixels; ++p) {
    const A *const t_pixel = t.data + p * t.stride, *const s_pixel = s.data + p * s.stride;
    const A a = t_inverse[p], b = s_inverse[p];
    distances[p] =
        A(0.5) * square_sum<A>(
                     channels,
                     [&](int64_t c) FASTAD_LAMBDA {
                       return (load(t_pixel + c) - load(mean + c)) * load(factor + c) * a -
                              load(s_pixel + c) * b;
                     },
                     [&](int64_t c) FASTAD_LAMBDA {
                       return (t_pixel[c] - mean[c]) * factor[c] * a - s_pixel[c] * b;
                     });
  }
}

template <class A>
FASTAD_INLINE void distance_of(Staged<A> t, Staged<A> s, Layout layout, int64_t channels,
                               int64_t pixels, const A* t_inverse, const A* s_inverse,
                               A* distances) {
  if (layout == Layout::planar && t.standard != nullptr) {
    distance_planar<A, true>(t.data, t.stride, t.standard, s.data, s.stride, channels, pixels,
                             t_inverse, s_inverse, distances);
  } else if (layout == Layout::planar) {
    distance_planar<A, false>(t.data, t.stride, nullptr, s.data, s.stride, channels, pixels,
                              t_inverse, s_inverse, distances);
  } else if (t.standard != nullptr) {
    standard_distance_interleaved<A>(t, s, channels, pixels, t_inverse, s_inverse, distances);
  } else {
    distance_interleaved<A>(t.data, t.stride, s.data, s.stride, channels, pixels, t_inverse,
                            s_inverse, distances);
  }
}

// ---- gradient -----------------------------------------------------------------------------------

// Without a standard, the loops are as if there were none.
template <class A, class Y, bool kStandard>
FASTAD_INLINE void gradient_as(Staged<A> t, Staged<A> s, Layout layout, int64_t channels,
                               int64_t pixels, const A* FASTAD_RESTRICT t_scale,
                               const A* FASTAD_RESTRICT s_scale, void* data, int64_t out_stride) {
  if (layout == Layout::planar) {
    for (int64_t c = 0; c < channels; ++c) {
      const A* FASTAD_RESTRICT t_row = t.data + c * t.stride;
      const A* FASTAD_RESTRICT s_row = s.data + c * s.stride;
      Y* FASTAD_RESTRICT out = static_cast<Y*>(data) + c * out_stride;
      if constexpr (kStandard) {
        const Standard<A> at(t.standard, channels, c);
        for (int64_t p = 0; p < pixels; ++p)
          out[p] = narrow<Y>(s_row[p] * s_scale[p] - at(t_row[p]) * t_scale[p]);
      } else {
        for (int64_t p = 0; p < pixels; ++p)
          out[p] = narrow<Y>(s_row[p] * s_scale[p] - t_row[p] * t_scale[p]);
      }
    }
  } else {
    for (int64_t p = 0; p < pixels; ++p) {
      const A* FASTAD_RESTRICT t_pixel = t.data + p * t.stride;
      const A* FASTAD_RESTRICT s_pixel = s.data + p * s.stride;
      Y* FASTAD_RESTRICT out = static_cast<Y*>(data) + p * out_stride;
      const A a = s_scale[p], b = t_scale[p];
      if constexpr (kStandard) {
        const A *FASTAD_RESTRICT mean = t.standard, *FASTAD_RESTRICT factor = mean + channels;
        for (int64_t c = 0; c < channels; ++c)
          out[c] = narrow<Y>(s_pixel[c] * a - (t_pixel[c] - mean[c]) * factor[c] * b);
      } else {
        for (int64_t c = 0; c < channels; ++c) out[c] = narrow<Y>(s_pixel[c] * a - t_pixel[c] * b);
      }
    }
  }
}

template <class Y>
FASTAD_INLINE void scale_as(void* data, int64_t count, double factor) {
  using A = std::conditional_t<std::is_same_v<Y, double>, double, float>;
  Y* FASTAD_RESTRICT x = static_cast<Y*>(data);
  const A f = static_cast<A>(factor);
  for (int64_t i = 0; i < count; ++i) x[i] = narrow<Y>(widen<A>(x[i]) * f);
}

}  // namespace

// ---- the functions that distance_loops.h declares -----------------------------------------------

template <class A>
Staged<A> stage(const void* x, DType type, Layout from, int64_t stride, Layout to, int64_t channels,
                int64_t pixels, A* scratch, A* square_sums) {
  return by_type(type, [&](auto value) {
    return dispatch<stage_as<decltype(value), A>>(x, from, stride, to, channels, pixels, scratch,
                                                  square_sums);
  });
}

template <class A>
void standard_squares(Staged<A> t, Layout layout, int64_t channels, int64_t pixels,
                      A* square_sums) {
  dispatch<standard_squares_of<A>>(t, layout, channels, pixels, square_sums);
}

template <class A>
void inverse_norms(int64_t pixels, double eps, A* t, A* s, A* projection, A* t_projection) {
  dispatch<inverse_norms_of<A>>(pixels, static_cast<A>(eps), t, s, projection, t_projection);
}

template <class A>
void distance(Staged<A> t, Staged<A> s, Layout layout, int64_t channels, int64_t pixels,
              const A* t_inverse, const A* s_inverse, A* distances) {
  dispatch<distance_of<A>>(t, s, layout, channels, pixels, t_inverse, s_inverse, distances);
}

template <class A>
void gradient(Staged<A> t, Staged<A> s, Layout layout, int64_t channels, int64_t pixels,
              const A* t_scale, const A* s_scale, void* out, DType type, int64_t out_stride) {
  by_type(type, [&](auto value) {
    using Y = decltype(value);
    if (t.standard == nullptr) {
      dispatch<gradient_as<A, Y, false>>(t, s, layout, channels, pixels, t_scale, s_scale, out,
                                         out_stride);
    } else {
      dispatch<gradient_as<A, Y, true>>(t, s, layout, channels, pixels, t_scale, s_scale, out,
                                        out_stride);
    }
  });
}

void scale(void* x, DType type, int64_t count, double factor) {
  by_type(type, [&](auto value) { dispatch<scale_as<decltype(value)>>(x, count, factor); });
}

#define FASTAD_BLOCK(A)                                                                            \
  template Staged<A> stage(const void*, DType, Layout, int64_t, Layout, int64_t, int64_t, A*, A*); \
  template void standard_squares(Staged<A>, Layout, int64_t, int64_t, A*);                         \
  template void inverse_norms(int64_t, double, A*, A*, A*, A*);                                    \
  template void distance(Staged<A>, Staged<A>, Layout, int64_t, int64_t, const A*, const A*, A*);  \
  template void gradient(Staged<A>, Staged<A>, Layout, int64_t, int64_t, const A*, const A*,       \
                         void*, DType, int64_t);
FASTAD_BLOCK(float)
FASTAD_BLOCK(double)
#undef FASTAD_BLOCK

}  // namespace fastad::cpu
