// 3x3 convolutions of prediction, stride 1 and padding 1, with what follows them: bias, a sum and
// ReLU.
//
// Floor of ResNet-18's layer1 at 64x64, 64 channels: 36 products a tile, channel and filter are
// 38 million multiply-adds an image against 151 million of a direct convolution; the transforms add
// a tenth each. Bytes: 1 MB in, 1 MB out, 0.6 MB of filters, which the second-level cache holds.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "convolution/channels_last.h"
#include "convolution/int16.h"
#include "convolution/winograd.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// (K, C, 3, 3) float64, contiguous -> (K / 32, 36, C, 32) float32, or with `int16`
// (K / 32, 36, C + 2, 32) int16: slabs.
Tensor pack_3x3(Tensor weight, bool int16) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                      weight.scalar_type() == ScalarType::Double && weight.is_contiguous(),
                  "weight must be (K, C, 3, 3), float64 and contiguous");
  const int64_t filters = weight.size(0), channels = weight.size(1);
  STD_TORCH_CHECK(filters > 0 && filters % kPanel == 0 && channels > 0 && channels % kPanel == 0,
                  "weight must have multiples of 32 filters and channels; got ", filters, " and ",
                  channels);
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  const auto* from = static_cast<const double*>(weight.data_ptr());
  const int64_t rows = int16 ? channels + 2 : channels;
  Tensor packed = torch::stable::new_empty(weight, {filters / kPanel, kPoints, rows, kPanel},
                                           int16 ? ScalarType::Short : ScalarType::Float);
  parallel_for(0, filters / kPanel, 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      const double* filter = from + panel * kPanel * channels * 9;
      const int64_t place = panel * kPoints * rows * kPanel;
      if (int16) {
        pack_panel(filter, channels, static_cast<int16_t*>(packed.data_ptr()) + place);
      } else {
        pack_panel(filter, channels, static_cast<float*>(packed.data_ptr()) + place);
      }
    }
  });
  return packed;
}

// `weight` and `bias` of one group or of several, each for as many images of `x`.
void convolve(const Tensor& x, const Tensor& weight, const Tensor& bias, const float* added,
              bool relu, Tensor& y) {
  const int64_t groups = bias.dim() == 2 ? bias.size(0) : 1;
  const bool int16 = weight.scalar_type() == ScalarType::Short;
  Convolution3x3 all{x.size(0) / groups,
                     x.size(2),
                     x.size(3),
                     x.size(1),
                     y.size(1),
                     static_cast<const float*>(x.data_ptr()),
                     int16 ? nullptr : static_cast<const float*>(weight.data_ptr()),
                     int16 ? static_cast<const int16_t*>(weight.data_ptr()) : nullptr,
                     static_cast<const float*>(bias.data_ptr()),
                     added,
                     static_cast<float*>(y.data_ptr()),
                     relu};
  const auto group = [&](int64_t index) {
    Convolution3x3 one = all;
    const int64_t pixels = index * all.images * all.height * all.width;
    one.x += pixels * all.channels;
    one.y += pixels * all.filters;
    one.bias += index * all.filters;
    if (added != nullptr) one.added += pixels * all.filters;
    if (int16) {
      one.int16 += index * weight.numel() / groups;
    } else {
      one.weight += index * weight.numel() / groups;
    }
    return one;
  };
  // With fewer blocks than threads these divide the filters.
  const int64_t tiles = all.tiles(), panels = y.size(1) / kPanel;
  const int64_t blocks = (tiles + kBlock - 1) / kBlock;
  const int64_t threads = thread_count();
  const int64_t parts = std::min(panels, std::max<int64_t>(1, threads / (groups * blocks)));
  const auto compute = int16 ? convolve_tiles_int16 : convolve_tiles;
  parallel_for(0, groups * blocks * parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t block = i / parts % blocks, part = i % parts;
      compute(group(i / parts / blocks), block * kBlock, std::min(kBlock, tiles - block * kBlock),
              part * panels / parts, (part + 1) * panels / parts);
    }
  });
}

void check(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && is_channels_last(x),
                  "x must be (N, C, H, W), float32 and channels_last");
  require_panels(x);
  const bool int16 = weight.scalar_type() == ScalarType::Short;
  const int64_t axis = weight.dim() - 4;  // 1 of several groups
  STD_TORCH_CHECK(
      (axis == 0 || axis == 1) && weight.size(axis + 1) == kPoints &&
          weight.size(axis + 3) == kPanel && weight.size(axis + 2) == x.size(1) + (int16 ? 2 : 0) &&
          (int16 || weight.scalar_type() == ScalarType::Float) && weight.is_contiguous(),
      "weight must come from pack_3x3, for as many channels as x");
  groups_of(weight, axis, bias, weight.size(axis) * kPanel, x.size(0));
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  STD_TORCH_CHECK(!int16 || has_int16(), "this processor has no AVX-512 VNNI");
}

Tensor convolve_3x3(Tensor x, Tensor weight, Tensor bias, bool relu) {
  check(x, weight, bias);
  const int64_t n = x.size(0), h = x.size(2), w = x.size(3), k = bias.size(bias.dim() - 1);
  Tensor y = as_nchw(torch::stable::new_empty(x, {n, h, w, k}));
  if (n * h * w > 0) convolve(x, weight, bias, nullptr, relu, y);
  return y;
}

void convolve_3x3_add_(Tensor added, Tensor x, Tensor weight, Tensor bias, bool relu) {
  check(x, weight, bias);
  require_added(added, x, bias.size(bias.dim() - 1));
  if (x.numel() > 0)
    convolve(x, weight, bias, static_cast<const float*>(added.data_ptr()), relu, added);
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("pack_3x3", TORCH_BOX(&fastad::cpu::pack_3x3));
  m.impl("convolve_3x3", TORCH_BOX(&fastad::cpu::convolve_3x3));
  m.impl("convolve_3x3_add_", TORCH_BOX(&fastad::cpu::convolve_3x3_add_));
}
