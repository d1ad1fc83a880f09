// Spatial weights of a pyramid's pixels, as kernels read them.

#pragma once

#include "cuda/feature_pyramid.cuh"

namespace fastad::cuda {

// Spatial weights of a level: (N, H_l, W_l), side by side within an image.
struct PixelWeights {
  const void* data;
  int64_t image_stride;  // 0 where all images have the same
};

// `weights`: what `check_spatial_weights` returned, and `result`, one a level, left where there are
// none.
inline void set_weights(const std::vector<Tensor>& weights, PixelWeights* result) {
  for (size_t l = 0; l < weights.size(); ++l) {
    result[l] = {.data = weights[l].const_data_ptr(), .image_stride = weights[l].stride(0)};
  }
}

// Whether the kernels compiled for all options have to run.
inline bool is_general(const std::vector<Tensor>& weights, const Comparison& comparison) {
  return !weights.empty() || comparison.l2 || !comparison.channels.empty();
}

// NaN in place of a weight that is negative or not finite.
template <class Acc>
__device__ __forceinline__ Acc finite_weight(Acc weight) {
  const bool finite = weight - weight == 0;
  return finite && weight >= 0 ? weight : static_cast<Acc>(nan(""));
}

}  // namespace fastad::cuda
