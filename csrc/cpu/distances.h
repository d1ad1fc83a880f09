// What other ops share with distances.

#pragma once

#include "cpu/pyramid.h"

namespace fastad::cpu {

// -> list of (N, H_l, W_l), float (double where any feature is)
std::vector<Tensor> distances(std::vector<Tensor> teacher, std::vector<Tensor> student, double eps,
                              OptionalTensors spatial_weights);

// What `check_spatial_weights` returns, with no value that is negative, infinite or NaN.
std::vector<Tensor> weights_of(const OptionalTensors& spatial_weights,
                               const std::vector<Tensor>& student, ScalarType dtype);

// Writes the gradient of a block whose `distances` have been replaced by the upstream gradient g.
//
// With u = s_hat - t_hat and the chain rule through s_hat = s / |s|, the gradient is
// g (u - s_hat (s_hat . u)) / |s| = s * s_scale - t * t_scale, where s_hat . u is `projection`.
template <class A>
void write_gradient(const Pyramid& pyramid, const Block<A>& block, const Features& out) {
  const Level& level = pyramid.levels()[block.level];
  A *t_scale = block.t_inverse, *s_scale = block.s_inverse;
  for (int64_t p = 0; p < block.pixels; ++p) {
    const A factor = block.distances[p] * block.s_inverse[p];
    t_scale[p] *= factor;
    s_scale[p] *= factor * (A(1) - block.projection[p]);
  }
  gradient<A>(block.teacher, block.student, level.layout, out.channels, block.pixels, t_scale,
              s_scale, out.at(block.image, block.pixel), out.type, out.row_stride());
}

}  // namespace fastad::cpu
