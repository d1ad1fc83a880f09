// What other ops share with aggregate_maps.

#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"

namespace fastad::cpu {

// Maps (N, H_l, W_l) of one type -> map (N, height, width), of `dtype` if there is one, and its
// maximum (N,). `smoothing`: the deviation of a Gaussian over the map, in pixels; 0 for none. It
// does not go with `dtype`.
std::tuple<Tensor, Tensor> aggregate_maps(std::vector<Tensor> maps, int64_t height, int64_t width,
                                          bool product, std::vector<double> weights,
                                          bool align_corners, std::optional<ScalarType> dtype,
                                          double smoothing);

}  // namespace fastad::cpu
