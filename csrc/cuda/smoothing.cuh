// A Gaussian over maps, and the transpose of that over their gradients.

#pragma once

#include "checks.h"

namespace fastad::cuda {

// Maps `from` (N, H, W) under a Gaussian of `sigma` > 0 pixels -> `to`, of the same shape, and
// raises `maximum` (N,), where it is given, to the images' maxima: it must hold the identity of
// maximum.cuh. One launch on the current stream.
void smooth(const Tensor& from, const Tensor& to, const Tensor* maximum, double sigma);

// The gradient of the maps before from the one after.
void unsmooth(const Tensor& from, const Tensor& to, double sigma);

}  // namespace fastad::cuda
