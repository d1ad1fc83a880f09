#include "cpu/rows.h"

#include <cmath>

#include "cpu/block.h"

namespace fastad::cpu {
namespace {

template <class A>
FASTAD_INLINE void expand(const A* FASTAD_RESTRICT row, const int* FASTAD_RESTRICT i0,
                          const int* FASTAD_RESTRICT i1, const A* FASTAD_RESTRICT w0,
                          const A* FASTAD_RESTRICT w1, int64_t width, A* FASTAD_RESTRICT out) {
  for (int64_t x = 0; x < width; ++x) out[x] = w0[x] * row[i0[x]] + w1[x] * row[i1[x]];
}

template <class A>
FASTAD_INLINE void blend(const A* FASTAD_RESTRICT above, const A* FASTAD_RESTRICT below, A h0, A h1,
                         Join join, A weight, int64_t width, A* FASTAD_RESTRICT out) {
  const bool power = join == Join::set_power || join == Join::multiply_power;
  if (power && weight != A(1)) {
    for (int64_t x = 0; x < width; ++x) {
      const A value = std::pow(h0 * above[x] + h1 * below[x], weight);
      out[x] = join == Join::set_power ? value : out[x] * value;
    }
  } else if (join == Join::set_power) {
    for (int64_t x = 0; x < width; ++x) out[x] = h0 * above[x] + h1 * below[x];
  } else if (join == Join::multiply_power) {
    for (int64_t x = 0; x < width; ++x) out[x] *= h0 * above[x] + h1 * below[x];
  } else if (join == Join::set_scaled) {
    for (int64_t x = 0; x < width; ++x) out[x] = weight * (h0 * above[x] + h1 * below[x]);
  } else {
    for (int64_t x = 0; x < width; ++x) out[x] += weight * (h0 * above[x] + h1 * below[x]);
  }
}

template <class A>
FASTAD_INLINE A maximum(const A* row, int64_t width) {
  constexpr int kLanes = 32;
  A lanes[kLanes];
  for (int j = 0; j < kLanes; ++j) lanes[j] = row[0];
  int64_t x = 0;
  // Neither comparison holds once a lane is NaN, so it stays.
  for (; x + kLanes <= width; x += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const A v = row[x + j];
      lanes[j] = (v > lanes[j]) | (v != v) ? v : lanes[j];
    }
  }
  A result = row[0];
  for (int j = 0; j < kLanes; ++j) result = lanes[j] > result || lanes[j] != lanes[j] ? lanes[j] : result;
  for (; x < width; ++x) result = row[x] > result || row[x] != row[x] ? row[x] : result;
  return result;
}

template <class A>
FASTAD_INLINE void blend_backward(const A* FASTAD_RESTRICT grad, const A* FASTAD_RESTRICT others,
                                  const A* FASTAD_RESTRICT above, const A* FASTAD_RESTRICT below,
                                  A h0, A h1, A weight, int64_t width,
                                  A* FASTAD_RESTRICT above_grad, A* FASTAD_RESTRICT below_grad) {
  for (int64_t x = 0; x < width; ++x) {
    A g = grad[x] * weight;
    if (others != nullptr) {
      g *= others[x];
      if (weight != A(1)) g *= std::pow(h0 * above[x] + h1 * below[x], weight - A(1));
    }
    above_grad[x] += h0 * g;
    below_grad[x] += h1 * g;
  }
}

#define FASTAD_ROWS(A)                                                                             \
  FASTAD_CLONES void expand_##A(const A* row, const int* i0, const int* i1, const A* w0,           \
                                const A* w1, int64_t width, A* out) {                              \
    expand<A>(row, i0, i1, w0, w1, width, out);                                                    \
  }                                                                                                \
  FASTAD_CLONES void blend_##A(const A* above, const A* below, A h0, A h1, Join join, A weight,    \
                               int64_t width, A* out) {                                            \
    blend<A>(above, below, h0, h1, join, weight, width, out);                                      \
  }                                                                                                \
  FASTAD_CLONES A maximum_##A(const A* row, int64_t width) { return maximum<A>(row, width); }      \
  FASTAD_CLONES void blend_backward_##A(const A* grad, const A* others, const A* above,            \
                                        const A* below, A h0, A h1, A weight, int64_t width,       \
                                        A* above_grad, A* below_grad) {                            \
    blend_backward<A>(grad, others, above, below, h0, h1, weight, width, above_grad, below_grad);  \
  }
FASTAD_ROWS(float)
FASTAD_ROWS(double)
#undef FASTAD_ROWS

}  // namespace

#define FASTAD_ROWS(A)                                                                            \
  template <>                                                                                     \
  void expand_row(const A* row, const int* i0, const int* i1, const A* w0, const A* w1,           \
                  int64_t width, A* out) {                                                        \
    expand_##A(row, i0, i1, w0, w1, width, out);                                                  \
  }                                                                                               \
  template <>                                                                                     \
  void blend_row(const A* above, const A* below, A h0, A h1, Join join, A weight, int64_t width,  \
                 A* out) {                                                                        \
    blend_##A(above, below, h0, h1, join, weight, width, out);                                    \
  }                                                                                               \
  template <>                                                                                     \
  A row_maximum(const A* row, int64_t width) {                                                    \
    return maximum_##A(row, width);                                                               \
  }                                                                                               \
  template <>                                                                                     \
  void blend_row_backward(const A* grad, const A* others, const A* above, const A* below, A h0,   \
                          A h1, A weight, int64_t width, A* above_grad, A* below_grad) {          \
    blend_backward_##A(grad, others, above, below, h0, h1, weight, width, above_grad, below_grad); \
  }                                                                                               \
  template <>                                                                                     \
  void expand_row_backward(const A* expanded_grad, const int* i0, const int* i1, const A* w0,     \
                           const A* w1, int64_t width, A* row_grad) {                             \
    for (int64_t x = 0; x < width; ++x) {                                                         \
      row_grad[i0[x]] += w0[x] * expanded_grad[x];                                                \
      row_grad[i1[x]] += w1[x] * expanded_grad[x];                                                \
    }                                                                                             \
  }
FASTAD_ROWS(float)
FASTAD_ROWS(double)
#undef FASTAD_ROWS

}  // namespace fastad::cpu
