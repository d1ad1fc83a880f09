// A 1x1 convolution that skips pixels: the shortcut between two stages of a residual network, in
// prediction.
//
// Floor for ResNet-18's layer2 at 256x256: 8.4 million multiply-adds an image; 0.26 MB of every
// second pixel read, 0.5 MB written.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "convolution/channels_last.h"
#include "convolution/panel.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 1 << 18;  // multiply-adds: with fewer, another thread does not pay

struct Conv1x1Strided {
  int64_t channels, filters, stride;
  int64_t columns;      // of the result
  const float* weight;  // (filters / kPanel, channels, kPanel)
  const float* bias;
};

#ifdef FASTAD_PANELS

// y (kRows, filters), one panel = bias + x (kRows, channels) * weight.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void conv1x1_strided_pixels(const Conv1x1Strided& a, const float* x,
                                          const float* weight, const float* bias, float* y) {
  for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
    Lanes<kLanes> sum[kRows][kVectors] = {};
    multiply_add<kLanes>(sum, x, a.stride * a.channels, weight + k, a.channels);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j)
        store_lanes<kLanes>(y + r * a.filters + k + j * kLanes,
                            sum[r][j] + lanes_at<kLanes>(bias + k + j * kLanes));
  }
}

template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void conv1x1_strided_row(const Conv1x1Strided& a, const float* x, float* y) {
  const int64_t step = a.stride * a.channels;
  for (int64_t panel = 0; panel < a.filters / kPanel; ++panel) {
    const float* weight = a.weight + panel * a.channels * kPanel;
    const float* bias = a.bias + panel * kPanel;
    int64_t p = 0;
    for (; p + kRows <= a.columns; p += kRows)
      conv1x1_strided_pixels<kLanes, kRows, kVectors>(a, x + p * step, weight, bias,
                                                      y + p * a.filters + panel * kPanel);
    for (; p < a.columns; ++p)
      conv1x1_strided_pixels<kLanes, 1, kVectors>(a, x + p * step, weight, bias,
                                                  y + p * a.filters + panel * kPanel);
  }
}

FASTAD_V4 void conv1x1_strided_v4(const Conv1x1Strided& a, const float* x, float* y) {
  conv1x1_strided_row<16, 8, 2>(a, x, y);
}

FASTAD_V3 void conv1x1_strided_v3(const Conv1x1Strided& a, const float* x, float* y) {
  conv1x1_strided_row<8, 4, 2>(a, x, y);
}

#endif

// x (N, C, H, W) float32, channels_last -> (N, K, ceil(H / stride), ceil(W / stride)). `weight` and
// `bias` of one group or of several, each for as many images.
Tensor conv1x1_strided(Tensor x, Tensor weight, Tensor bias, int64_t stride) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float,
                  "x must be (N, C, H, W), float32");
  const int64_t n = x.size(0), channels = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(is_channels_last(x), "x must be channels_last");
  const int64_t axis = weight.dim() - 3;  // 1 of several groups
  STD_TORCH_CHECK((axis == 0 || axis == 1) && weight.size(axis + 1) == channels &&
                      weight.size(axis + 2) == kPanel &&
                      weight.scalar_type() == ScalarType::Float && weight.is_contiguous(),
                  "weight must be (K / 32, C, 32), float32 and contiguous");
  const int64_t filters = weight.size(axis) * kPanel;
  [[maybe_unused]] const int64_t groups = groups_of(weight, axis, bias, filters, n);
  STD_TORCH_CHECK(stride >= 1 && stride <= kMostStride, "stride must be 1 to ", kMostStride,
                  "; got ", stride);
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  const int64_t rows = (h + stride - 1) / stride, columns = (w + stride - 1) / stride;
  Tensor y = torch::stable::new_empty(x, {n, rows, columns, filters});
#ifdef FASTAD_PANELS
  const auto* weights = static_cast<const float*>(weight.data_ptr());
  const auto* biases = static_cast<const float*>(bias.data_ptr());
  const auto* from = static_cast<const float*>(x.data_ptr());
  auto* to = static_cast<float*>(y.data_ptr());
  const auto compute = has_wide_panels() ? conv1x1_strided_v4 : conv1x1_strided_v3;
  const int64_t work = std::max<int64_t>(1, columns * channels * filters);
  parallel_for(0, n * rows, std::max<int64_t>(1, kGrain / work), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t group = i / rows / (n / groups);
      const Conv1x1Strided a{channels,
                             filters,
                             stride,
                             columns,
                             weights + group * filters * channels,
                             biases + group * filters};
      compute(a, from + (i / rows * h + i % rows * stride) * w * channels,
              to + i * columns * filters);
    }
  });
#endif
  return as_nchw(y);
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("conv1x1_strided", TORCH_BOX(&fastad::cpu::conv1x1_strided));
}
