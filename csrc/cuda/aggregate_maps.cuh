// Level maps on their way to one map: the parameters that forward and backward share, and what
// anomaly_map.cu calls.

#pragma once

#include <limits>
#include <vector>

#include "bilinear.h"
#include "cuda/memory.cuh"
#include "cuda/tensors.cuh"

namespace fastad::cuda {

struct MapLevel {
  const void* data;  // (N, height, width), contiguous
  void* gradient;    // likewise; backward only
  int height, width;
  double x_scale, y_scale;  // source pixels per output pixel, rounded to the maps' dtype
  double weight;            // exponent in a product, factor in a sum
};

struct MapsParams {
  MapLevel levels[kMaxLevels];
  int count;
  bool product;
  void* map;      // (N, height, width); in the backward its gradient
  void* maximum;  // (N,); forward only
  int64_t images;
  int height, width;
};

// Everything but the pointers to results. All tensors share the dtype of maps[0].
inline MapsParams make_params(const std::vector<Tensor>& maps, int64_t height, int64_t width,
                              bool product, const std::vector<double>& weights) {
  device_of(maps);
  STD_TORCH_CHECK(weights.size() == maps.size(), "there must be a weight for every level");
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(height > 0 && width > 0 && height * width <= kMost,
                  "the size of the map must be positive, and at most 2^31 - 1 pixels");
  const ScalarType dtype = maps[0].scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "maps must be float32 or float64");
  MapsParams params = {};
  params.count = static_cast<int>(maps.size());
  params.product = product;
  params.images = maps[0].size(0);
  params.height = static_cast<int>(height);
  params.width = static_cast<int>(width);
  for (int l = 0; l < params.count; ++l) {
    const Tensor& map = maps[l];
    STD_TORCH_CHECK(map.dim() == 3 && map.size(0) == params.images && map.size(1) > 0 &&
                        map.size(2) > 0 && map.size(1) * map.size(2) <= kMost &&
                        map.scalar_type() == dtype && map.is_contiguous(),
                    "maps must be contiguous (N, H_l, W_l), one N and one dtype for all levels");
    MapLevel& level = params.levels[l];
    level.data = map.const_data_ptr();
    level.height = static_cast<int>(map.size(1));
    level.width = static_cast<int>(map.size(2));
    const auto scale = [&](int in, int64_t out) -> double {
      const int pixels = static_cast<int>(out);
      return dtype == ScalarType::Double ? bilinear_scale<double>(in, pixels)
                                         : bilinear_scale<float>(in, pixels);
    };
    level.x_scale = scale(level.width, width);
    level.y_scale = scale(level.height, height);
    level.weight = weights[l];
  }
  return params;
}

// Calls visit(Acc{}) with the C++ type of maps.
template <class Visit>
void visit_map_type(ScalarType dtype, const Visit& visit) {
  dtype == ScalarType::Double ? visit(double{}) : visit(float{});
}

// Upsamples maps (N, H_l, W_l) into `map` (N, H, W) by one launch on the current stream, and takes
// the images' maxima along into `maximum` (N,), which must hold the identity of maximum.cuh.
void aggregate_into(const std::vector<Tensor>& maps, bool product,
                    const std::vector<double>& weights, const Tensor& map, const Tensor& maximum);

}  // namespace fastad::cuda
