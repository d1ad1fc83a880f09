// The inner loops of upsampling: one row at a time, contiguous, free of torch.
//
// Bilinear upsampling is separable. A source row is expanded to the output's width once (the
// gather), and every output row blends two expanded rows, which lie side by side in the L1 cache:
// the gather is done for H_l rows a level instead of H.

#pragma once

#include <cstdint>

#include "bilinear.h"

namespace fastad::cpu {

// out[x] = w0[x] * row[i0[x]] + w1[x] * row[i1[x]]
template <class A>
void expand_row(const A* row, const int* i0, const int* i1, const A* w0, const A* w1,
                int64_t width, A* out);

// How a level joins the others in an output row.
enum class Join { set_power, multiply_power, set_scaled, add_scaled };

// value = h0 * above[x] + h1 * below[x]; out[x] joins value^weight or weight * value.
template <class A>
void blend_row(const A* above, const A* below, A h0, A h1, Join join, A weight, int64_t width,
               A* out);

// The greatest value of a row; NaN where there is one.
template <class A>
A row_maximum(const A* row, int64_t width);

// The backward of one blend: with v = h0 * above[x] + h1 * below[x], x's share of the gradient is
// g[x] = grad[x] * others[x] * weight * v^(weight - 1) for the product, grad[x] * weight for the
// sum (others null); above_grad += h0 * g and below_grad += h1 * g.
template <class A>
void blend_row_backward(const A* grad, const A* others, const A* above, const A* below, A h0, A h1,
                        A weight, int64_t width, A* above_grad, A* below_grad);

// The backward of expand_row: row_grad[i] += w * expanded_grad[x]
template <class A>
void expand_row_backward(const A* expanded_grad, const int* i0, const int* i1, const A* w0,
                         const A* w1, int64_t width, A* row_grad);

}  // namespace fastad::cpu
