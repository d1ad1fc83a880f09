// 1x1 and 3x3 convolutions of any stride in prediction, with what follows them: bias, a sum and
// ReLU. Products are of 16-bit integers (convolution/int16.h). Every pixel has a scale of its own:
// results are rounded in proportion to what they are sums of.
//
// Floor of 256 to 256 channels at 16x16, 3x3: 151 million multiply-adds an image; 0.3 MB in and
// out, 1.2 MB of filters.

#include "convolution/convolve_int16.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "convolution/channels_last.h"
#include "convolution/int16.h"
#include "parallel.h"

namespace fastad::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#ifdef FASTAD_PANELS

namespace {

// x (padded, channels) and scales (padded) from a row of an image; null for one outside.
FASTAD_VNNI void prepare_row(const Int16Convolution& a, const float* from, int16_t* x,
                             float* scales) {
  for (int64_t i = 0; i < a.padded(); ++i, x += a.channels) {
    const int64_t column = (i - a.side / 2) * a.skip();
    Int16Scale scale{0.0f, 0.0f};
    if (from != nullptr && column >= 0 && column < a.width) {
      const float* pixel = from + column * a.channels;
      __m512i most = _mm512_setzero_si512();
      for (int64_t c = 0; c < a.channels; c += 16)
        most = larger_magnitude(most, _mm512_loadu_ps(pixel + c));
      scale = int16_scale(most);
      to_int16(pixel, a.channels, scale.factor, x);
    } else {
      std::fill_n(x, a.channels, int16_t{0});
    }
    scales[i] = scale.inverse;
  }
}

// Eight pixels of one panel, from m, of which `pixels` and `filters` lie inside the result.
FASTAD_VNNI void finish(const Int16Convolution& a, const float* m, int64_t panel, int64_t pixels,
                        int64_t place) {
  for (int64_t j = 0; j < kPanel; j += 16) {
    const int64_t first = panel * kPanel + j, left = a.filters - first;
    if (left <= 0) return;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    const __m512 bias = _mm512_loadu_ps(a.bias + first);
    for (int64_t r = 0; r < pixels; ++r) {
      const int64_t at = place + r * a.filters + first;
      __m512 value = _mm512_add_ps(_mm512_loadu_ps(m + r * kPanel + j), bias);
      if (a.added != nullptr)
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, a.added + at));
      // Returns the second operand where one is NaN: NaN propagates.
      if (a.relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
      _mm512_mask_storeu_ps(a.y + at, mask, value);
    }
  }
}

}  // namespace

FASTAD_VNNI void convolve_strip(const Int16Convolution& a, int64_t image, int64_t strip,
                                int64_t first, int64_t last) {
  const int64_t begin = strip * a.strip(), end = std::min(begin + a.strip(), a.rows);
  const int64_t count = (end - begin - 1) * a.step() + a.side, row_size = a.padded() * a.channels;
  float* scales = scratch(count * a.padded() + (count * row_size + 1) / 2);
  auto* x = reinterpret_cast<int16_t*>(scales + count * a.padded());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = (begin * a.step() + i - a.side / 2) * a.skip();
    const bool inside = row >= 0 && row < a.height;
    prepare_row(a, inside ? a.x + (image * a.height + row) * a.width * a.channels : nullptr,
                x + i * row_size, scales + i * a.padded());
  }
  const int64_t chunk = int16_chunk(a.channels);
  alignas(64) float m[kInt16Rows * kPanel];
  for (int64_t panel = first; panel < last; ++panel) {
    const int16_t* slab = a.weight + panel * slab_size(a.length());
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t pixel = 0; pixel < a.columns; pixel += kInt16Rows) {
        const int16_t* filters = slab;
        for (int64_t tap = 0; tap < a.side * a.side; ++tap) {
          const int64_t down = (row - begin) * a.step() + tap / a.side;
          const int64_t from = down * a.padded() + pixel * a.step() + tap % a.side;
          for (int64_t c = 0; c < a.channels; c += chunk, filters += chunk * kPanel)
            multiply_int16(x + from * a.channels + c, a.step() * a.channels, 0, filters, 1,
                           chunk / 2, slab_scales(slab, a.length()), scales + from, a.step(),
                           tap + c > 0, m);
        }
        finish(a, m, panel, std::min<int64_t>(kInt16Rows, a.columns - pixel),
               ((image * a.rows + row) * a.columns + pixel) * a.filters);
      }
    }
  }
}

#else

void convolve_strip(const Int16Convolution&, int64_t, int64_t, int64_t, int64_t) {}

#endif

namespace {

// (K, C, s, s) float64, contiguous, s 1 or 3 -> (ceil(K / 32), s * s * C + 2, 32) int16: slabs.
Tensor pack_int16(Tensor weight) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3) &&
                      (weight.size(2) == 1 || weight.size(2) == 3) &&
                      weight.scalar_type() == ScalarType::Double && weight.is_contiguous(),
                  "weight must be (K, C, 1, 1) or (K, C, 3, 3), float64 and contiguous");
  const int64_t filters = weight.size(0), channels = weight.size(1);
  const int64_t taps = weight.size(2) * weight.size(3), length = taps * channels;
  STD_TORCH_CHECK(filters > 0 && channels > 0 && channels % 32 == 0,
                  "weight must have a multiple of 32 channels; got ", channels);
  const int64_t panels = (filters + kPanel - 1) / kPanel;
  Tensor packed = torch::stable::new_empty(weight, {panels, length + 2, kPanel}, ScalarType::Short);
  const auto* from = static_cast<const double*>(weight.data_ptr());
  auto* to = static_cast<int16_t*>(packed.data_ptr());
  parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel)
      pack_slab(
          length, int16_chunk(channels),
          [&](int64_t k, int64_t i) {
            const int64_t filter = panel * kPanel + k;
            return filter < filters ? from[(filter * channels + i % channels) * taps + i / channels]
                                    : 0.0;
          },
          to + panel * slab_size(length));
  });
  return packed;
}

// Checks the arguments and computes the convolution into `y`, an empty tensor or what is added.
void convolve(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t filters,
              int64_t side, int64_t stride, const float* added, bool relu, Tensor& y) {
  const int64_t n = x.size(0), axis = weight.dim() - 3, panels = weight.size(axis);
  [[maybe_unused]] const int64_t groups = groups_of(weight, axis, bias, panels * kPanel, n);
#ifdef FASTAD_PANELS
  const Int16Convolution all{x.size(2),
                             x.size(3),
                             x.size(1),
                             y.size(2),
                             y.size(3),
                             filters,
                             side,
                             stride,
                             static_cast<const float*>(x.data_ptr()),
                             static_cast<const int16_t*>(weight.data_ptr()),
                             static_cast<const float*>(bias.data_ptr()),
                             added,
                             static_cast<float*>(y.data_ptr()),
                             relu};
  if (x.numel() == 0) return;
  const int64_t strips = n * all.strips(), threads = thread_count();
  // Unless there is a strip for every thread they divide the filters.
  const int64_t parts = std::min(panels, std::max<int64_t>(1, threads / strips));
  parallel_for(0, strips * parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / parts / all.strips(), part = i % parts;
      const int64_t group = image / (n / groups);
      Int16Convolution one = all;
      one.weight += group * panels * slab_size(all.length());
      one.bias += group * panels * kPanel;
      convolve_strip(one, image, i / parts % all.strips(), part * panels / parts,
                     (part + 1) * panels / parts);
    }
  });
#endif
}

void check(const Tensor& x, const Tensor& weight, int64_t filters, int64_t side, int64_t stride) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && is_channels_last(x),
                  "x must be (N, C, H, W), float32 and channels_last");
  require_panels(x);
  STD_TORCH_CHECK((side == 1 || side == 3) && stride >= 1 && stride <= kMostStride,
                  "side must be 1 or 3 and stride 1 to ", kMostStride, "; got ", side, " and ",
                  stride);
  STD_TORCH_CHECK(filters > 0 && filters <= kMostFilters, "filters must be 1 to ", kMostFilters,
                  "; got ", filters);
  const int64_t axis = weight.dim() - 3;  // 1 of several groups
  STD_TORCH_CHECK((axis == 0 || axis == 1) && weight.size(axis) == (filters + 31) / 32 &&
                      weight.size(axis + 1) == side * side * x.size(1) + 2 &&
                      weight.size(axis + 2) == kPanel &&
                      weight.scalar_type() == ScalarType::Short && weight.is_contiguous(),
                  "weight must come from pack_int16, for as many channels as x");
  STD_TORCH_CHECK(has_int16(), "this processor has no AVX-512 VNNI");
}

// x (N, C, H, W) float32, channels_last -> (N, filters, ceil(H / stride), ceil(W / stride)).
// `weight` and `bias`, which is filled up to whole panels, of one group or of several, each for as
// many images.
Tensor convolve_int16(Tensor x, Tensor weight, Tensor bias, int64_t filters, int64_t side,
                      int64_t stride, bool relu) {
  check(x, weight, filters, side, stride);
  const int64_t rows = (x.size(2) + stride - 1) / stride;
  const int64_t columns = (x.size(3) + stride - 1) / stride;
  Tensor y = as_nchw(torch::stable::new_empty(x, {x.size(0), rows, columns, filters}));
  convolve(x, weight, bias, filters, side, stride, nullptr, relu, y);
  return y;
}

// The same with stride 1, added to `added`.
void convolve_int16_add_(Tensor added, Tensor x, Tensor weight, Tensor bias, int64_t side,
                         bool relu) {
  STD_TORCH_CHECK(added.dim() == 4, "added must be (N, K, H, W)");
  check(x, weight, added.size(1), side, 1);
  require_added(added, x, added.size(1));
  convolve(x, weight, bias, added.size(1), side, 1, static_cast<const float*>(added.data_ptr()),
           relu, added);
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("pack_int16", TORCH_BOX(&fastad::cpu::pack_int16));
  m.impl("convolve_int16", TORCH_BOX(&fastad::cpu::convolve_int16));
  m.impl("convolve_int16_add_", TORCH_BOX(&fastad::cpu::convolve_int16_add_));
}
