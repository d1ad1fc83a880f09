// What other ops share with distances.

#pragma once

#include "cpu/pyramid.h"

namespace fastad::cpu {

// -> list of (N, H_l, W_l), float (double where any feature is)
std::vector<Tensor> distances(std::vector<Tensor> teacher, std::vector<Tensor> student, double eps,
                              OptionalTensors spatial_weights, int64_t distance,
                              OptionalTensors channels);

// What `check_spatial_weights` returns, with no value that is negative, infinite or NaN.
std::vector<Tensor> weights_of(const OptionalTensors& spatial_weights,
                               const std::vector<Tensor>& student, ScalarType dtype);

// The sum over the images of the distances of each level as one vector. `gradients`: none, or the
// student's, or those and the teacher's, of the sum of coefficients[level] times these.
std::vector<double> sum_flat_distances(const Pyramid& pyramid,
                                       const std::vector<double>& coefficients, double eps,
                                       const std::vector<Tensor>& gradients);

// Writes the gradient of a block whose `distances` have been replaced by the upstream gradient g,
// laid out as the level's blocks are, into `out` of type `type`.
//
// With u = s_hat - t_hat and the chain rule through s_hat = s / |s|, the gradient is
// g (u - s_hat (s_hat . u)) / |s| = s * s_scale - t * t_scale, where s_hat . u is `projection`. The
// teacher's is the same with the roles exchanged. The scales take the place of the projection.
template <class A>
void write_gradient(const Level& level, const Block<A>& block, void* out, DType type,
                    int64_t stride, bool of_teacher = false) {
  const A *own = block.s_inverse, *other = block.t_inverse;
  A *own_scale = block.projection, *other_scale = block.other_scale;
  Staged<A> x = block.student, y = block.teacher;
  if (of_teacher) std::swap(own, other), std::swap(x, y), own_scale = block.t_projection;
  for (int64_t p = 0; p < block.pixels; ++p) {
    const A factor = block.distances[p] * own[p];
    own_scale[p] = own[p] * (factor * (A(1) - own_scale[p]));
    other_scale[p] = other[p] * factor;
  }
  gradient<A>(y, x, level.layout, level.student.channels, block.pixels, other_scale, own_scale, out,
              type, stride);
}

}  // namespace fastad::cpu
