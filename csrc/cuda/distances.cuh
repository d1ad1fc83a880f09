// What the other ops call of distances.cu.

#pragma once

#include <vector>

#include "checks.h"

namespace fastad::cuda {

// Distances of features that `check_features` passed, a tensor (N, H, W) a level, in one launch on
// the current stream. `weights` are what `check_spatial_weights` returned, `comparison` what
// `check_comparison` did. `maximum`, if given, is set to the identity of maximum.cuh on the way.
std::vector<Tensor> compute_distances(const std::vector<Tensor>& teacher,
                                      const std::vector<Tensor>& student, double eps,
                                      const std::vector<Tensor>& weights,
                                      const Comparison& comparison, const Tensor* maximum);

}  // namespace fastad::cuda
