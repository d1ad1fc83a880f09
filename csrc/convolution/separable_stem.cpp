// The first convolution of an EfficientNet-Lite with what stands around it, in prediction: scaling,
// zeros around the image, 3x3 of stride 2, bias and ReLU6.
//
// Floor at 256x256: 14.2e6 multiply-adds an image; 0.8 MB in, 2.1 MB out.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "convolution/channels_last.h"
#include "convolution/panel.h"
#include "convolution/separable.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kColours = 3, kSide = 3, kSkip = 2;
constexpr int64_t kTaps = kSide * kColours;  // of one row of a filter, side by side in an image
constexpr int64_t kBand = 8;                 // rows of the result that a thread takes at once

struct SeparableStem {
  int64_t filters, height, width, rows, columns, top, left;
  const float* scaling;  // (2, kColours): factors, and what is added then
  const float* weight;   // (filters / kPanel, kSide * kTaps, kPanel)
  const float* bias;

  // Numbers in a row of the image with its zeros.
  int64_t padded() const { return ((columns - 1) * kSkip + kSide) * kColours; }
};

#ifdef FASTAD_PANELS

// y (kRows, filters), one panel, from three rows of the image.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void stem_pixels(const SeparableStem& a, const float* x, const float* weight,
                               const float* bias, float* y) {
  for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
    Lanes<kLanes> sum[kRows][kVectors] = {};
    for (int64_t i = 0; i < kSide; ++i)
      multiply_add<kLanes>(sum, x + i * a.padded(), kSkip * kColours,
                           weight + i * kTaps * kPanel + k, kTaps);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j)
        store_lanes<kLanes>(y + r * a.filters + k + j * kLanes,
                            relu6_of<kLanes>(sum[r][j] + lanes_at<kLanes>(bias + k + j * kLanes)));
  }
}

// Rows first to last of the result y (rows, columns, filters) of an image.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void stem_band(const SeparableStem& a, const float* image, int64_t first,
                             int64_t last, float* y, float* memory) {
  const int64_t padded = a.padded(), count = (last - first - 1) * kSkip + kSide;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = first * kSkip - a.top + i;
    float* const to = memory + i * padded;
    std::fill(to, to + padded, 0.0f);
    if (row < 0 || row >= a.height) continue;
    const float* const from = image + row * a.width * kColours;
    for (int64_t p = 0; p < a.width; ++p)
      for (int64_t c = 0; c < kColours; ++c)
        to[(a.left + p) * kColours + c] =
            from[p * kColours + c] * a.scaling[c] + a.scaling[kColours + c];
  }
  for (int64_t row = first; row < last; ++row) {
    const float* const x = memory + (row - first) * kSkip * padded;
    for (int64_t panel = 0; panel < a.filters / kPanel; ++panel) {
      const float* const weight = a.weight + panel * kSide * kTaps * kPanel;
      const float* const bias = a.bias + panel * kPanel;
      float* const to = y + row * a.columns * a.filters + panel * kPanel;
      int64_t p = 0;
      for (; p + kRows <= a.columns; p += kRows)
        stem_pixels<kLanes, kRows, kVectors>(a, x + p * kSkip * kColours, weight, bias,
                                             to + p * a.filters);
      for (; p < a.columns; ++p)
        stem_pixels<kLanes, 1, kVectors>(a, x + p * kSkip * kColours, weight, bias,
                                         to + p * a.filters);
    }
  }
}

FASTAD_V4 void separable_stem_v4(const SeparableStem& a, const float* image, int64_t first,
                                 int64_t last, float* y, float* memory) {
  stem_band<16, 8, 2>(a, image, first, last, y, memory);
}

FASTAD_V3 void separable_stem_v3(const SeparableStem& a, const float* image, int64_t first,
                                 int64_t last, float* y, float* memory) {
  stem_band<8, 4, 2>(a, image, first, last, y, memory);
}

#endif

// images (N, 3, H, W) float32, channels_last -> (N, K, ceil(H / 2), ceil(W / 2)), padded as
// `fastad.backbones.efficientnet_lite.pad_same`.
Tensor separable_stem(Tensor images, Tensor scaling, Tensor weight, Tensor bias) {
  STD_TORCH_CHECK(images.dim() == 4 && images.size(1) == kColours &&
                      images.scalar_type() == ScalarType::Float && is_channels_last(images),
                  "images must be (N, 3, H, W), float32 and channels_last");
  const int64_t n = images.size(0), height = images.size(2), width = images.size(3);
  STD_TORCH_CHECK(height > 0 && width > 0, "images must have pixels");
  STD_TORCH_CHECK(weight.dim() == 3 && weight.size(1) == kSide * kTaps &&
                      weight.size(2) == kPanel && weight.scalar_type() == ScalarType::Float &&
                      weight.is_contiguous(),
                  "weight must be (K / 32, 27, 32), float32 and contiguous");
  const int64_t filters = weight.size(0) * kPanel;
  groups_of(weight, 0, bias, filters, n);
  STD_TORCH_CHECK(scaling.dim() == 2 && scaling.size(0) == 2 && scaling.size(1) == kColours &&
                      scaling.scalar_type() == ScalarType::Float && scaling.is_contiguous(),
                  "scaling must be (2, 3), float32 and contiguous");
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  const int64_t rows = (height + 1) / kSkip, columns = (width + 1) / kSkip;
  Tensor y = torch::stable::new_empty(images, {n, rows, columns, filters});
#ifdef FASTAD_PANELS
  const int64_t below = std::max<int64_t>((rows - 1) * kSkip + kSide - height, 0);
  const int64_t right = std::max<int64_t>((columns - 1) * kSkip + kSide - width, 0);
  const auto data = [](const Tensor& t) { return static_cast<const float*>(t.data_ptr()); };
  const SeparableStem a{filters,   height,    width,         rows,         columns,
                        below / 2, right / 2, data(scaling), data(weight), data(bias)};
  const auto* from = data(images);
  auto* to = static_cast<float*>(y.data_ptr());
  const auto compute = has_wide_panels() ? separable_stem_v4 : separable_stem_v3;
  const int64_t bands = (rows + kBand - 1) / kBand;
  parallel_for(0, n * bands, 1, [&](int64_t begin, int64_t end) {
    float* const memory = scratch(((kBand - 1) * kSkip + kSide) * a.padded());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / bands, first = i % bands * kBand;
      compute(a, from + image * height * width * kColours, first, std::min(first + kBand, rows),
              to + image * rows * columns * filters, memory);
    }
  });
#endif
  return as_nchw(y);
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("separable_stem", TORCH_BOX(&fastad::cpu::separable_stem));
}
