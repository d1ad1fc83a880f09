// A residual network's stem in one pass: 7x7 convolution of stride 2, bias, ReLU and the maximum of
// 3x3 with stride 2, without the convolution's result in memory.
//
// Floor for 64 filters and 256x256: 154 million multiply-adds an image, 0.8 MB in and 1 MB out. The
// result of the convolution, which stays in the caches, would be 4.2 MB, written and read again.
// Bias and ReLU keep the order of values, so they are left until after the maximum.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "cpu/interleaved.h"
#include "cpu/number.h"
#include "cpu/panel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTaps = 21;  // of a row of a filter: seven pixels of three channels
constexpr int64_t kStrip = 8;  // rows of the result that are computed together

struct Stem {
  int64_t height, width;                // of the images
  int64_t rows, columns;                // of the convolution's result
  int64_t pooled_rows, pooled_columns;  // of the maximum's
  int64_t padding;                      // of the maximum, 0 or 1
  int64_t filters;
  const float* images;  // (n, height, width, 3)
  const float* weight;  // (filters / kPanel, 7, kTaps, kPanel)
  const float* bias;
  float* y;        // (n, pooled_rows, pooled_columns, filters), or null
  BFloat16* half;  // the same in the other precision

  int64_t strips() const { return (pooled_rows + kStrip - 1) / kStrip; }
  // Pixels of a row of the convolution that are computed, and floats of a row that they read.
  int64_t computed() const { return (columns + 7) / 8 * 8; }
  int64_t padded() const { return (2 * computed() + 6) * 3; }
};

#ifdef FASTAD_PANELS

// most[i] = the larger of most[i] and other[i]; not a number stays one, in either. (Plain loops:
// comparisons of lanes would be taken apart before the function knows its instruction set.)
FASTAD_INLINE void take_larger(float* FASTAD_RESTRICT most, const float* FASTAD_RESTRICT other,
                               int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float larger = most[i] < other[i] ? other[i] : most[i];
    most[i] = other[i] == other[i] ? larger : other[i];
  }
}

// One row of the convolution, for a panel of filters, and its maxima along the row.
// x: the seven padded rows that it reads. row: (computed, kPanel). out: (pooled_columns, kPanel).
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void convolve_row(const Stem& a, const float* x, const float* weight, float* row,
                                float* FASTAD_RESTRICT out) {
  for (int64_t pixel = 0; pixel < a.computed(); pixel += kRows) {
    for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
      Lanes<kLanes> sum[kRows][kVectors] = {};
#pragma GCC unroll 7
      for (int64_t i = 0; i < 7; ++i)
        multiply_add<kLanes>(sum, x + i * a.padded() + pixel * 6, 6,
                             weight + i * kTaps * kPanel + k, kTaps);
      store_panel<kLanes>(sum, row + pixel * kPanel + k);
    }
  }
  for (int64_t q = 0; q < a.pooled_columns; ++q) {
    const int64_t first = std::max<int64_t>(2 * q - a.padding, 0);
    const int64_t last = std::min(2 * q - a.padding + 2, a.columns - 1);
    std::copy_n(row + first * kPanel, kPanel, out + q * kPanel);
    for (int64_t c = first + 1; c <= last; ++c)
      take_larger(out + q * kPanel, row + c * kPanel, kPanel);
  }
}

template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void compute_strip(const Stem& a, int64_t image, int64_t strip) {
  const int64_t begin = strip * kStrip, end = std::min(begin + kStrip, a.pooled_rows);
  // Rows of the convolution that the strip needs, and of the image that these need.
  const int64_t first = std::max<int64_t>(2 * begin - a.padding, 0);
  const int64_t last = std::min(2 * (end - 1) - a.padding + 2, a.rows - 1);
  const int64_t top = 2 * first - 3, count = 2 * (last - first) + 7;
  const int64_t pooled = a.pooled_columns * kPanel;
  float* x = scratch(count * a.padded() + a.computed() * kPanel + 3 * pooled);
  float* row = x + count * a.padded();
  float *most = row + a.computed() * kPanel, *one = most + pooled, *two = one + pooled;

  const int64_t used = std::min(a.padded() - 9, a.width * 3);
  for (int64_t i = 0; i < count; ++i) {
    float* to = x + i * a.padded();
    const bool inside = top + i >= 0 && top + i < a.height;
    std::fill_n(to, a.padded(), 0.0f);
    if (inside) std::copy_n(a.images + ((image * a.height + top + i) * a.width) * 3, used, to + 9);
  }
  for (int64_t panel = 0; panel < a.filters / kPanel; ++panel) {
    const float* weight = a.weight + panel * 7 * kTaps * kPanel;
    const float* bias = a.bias + panel * kPanel;
    int64_t done = first - 1;  // the last row computed, whose maxima are in `one`
    for (int64_t p = begin; p < end; ++p) {
      const int64_t from = std::max<int64_t>(2 * p - a.padding, 0);
      const int64_t to = std::min(2 * p - a.padding + 2, a.rows - 1);
      if (done == from) {
        std::copy_n(one, pooled, most);
      } else {
        convolve_row<kLanes, kRows, kVectors>(a, x + (from - first) * 2 * a.padded(), weight, row,
                                              most);
      }
      for (int64_t r = from + 1; r <= to; ++r) {
        convolve_row<kLanes, kRows, kVectors>(a, x + (r - first) * 2 * a.padded(), weight, row,
                                              two);
        take_larger(most, two, pooled);
      }
      done = to;
      std::swap(one, two);
      const int64_t place = (image * a.pooled_rows + p) * a.pooled_columns;
      for (int64_t q = 0; q < a.pooled_columns; ++q) {
        float* value = most + q * kPanel;
        for (int64_t k = 0; k < kPanel; ++k) {
          const float sum = value[k] + bias[k];
          value[k] = sum < 0.0f ? 0.0f : sum;
        }
        const int64_t start = (place + q) * a.filters + panel * kPanel;
        for (int64_t k = 0; k < kPanel; ++k) {
          if (a.half != nullptr) {
            a.half[start + k] = to_bfloat16(value[k]);
          } else {
            a.y[start + k] = value[k];
          }
        }
      }
    }
  }
}

__attribute__((target("arch=x86-64-v4"))) void compute_v4(const Stem& a, int64_t image,
                                                          int64_t strip) {
  compute_strip<16, 8, 2>(a, image, strip);
}

__attribute__((target("arch=x86-64-v3"))) void compute_v3(const Stem& a, int64_t image,
                                                          int64_t strip) {
  compute_strip<8, 4, 2>(a, image, strip);
}

#endif

// (K, 3, 7, 7) -> (K / 32, 7, 21, 32), float32
Tensor pack_stem(Tensor weight) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 3 && weight.size(2) == 7 &&
                      weight.size(3) == 7 && weight.scalar_type() == ScalarType::Float &&
                      weight.is_contiguous(),
                  "weight must be (K, 3, 7, 7), float32 and contiguous");
  const int64_t filters = weight.size(0);
  STD_TORCH_CHECK(filters > 0 && filters % kPanel == 0,
                  "weight must have a multiple of 32 filters; got ", filters);
  Tensor packed = torch::stable::new_empty(weight, {filters / kPanel, 7, kTaps, kPanel});
  const auto* from = static_cast<const float*>(weight.data_ptr());
  auto* to = static_cast<float*>(packed.data_ptr());
  for (int64_t k = 0; k < filters; ++k)
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t y = 0; y < 7; ++y)
        for (int64_t x = 0; x < 7; ++x)
          to[((k / kPanel * 7 + y) * kTaps + x * 3 + c) * kPanel + k % kPanel] =
              from[((k * 3 + c) * 7 + y) * 7 + x];
  return packed;
}

// (N, 3, H, W) float32, channels_last -> (N, K, about H / 4, about W / 4), channels_last. `padding`
// is the maximum's: 1, or 0 with what remains at the end (ceil_mode).
Tensor stem(Tensor images, Tensor weight, Tensor bias, int64_t padding, bool bfloat16) {
  STD_TORCH_CHECK(
      images.dim() == 4 && images.size(1) == 3 && images.scalar_type() == ScalarType::Float,
      "images must be (N, 3, H, W), float32");
  const int64_t n = images.size(0), h = images.size(2), w = images.size(3);
  STD_TORCH_CHECK(interleaved(images), "images must be channels_last");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 7 && weight.size(2) == kTaps &&
                      weight.size(3) == kPanel && weight.scalar_type() == ScalarType::Float &&
                      weight.is_contiguous(),
                  "weight must come from pack_stem");
  const int64_t filters = weight.size(0) * kPanel;
  require_bias(bias, filters);
  STD_TORCH_CHECK(padding == 0 || padding == 1, "padding must be 0 or 1; got ", padding);
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  const int64_t rows = (h + 1) / 2, columns = (w + 1) / 2;
  STD_TORCH_CHECK(std::min(rows, columns) > 2 - 2 * padding, "images are too small: ", h, "x", w);
  const auto pooled = [padding](int64_t size) { return padding == 1 ? (size + 1) / 2 : size / 2; };
  const int64_t pooled_rows = pooled(rows), pooled_columns = pooled(columns);
  Tensor y = torch::stable::new_empty(images, {n, pooled_rows, pooled_columns, filters},
                                      bfloat16 ? ScalarType::BFloat16 : ScalarType::Float);
#ifdef FASTAD_PANELS
  const Stem a{h,
               w,
               rows,
               columns,
               pooled_rows,
               pooled_columns,
               padding,
               filters,
               static_cast<const float*>(images.data_ptr()),
               static_cast<const float*>(weight.data_ptr()),
               static_cast<const float*>(bias.data_ptr()),
               bfloat16 ? nullptr : static_cast<float*>(y.data_ptr()),
               bfloat16 ? static_cast<BFloat16*>(y.data_ptr()) : nullptr};
  const auto compute = has_wide_panels() ? compute_v4 : compute_v3;
  torch::stable::parallel_for(0, n * a.strips(), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) compute(a, i / a.strips(), i % a.strips());
  });
#endif
  return channels_second(y);
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("pack_stem", TORCH_BOX(&fastad::cpu::pack_stem));
  m.impl("stem", TORCH_BOX(&fastad::cpu::stem));
}
