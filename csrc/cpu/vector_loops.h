// The CPU inner loops of an image's level that is one vector, its elements side by side: a norm, a
// distance, a gradient. Free of torch.

#pragma once

#include <cstdint>

#include "cpu/distance_loops.h"

namespace fastad::cpu {

// The sum of the squares.
template <class A>
A square_sum(const A* values, int64_t count);

// 1/2 sum (t * t_inverse - s * s_inverse)^2
template <class A>
A vector_distance(const A* t, const A* s, int64_t count, A t_inverse, A s_inverse);

// out[i] = s[i] * s_scale - t[i] * t_scale, in the type of out. `past_cache`: memory is written
// without being read into the cache first.
template <class A>
void vector_gradient(const A* t, const A* s, int64_t count, A t_scale, A s_scale, void* out,
                     DType type, bool past_cache);

}  // namespace fastad::cpu
