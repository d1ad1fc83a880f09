// What other ops share with aggregate_maps.

#pragma once

#include <tuple>
#include <vector>

#include "checks.h"

namespace fastad::cpu {

// Maps (N, H_l, W_l) of one type -> map (N, height, width) and its maximum (N,).
std::tuple<Tensor, Tensor> aggregate_maps(std::vector<Tensor> maps, int64_t height, int64_t width,
                                          bool product, std::vector<double> weights);

}  // namespace fastad::cpu
