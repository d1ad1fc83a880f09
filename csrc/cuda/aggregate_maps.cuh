// Level maps on their way to one map: the parameters that forward and backward share, and what
// anomaly_map.cu calls.

#pragma once

#include <algorithm>
#include <vector>

#include "bilinear.h"
#include "checks.h"
#include "cuda/kernel.cuh"

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
  double centre;         // as of bilinear_index
  void* map;             // (N, height, width), of any dtype; in the backward its gradient
  int64_t image_stride;  // of the map
  void* maximum;         // (N,); forward only, may be null
  int64_t images;
  int height, width;
};

// All parameters but the pointers to results. `check_maps` has passed the maps.
inline MapsParams make_params(const std::vector<Tensor>& maps, int64_t height, int64_t width,
                              bool product, const std::vector<double>& weights,
                              bool align_corners) {
  MapsParams params = {};
  params.count = static_cast<int>(maps.size());
  params.product = product;
  params.images = maps[0].size(0);
  params.centre = bilinear_centre<double>(align_corners);
  params.image_stride = height * width;
  params.height = static_cast<int>(height);
  params.width = static_cast<int>(width);
  for (int l = 0; l < params.count; ++l) {
    const Tensor& map = maps[l];
    MapLevel& level = params.levels[l];
    level.data = map.const_data_ptr();
    level.height = static_cast<int>(map.size(1));
    level.width = static_cast<int>(map.size(2));
    const auto scale = [&](int in, int64_t out) -> double {
      const int pixels = static_cast<int>(out);
      return map.scalar_type() == ScalarType::Double
                 ? bilinear_scale<double>(in, pixels, align_corners)
                 : bilinear_scale<float>(in, pixels, align_corners);
    };
    level.x_scale = scale(level.width, width);
    level.y_scale = scale(level.height, height);
    level.weight = weights[l];
  }
  return params;
}

// Whether levels are raised to powers other than 1.
inline bool has_powers(const MapsParams& params) {
  return params.product && std::any_of(params.levels, params.levels + params.count,
                                       [](const MapLevel& level) { return level.weight != 1; });
}

// Calls visit(Acc{}) with the C++ type of maps.
template <class Visit>
void visit_map_type(ScalarType dtype, const Visit& visit) {
  dtype == ScalarType::Double ? visit(double{}) : visit(float{});
}

// Calls visit(Acc{}, Y{}) with the C++ types of maps and of what they are joined to.
template <class Visit>
void visit_map_types(ScalarType dtype, ScalarType joined, const Visit& visit) {
  visit_map_type(dtype, [&](auto x) {
    switch (joined) {
      case ScalarType::Half:
        return visit(x, c10::Half{});
      case ScalarType::BFloat16:
        return visit(x, c10::BFloat16{});
      default:
        return visit(x, x);
    }
  });
}

// Upsamples and joins maps (N, H_l, W_l) into `map` (N, H, W), and raises `maximum` (N,), which
// must hold the identity of maximum.cuh, to the images' maxima. One launch on the current stream,
// and another one where `smoothing` is above 0: that of a Gaussian over the map, in pixels.
void aggregate_into(const std::vector<Tensor>& maps, bool product,
                    const std::vector<double>& weights, bool align_corners, double smoothing,
                    const Tensor& map, const Tensor& maximum);

}  // namespace fastad::cuda
