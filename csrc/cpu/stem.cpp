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

#include "cpu/fixed.h"
#include "cpu/interleaved.h"
#include "cpu/number.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTaps = 21;   // of a row of a filter: seven pixels of three channels
constexpr int64_t kPairs = 11;  // of them in 16-bit integers, with one that counts for nothing
constexpr int64_t kFixedLength = 7 * 2 * kPairs;
constexpr int64_t kStrip = 8;  // rows of the result that are computed together

struct Stem {
  int64_t height, width;                // of the images
  int64_t rows, columns;                // of the convolution's result
  int64_t pooled_rows, pooled_columns;  // of the maximum's
  int64_t padding;                      // of the maximum, 0 or 1
  int64_t filters;
  const float* images;   // (n, height, width, 3)
  const float* weight;   // (filters / kPanel, 7, kTaps, kPanel), or null
  const int16_t* fixed;  // (filters / kPanel) slabs of kFixedLength
  const float* bias;
  float* y;        // (n, pooled_rows, pooled_columns, filters), or null
  BFloat16* half;  // the same in the other precision

  int64_t strips() const { return (pooled_rows + kStrip - 1) / kStrip; }
  // Pixels of a row of the convolution that are computed, and floats of a row that they read.
  int64_t computed() const { return (columns + 7) / 8 * 8; }
  int64_t padded() const { return ((2 * computed() + 6) * 3 + 1 + 15) / 16 * 16; }
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

// A strip's padded rows of the image, and one row of the convolution from seven of them for a panel
// of filters: (computed, kPanel).
template <int kLanes, int kRows, int kVectors>
struct FloatRows {
  const Stem& a;
  const float* x;

  static FloatRows of(const Stem& a, const float* x, int64_t, float*) { return {a, x}; }

  FASTAD_INLINE void convolve(int64_t first, int64_t panel, float* row) const {
    const float* weight = a.weight + panel * 7 * kTaps * kPanel;
    for (int64_t pixel = 0; pixel < a.computed(); pixel += kRows) {
      for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
        Lanes<kLanes> sum[kRows][kVectors] = {};
#pragma GCC unroll 7
        for (int64_t i = 0; i < 7; ++i)
          multiply_add<kLanes>(sum, x + (first + i) * a.padded() + pixel * 6, 6,
                               weight + i * kTaps * kPanel + k, kTaps);
        store_panel<kLanes>(sum, row + pixel * kPanel + k);
      }
    }
  }
};

// The same in 16-bit integers with one scale.
struct FixedRows {
  const Stem& a;
  const int16_t* x;
  float unit;  // of x

  FASTAD_VNNI static FixedRows of(const Stem& a, const float* x, int64_t count, float* spare) {
    auto* fixed = reinterpret_cast<int16_t*>(spare);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count * a.padded(); i += 16)
      most = larger_magnitude(most, _mm512_loadu_ps(x + i));
    const FixedScale scale = fixed_scale(most);
    to_fixed(x, count * a.padded(), scale.factor, fixed);
    return {a, fixed, scale.inverse};
  }

  FASTAD_INLINE void convolve(int64_t first, int64_t panel, float* row) const {
    const int16_t* slab = a.fixed + panel * slab_size(kFixedLength);
    for (int64_t pixel = 0; pixel < a.computed(); pixel += kFixedRows) {
      multiply_fixed(x + first * a.padded() + pixel * 6, 6, a.padded(), slab, 7, kPairs,
                     slab_scales(slab, kFixedLength), &unit, 0, false, row + pixel * kPanel);
    }
  }
};

// One row of the convolution, for a panel of filters, and its maxima along the row.
// row: (computed, kPanel). out: (pooled_columns, kPanel).
template <class Rows>
FASTAD_INLINE void convolve_row(const Stem& a, const Rows& rows, int64_t first, int64_t panel,
                                float* row, float* FASTAD_RESTRICT out) {
  rows.convolve(first, panel, row);
  for (int64_t q = 0; q < a.pooled_columns; ++q) {
    const int64_t begin = std::max<int64_t>(2 * q - a.padding, 0);
    const int64_t last = std::min(2 * q - a.padding + 2, a.columns - 1);
    std::copy_n(row + begin * kPanel, kPanel, out + q * kPanel);
    for (int64_t c = begin + 1; c <= last; ++c)
      take_larger(out + q * kPanel, row + c * kPanel, kPanel);
  }
}

template <class Rows>
FASTAD_INLINE void compute_strip(const Stem& a, int64_t image, int64_t strip) {
  const int64_t begin = strip * kStrip, end = std::min(begin + kStrip, a.pooled_rows);
  // Rows of the convolution that the strip needs, and of the image that these need.
  const int64_t first = std::max<int64_t>(2 * begin - a.padding, 0);
  const int64_t last = std::min(2 * (end - 1) - a.padding + 2, a.rows - 1);
  const int64_t top = 2 * first - 3, count = 2 * (last - first) + 7;
  const int64_t pooled = a.pooled_columns * kPanel;
  const int64_t half = (count * a.padded() + 1) / 2;
  float* x = scratch(count * a.padded() + half + a.computed() * kPanel + 3 * pooled);
  float *spare = x + count * a.padded(), *row = spare + half;
  float *most = row + a.computed() * kPanel, *one = most + pooled, *two = one + pooled;

  const int64_t used = std::min(a.padded() - 9, a.width * 3);
  for (int64_t i = 0; i < count; ++i) {
    float* to = x + i * a.padded();
    const bool inside = top + i >= 0 && top + i < a.height;
    std::fill_n(to, a.padded(), 0.0f);
    if (inside) std::copy_n(a.images + ((image * a.height + top + i) * a.width) * 3, used, to + 9);
  }
  const Rows rows = Rows::of(a, x, count, spare);
  for (int64_t panel = 0; panel < a.filters / kPanel; ++panel) {
    const float* bias = a.bias + panel * kPanel;
    int64_t done = first - 1;  // the last row computed, whose maxima are in `one`
    for (int64_t p = begin; p < end; ++p) {
      const int64_t from = std::max<int64_t>(2 * p - a.padding, 0);
      const int64_t to = std::min(2 * p - a.padding + 2, a.rows - 1);
      if (done == from) {
        std::copy_n(one, pooled, most);
      } else {
        convolve_row(a, rows, (from - first) * 2, panel, row, most);
      }
      for (int64_t r = from + 1; r <= to; ++r) {
        convolve_row(a, rows, (r - first) * 2, panel, row, two);
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
  compute_strip<FloatRows<16, 8, 2>>(a, image, strip);
}

__attribute__((target("arch=x86-64-v3"))) void compute_v3(const Stem& a, int64_t image,
                                                          int64_t strip) {
  compute_strip<FloatRows<8, 4, 2>>(a, image, strip);
}

FASTAD_VNNI void compute_fixed(const Stem& a, int64_t image, int64_t strip) {
  compute_strip<FixedRows>(a, image, strip);
}

#endif

// (K, 3, 7, 7) -> (K / 32, 7, 21, 32) float32, or with `fixed` (K / 32, 156, 32) int16: slabs.
Tensor pack_stem(Tensor weight, bool fixed) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 3 && weight.size(2) == 7 &&
                      weight.size(3) == 7 && weight.scalar_type() == ScalarType::Float &&
                      weight.is_contiguous(),
                  "weight must be (K, 3, 7, 7), float32 and contiguous");
  const int64_t filters = weight.size(0), panels = filters / kPanel;
  STD_TORCH_CHECK(filters > 0 && filters % kPanel == 0,
                  "weight must have a multiple of 32 filters; got ", filters);
  const auto* from = static_cast<const float*>(weight.data_ptr());
  const auto at = [&](int64_t filter, int64_t y, int64_t tap) {
    return from[((filter * 3 + tap % 3) * 7 + y) * 7 + tap / 3];
  };
  if (fixed) {
    Tensor packed =
        torch::stable::new_empty(weight, {panels, kFixedLength + 2, kPanel}, ScalarType::Short);
    for (int64_t panel = 0; panel < panels; ++panel)
      pack_slab(
          kFixedLength, kFixedLength,
          [&](int64_t k, int64_t i) -> double {
            const int64_t tap = i % (2 * kPairs);
            return tap < kTaps ? at(panel * kPanel + k, i / (2 * kPairs), tap) : 0;
          },
          static_cast<int16_t*>(packed.data_ptr()) + panel * slab_size(kFixedLength));
    return packed;
  }
  Tensor packed = torch::stable::new_empty(weight, {panels, 7, kTaps, kPanel});
  auto* to = static_cast<float*>(packed.data_ptr());
  for (int64_t k = 0; k < filters; ++k)
    for (int64_t y = 0; y < 7; ++y)
      for (int64_t tap = 0; tap < kTaps; ++tap)
        to[((k / kPanel * 7 + y) * kTaps + tap) * kPanel + k % kPanel] = at(k, y, tap);
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
  STD_TORCH_CHECK(interleaved(images), "images must be channels_last");
  const bool fixed = weight.scalar_type() == ScalarType::Short;
  const int64_t axis = weight.dim() - (fixed ? 3 : 4);  // 1 of several groups
  bool packed =
      (axis == 0 || axis == 1) && weight.is_contiguous() && weight.size(weight.dim() - 1) == kPanel;
  if (packed && fixed) packed = weight.size(axis + 1) == kFixedLength + 2;
  if (packed && !fixed)
    packed = weight.size(axis + 1) == 7 && weight.size(axis + 2) == kTaps &&
             weight.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(packed, "weight must come from pack_stem");
  const int64_t panels = weight.size(axis), filters = panels * kPanel;
  const int64_t groups = groups_of(weight, axis, bias, filters, 0);
  STD_TORCH_CHECK(padding == 0 || padding == 1, "padding must be 0 or 1; got ", padding);
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  STD_TORCH_CHECK(!fixed || has_fixed(), "this processor has no AVX-512 VNNI");
  const int64_t rows = (h + 1) / 2, columns = (w + 1) / 2;
  STD_TORCH_CHECK(std::min(rows, columns) > 2 - 2 * padding, "images are too small: ", h, "x", w);
  const auto pooled = [padding](int64_t size) { return padding == 1 ? (size + 1) / 2 : size / 2; };
  const int64_t pooled_rows = pooled(rows), pooled_columns = pooled(columns);
  Tensor y = torch::stable::new_empty(images, {groups * n, pooled_rows, pooled_columns, filters},
                                      bfloat16 ? ScalarType::BFloat16 : ScalarType::Float);
#ifdef FASTAD_PANELS
  const Stem all{h,
                 w,
                 rows,
                 columns,
                 pooled_rows,
                 pooled_columns,
                 padding,
                 filters,
                 static_cast<const float*>(images.data_ptr()),
                 fixed ? nullptr : static_cast<const float*>(weight.data_ptr()),
                 fixed ? static_cast<const int16_t*>(weight.data_ptr()) : nullptr,
                 static_cast<const float*>(bias.data_ptr()),
                 bfloat16 ? nullptr : static_cast<float*>(y.data_ptr()),
                 bfloat16 ? static_cast<BFloat16*>(y.data_ptr()) : nullptr};
  const auto compute = fixed ? compute_fixed : has_wide_panels() ? compute_v4 : compute_v3;
  const int64_t strips = n * all.strips();
  torch::stable::parallel_for(0, groups * strips, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t group = i / strips,
                    results = group * n * pooled_rows * pooled_columns * filters;
      Stem one = all;
      if (fixed) {
        one.fixed += group * panels * slab_size(kFixedLength);
      } else {
        one.weight += group * panels * 7 * kTaps * kPanel;
      }
      one.bias += group * filters;
      if (bfloat16) {
        one.half += results;
      } else {
        one.y += results;
      }
      compute(one, i % strips / all.strips(), i % all.strips());
    }
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
