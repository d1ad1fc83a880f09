// What the convolutions of prediction share: images whose channels lie side by side (channels_last,
// without gaps), and the bias of a panel's filters.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "convolution/panel.h"

namespace fastad::cpu {

constexpr int64_t kMostStride = 64, kMostFilters = 1 << 20;  // no size overflows

// x: (N, C, H, W).
inline bool is_channels_last(const torch::stable::Tensor& x) {
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  // Strides of axes of length 1 mean nothing.
  const auto steps = [&](int64_t axis, int64_t size, int64_t stride) {
    return size <= 1 || x.stride(axis) == stride;
  };
  return steps(1, c, 1) && steps(3, w, c) && steps(2, h, w * c) && steps(0, n, h * w * c);
}

// Contiguous (N, H, W, C) as (N, C, H, W), channels_last; nothing is copied.
inline torch::stable::Tensor as_nchw(const torch::stable::Tensor& x) {
  return torch::stable::transpose(torch::stable::transpose(x, 2, 3), 1, 2);
}

// How many groups of filters `weight` holds, each for as many of `images`: its first axis where
// `axis` is 1, otherwise it is of one group without such an axis. `bias` is (filters), or
// (groups, filters).
inline int64_t groups_of(const torch::stable::Tensor& weight, int64_t axis,
                         const torch::stable::Tensor& bias, int64_t filters, int64_t images) {
  const int64_t groups = axis == 1 ? weight.size(0) : 1;
  STD_TORCH_CHECK(bias.dim() == 1 + axis && bias.size(axis) == filters &&
                      (axis == 0 || bias.size(0) == groups) &&
                      bias.scalar_type() == torch::headeronly::ScalarType::Float &&
                      bias.is_contiguous(),
                  "bias must be (K,), or (G, K) of G groups, float32 and contiguous");
  STD_TORCH_CHECK(filters > 0 && filters <= kMostFilters, "weight must have 1 to ", kMostFilters,
                  " filters, not ", filters);
  STD_TORCH_CHECK(groups > 0 && images % groups == 0, "there must be as many images for each of ",
                  groups, " groups; got ", images);
  return groups;
}

// Of convolutions that read whole panels of channels.
inline void require_panels(const torch::stable::Tensor& x) {
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(1) % kPanel == 0,
                  "x must have a multiple of 32 channels, not ", x.size(1));
}

// added: what is added to a result of as many pixels as x, and overwritten by it.
inline void require_added(const torch::stable::Tensor& added, const torch::stable::Tensor& x,
                          int64_t filters) {
  STD_TORCH_CHECK(added.dim() == 4 && added.size(0) == x.size(0) && added.size(1) == filters &&
                      added.size(2) == x.size(2) && added.size(3) == x.size(3) &&
                      added.scalar_type() == torch::headeronly::ScalarType::Float &&
                      is_channels_last(added),
                  "added must be shaped like the result, float32 and channels_last");
  STD_TORCH_CHECK(x.numel() == 0 || added.data_ptr() != x.data_ptr(),
                  "added must not be x: it is overwritten");
}

}  // namespace fastad::cpu
