// What other ops share with aggregate_maps.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

namespace fastad::cpu {

// Maps (N, H_l, W_l) of one type -> map (N, height, width) and its maximum (N,).
std::tuple<torch::stable::Tensor, torch::stable::Tensor> aggregate_maps(
    std::vector<torch::stable::Tensor> maps, int64_t height, int64_t width, bool product,
    std::vector<double> weights);

}  // namespace fastad::cpu
