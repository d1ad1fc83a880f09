// A residual network's stem in one pass: 7x7 convolution of stride 2, bias, ReLU and the maximum of
// 3x3 with stride 2, without the convolution's result in memory.
//
// Every second pixel down and across is a channel of its own: over 2x2x3 channels the convolution
// is one of 4x4 taps and stride 1, with zeros in its first row and column. Winograd's F(4x4, 4x4)
// makes 49 products a channel of a tile of 4x4 results, in place of 196: the points are those of
// F(4x4, 3x3) (convolution/winograd.h) and 5/16. Of photographs, by ImageNet's filters, float32
// rounds twice as much so as directly (of white noise four times); 16-bit integers, of which a sum
// then has 12 and not 147 products, round less than half as much as they do directly.
//
// Floor for 64 filters and 256x256: 39 million multiply-adds an image; 0.8 MB in and 1 MB out. The
// result of the convolution would be 4.2 MB, written and read again. Bias and ReLU keep the order
// of values, so they are left until after the maximum.

#include "convolution/stem.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "convolution/channels_last.h"
#include "convolution/int16.h"
#include "convolution/winograd_filters.h"
#include "convolution/winograd_tile.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// (kStemValues, kStemChannels, kPanel) of a panel's filters, weight (kPanel, 3, 7, 7).
std::vector<double> values_of_panel(const double* weight) {
  static const FilterPoints<4, kStemSide> points({0, kA, -kA, kB, -kB, INFINITY, kStemPoint});
  std::vector<double> values(kStemValues * kStemChannels * kPanel);
  for (int64_t k = 0; k < kPanel; ++k) {
    for (int64_t c = 0; c < kStemChannels; ++c) {
      const double* filter = weight + (k * 3 + c % 3) * 49;
      const int64_t down = c / 6 - 1, right = c / 3 % 2 - 1;
      const auto tap = [&](int64_t y, int64_t x) {
        const int64_t row = 2 * y + down, column = 2 * x + right;
        return row < 0 || column < 0 ? 0.0 : filter[row * 7 + column];
      };
      points.evaluate(tap, kStemChannels * kPanel, &values[c * kPanel + k]);
    }
  }
  return values;
}

// (K, 3, 7, 7) float64 -> (K / 32, 49, 12, 32) float32, or with `int16` (K / 32, 49, 14, 32) int16:
// slabs.
Tensor pack_stem(Tensor weight, bool int16) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 3 && weight.size(2) == 7 &&
                      weight.size(3) == 7 && weight.scalar_type() == ScalarType::Double &&
                      weight.is_contiguous(),
                  "weight must be (K, 3, 7, 7), float64 and contiguous");
  const int64_t filters = weight.size(0), panels = filters / kPanel;
  STD_TORCH_CHECK(filters > 0 && filters % kPanel == 0,
                  "weight must have a multiple of 32 filters; got ", filters);
  const int64_t rows = int16 ? kStemChannels + 2 : kStemChannels;
  Tensor packed = torch::stable::new_empty(weight, {panels, kStemValues, rows, kPanel},
                                           int16 ? ScalarType::Short : ScalarType::Float);
  for (int64_t panel = 0; panel < panels; ++panel) {
    const std::vector<double> values =
        values_of_panel(static_cast<const double*>(weight.data_ptr()) + panel * kPanel * 147);
    if (int16) {
      auto* to = static_cast<int16_t*>(packed.data_ptr()) + panel * kStemValues * rows * kPanel;
      for (int64_t p = 0; p < kStemValues; ++p)
        pack_slab(
            kStemChannels, kStemChannels,
            [&](int64_t k, int64_t c) { return values[(p * kStemChannels + c) * kPanel + k]; },
            to + p * slab_size(kStemChannels));
    } else {
      auto* to = static_cast<float*>(packed.data_ptr()) + panel * kStemValues * rows * kPanel;
      std::transform(values.begin(), values.end(), to,
                     [](double value) { return static_cast<float>(value); });
    }
  }
  return packed;
}

// (N, 3, H, W) float32, channels_last -> (N, K, about H / 4, about W / 4), channels_last. `padding`
// is the maximum's: 1, or 0 with what remains at the end (ceil_mode). `weight` and `bias` of one
// group or of several: one after the other, the results of all images for each.
Tensor stem(Tensor images, Tensor weight, Tensor bias, int64_t padding, bool bfloat16) {
  STD_TORCH_CHECK(
      images.dim() == 4 && images.size(1) == 3 && images.scalar_type() == ScalarType::Float,
      "images must be (N, 3, H, W), float32");
  const int64_t n = images.size(0), h = images.size(2), w = images.size(3);
  STD_TORCH_CHECK(is_channels_last(images), "images must be channels_last");
  const bool int16 = weight.scalar_type() == ScalarType::Short;
  const int64_t axis = weight.dim() - 4;  // 1 of several groups
  STD_TORCH_CHECK((axis == 0 || axis == 1) && weight.size(axis + 1) == kStemValues &&
                      weight.size(axis + 2) == kStemChannels + (int16 ? 2 : 0) &&
                      weight.size(axis + 3) == kPanel &&
                      (int16 || weight.scalar_type() == ScalarType::Float) &&
                      weight.is_contiguous(),
                  "weight must come from pack_stem");
  const int64_t panels = weight.size(axis), filters = panels * kPanel;
  const int64_t groups = groups_of(weight, axis, bias, filters, 0);
  STD_TORCH_CHECK(padding == 0 || padding == 1, "padding must be 0 or 1; got ", padding);
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  STD_TORCH_CHECK(!int16 || has_int16(), "this processor has no AVX-512 VNNI");
  Stem all{h,
           w,
           padding,
           filters,
           static_cast<const float*>(images.data_ptr()),
           int16 ? nullptr : static_cast<const float*>(weight.data_ptr()),
           int16 ? static_cast<const int16_t*>(weight.data_ptr()) : nullptr,
           static_cast<const float*>(bias.data_ptr()),
           nullptr,
           nullptr};
  STD_TORCH_CHECK(all.fits(), "images are too small: ", h, "x", w);
  const int64_t size = all.pooled_rows() * all.pooled_columns() * filters;
  Tensor y = torch::stable::new_empty(
      images, {groups * n, all.pooled_rows(), all.pooled_columns(), filters},
      bfloat16 ? ScalarType::BFloat16 : ScalarType::Float);
  if (bfloat16) {
    all.half = static_cast<BFloat16*>(y.data_ptr());
  } else {
    all.y = static_cast<float*>(y.data_ptr());
  }
  // Strips are as many as give every thread as much to do, but no lower than four rows of tiles:
  // the row before the first is computed twice.
  const int64_t threads = thread_count();
  const int64_t strips =
      std::max<int64_t>(1, std::min(threads / std::gcd(groups * n, threads), all.last_row() / 4));
  parallel_for(0, groups * n * strips, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t group = i / (n * strips), strip = i % strips;
      const int64_t place = group * weight.numel() / groups;
      Stem one = all;
      if (int16) {
        one.int16 += place;
      } else {
        one.weight += place;
      }
      one.bias += group * filters;
      if (bfloat16) {
        one.half += group * n * size;
      } else {
        one.y += group * n * size;
      }
      compute_stem(one, i / strips % n, all.last_row() * strip / strips,
                   all.last_row() * (strip + 1) / strips);
    }
  });
  return as_nchw(y);
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("pack_stem", TORCH_BOX(&fastad::cpu::pack_stem));
  m.impl("stem", TORCH_BOX(&fastad::cpu::stem));
}
