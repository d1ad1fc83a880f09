// What distillation_loss.cu calls of flat_distances.cu.

#pragma once

#include <tuple>
#include <vector>

#include "checks.h"

namespace fastad::cuda {

// The loss of levels as one vector each, a number, or one a level where `by_level`, of arguments
// that were checked. coefficients[l]: of a level's sum over the images. `gradients`: none, or the
// student's, or those and the teacher's, which are written.
Tensor flat_loss(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student,
                 const std::vector<double>& coefficients, bool by_level, double eps,
                 const OptionalTensors& spatial_weights, const OptionalTensors& channels,
                 const std::vector<Tensor>& gradients);

}  // namespace fastad::cuda
