// The inner loops of upsampling: one row at a time, contiguous, free of torch.
//
// Bilinear upsampling is separable. A source row is expanded to the output's width once (the
// gather), and every output row blends two expanded rows, which lie side by side in the L1 cache:
// the gather is done for H_l rows a level instead of H.

#pragma once

#include <cstdint>

#include "bilinear.h"
#include "half_precision.h"

namespace fastad::cpu {

// out[x] = w0[x] * row[i0[x]] + w1[x] * row[i1[x]]
template <class A>
void expand_row(const A* row, const int* i0, const int* i1, const A* w0, const A* w1, int64_t width,
                A* out);

// A level's share in an output row: value = h0 * above[x] + h1 * below[x].
template <class A>
struct Blend {
  const A *above, *below;
  A h0, h1, weight;
};

// out[x] = product of value^weight over the levels, or sum of weight * value; 1 or 0 for no level.
template <class A>
void join_row(const Blend<A>* levels, int64_t count, bool product, int64_t width, A* out);

// A row in half precision, Y, and back.
template <class A, class Y>
void narrow_row(const A* row, int64_t width, Y* out);
template <class Y, class A>
void widen_row(const Y* row, int64_t width, A* out);

// The maximum so far, in lanes. NaN propagates. Lanes are joined once an image, not once a row: the
// join is a chain of unpredictable branches.
template <class A>
struct Maximum {
  A lanes[16];

  explicit Maximum(A first);
  void update(const A* row, int64_t width);
  A value() const;
};

// The backward of join_row for one level: g[x] = grad[x] * others[x] * weight *
// value^(weight - 1) for the product of the others, grad[x] * weight for the sum (others null);
// above_grad += h0 * g and below_grad += h1 * g.
template <class A>
void join_row_backward(const A* grad, const A* others, Blend<A> level, int64_t width, A* above_grad,
                       A* below_grad);

// The backward of expand_row: row_grad[i] += w * expanded_grad[x]
template <class A>
void expand_row_backward(const A* expanded_grad, const int* i0, const int* i1, const A* w0,
                         const A* w1, int64_t width, A* row_grad);

}  // namespace fastad::cpu
