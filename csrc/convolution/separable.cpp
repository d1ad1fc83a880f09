// A block of an EfficientNet-Lite in one pass, in prediction: a 1x1 convolution to more channels, a
// depthwise one, a 1x1 convolution to few channels, and the sum with the block's input.
//
// The expanded tensor is never written to memory. A thread takes a band of rows of one image. Of
// kGroup expanded channels at a time it computes the band into the cache, convolves it there, and
// adds what follows from it to the band's results.
//
// Floor for layer1 to layer3 of lite0 at 256x256, one network and image: 0.32e9 multiply-adds, of
// which 0.04e9 are depthwise. With 32 a cycle, two FMAs of 16 lanes, that is 9.9e6 cycles. Between
// blocks 4.8 MB are written, and read again. The tensors within blocks, 15.8 MB before the
// depthwise convolutions and 10.7 MB after them, are not.
//
// ResNet-18 needs 1.83e9 multiply-adds there, and 0.58e9 by Winograd's algorithm, which depthwise
// and 1x1 convolutions do not have. So at one rate this network can be 1.8 times as fast. In int16
// it is 1.6 times, as the depthwise and the first convolution stay in float32.

#include "convolution/separable.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "convolution/channels_last.h"
#include "convolution/int16.h"
#include "convolution/panel.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#ifdef FASTAD_PANELS

// sum += x (kRows, count), rows `step` apart, times filters (count, kGroup).
template <int kLanes, int kRows>
FASTAD_INLINE void multiply_group(Lanes<kLanes> (&sum)[kRows][kGroup / kLanes], const float* x,
                                  int64_t step, const float* filters, int64_t count) {
  multiply_add<kLanes, kRows, kGroup / kLanes, kGroup>(sum, x, step, filters, count);
}

// to (kRows, kGroup) = ReLU6 of x (kRows, channels) times filters, plus bias.
template <int kLanes, int kRows>
FASTAD_INLINE void expand_pixels(const Separable& a, const float* x, const float* filters,
                                 const float* bias, float* to) {
  constexpr int kVectors = kGroup / kLanes;
  Lanes<kLanes> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kVectors; ++k) sum[r][k] = lanes_at<kLanes>(bias + k * kLanes);
  multiply_group<kLanes, kRows>(sum, x, a.channels, filters, a.channels);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kVectors; ++k)
      store_lanes<kLanes>(to + r * kGroup + k * kLanes, relu6_of<kLanes>(sum[r][k]));
}

// One row of the expanded band, (wide, kGroup), from one row of the input.
template <int kLanes, int kRows>
FASTAD_INLINE void expand_row(const Separable& a, int64_t group, const float* x, float* to) {
  to = begin_row(a, group, x, to);
  if (!a.expands) return;
  const float* filters = static_cast<const float*>(a.expand) + group * a.channels * kGroup;
  const float* bias = a.bias + group * kGroup;
  int64_t p = 0;
  for (; p + kRows <= a.width; p += kRows)
    expand_pixels<kLanes, kRows>(a, x + p * a.channels, filters, bias, to + p * kGroup);
  for (; p < a.width; ++p)
    expand_pixels<kLanes, 1>(a, x + p * a.channels, filters, bias, to + p * kGroup);
}

// Where the results of the depthwise convolution go: `kDepth` groups lie side by side.
template <int kLanes>
struct StoreInner {
  float* to;
  FASTAD_INLINE void operator()(int64_t p, int64_t k, Lanes<kLanes> value) const {
    store_lanes<kLanes>(to + p * kDepth * kGroup + k, value);
  }
};

// sums (kRows, padded), one group of filters, += inner (kRows, depth) times its filters.
template <int kLanes, int kRows>
FASTAD_INLINE void project_pixels(const Separable& a, const float* inner, const float* filters,
                                  int64_t depth, float* sums) {
  constexpr int kVectors = kGroup / kLanes;
  const int64_t padded = a.padded();
  Lanes<kLanes> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kVectors; ++k) sum[r][k] = lanes_at<kLanes>(sums + r * padded + k * kLanes);
  multiply_group<kLanes, kRows>(sum, inner, kDepth * kGroup, filters, depth);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int k = 0; k < kVectors; ++k)
      store_lanes<kLanes>(sums + r * padded + k * kLanes, sum[r][k]);
}

// Rows first to last of the result, y (last - first, columns, filters), from the image x.
template <int kLanes, int kRows>
FASTAD_INLINE void separable_band(const Separable& a, const float* x, int64_t first, int64_t last,
                                  float* y, float* memory) {
  const int64_t pixels = (last - first) * a.columns, padded = a.padded(), wide = a.wide();
  const int64_t tall = a.tall(last - first);
  float* const sums = memory;
  float* const inner = sums + pixels * padded;
  float* const expanded = inner + pixels * kDepth * kGroup;
  for (int64_t p = 0; p < pixels; ++p) std::copy_n(a.bias + 2 * a.inner, padded, sums + p * padded);
  for (int64_t group = 0; group < a.inner / kGroup; group += kDepth) {
    const int64_t count = std::min(kDepth, a.inner / kGroup - group);
    for (int64_t g = 0; g < count; ++g) {
      for (int64_t i = 0; i < tall; ++i) {
        const int64_t row = first * a.stride - a.top + i;
        float* const to = expanded + i * wide * kGroup;
        if (row < 0 || row >= a.height)
          std::fill(to, to + wide * kGroup, 0.0f);
        else
          expand_row<kLanes, kRows>(a, group + g, x + row * a.width * a.channels, to);
      }
      for (int64_t i = 0; i < last - first; ++i) {
        const float* const from = expanded + i * a.stride * wide * kGroup;
        const StoreInner<kLanes> store{inner + i * a.columns * kDepth * kGroup + g * kGroup};
        if (a.side == 3)
          depthwise_row<kLanes, 3>(a, group + g, from, store);
        else
          depthwise_row<kLanes, 5>(a, group + g, from, store);
      }
    }
    for (int64_t k = 0; k < padded; k += kGroup) {
      const float* const filters =
          static_cast<const float*>(a.project) + k * a.inner + group * kGroup * kGroup;
      int64_t p = 0;
      for (; p + kRows <= pixels; p += kRows)
        project_pixels<kLanes, kRows>(a, inner + p * kDepth * kGroup, filters, count * kGroup,
                                      sums + p * padded + k);
      for (; p < pixels; ++p)
        project_pixels<kLanes, 1>(a, inner + p * kDepth * kGroup, filters, count * kGroup,
                                  sums + p * padded + k);
    }
  }
  finish_band(a, x, first, pixels, sums, y);
}

FASTAD_V4 void separable_v4(const Separable& a, const float* x, int64_t first, int64_t last,
                            float* y, float* memory) {
  separable_band<16, 16>(a, x, first, last, y, memory);
}

FASTAD_V3 void separable_v3(const Separable& a, const float* x, int64_t first, int64_t last,
                            float* y, float* memory) {
  separable_band<8, 4>(a, x, first, last, y, memory);
}

// Rows of a band: as many as the cache holds, and no more than leave every thread some.
int64_t band_of(const Separable& a, int64_t images) {
  int64_t most = a.rows;
  while (most > 1 && a.tall(most) * a.wide() * kGroup > kBandFloats) --most;
  const int64_t of_image = (thread_count() + images - 1) / std::max<int64_t>(images, 1);
  const int64_t bands = std::max((a.rows + most - 1) / most, std::min(of_image, a.rows));
  return (a.rows + bands - 1) / bands;
}

#endif

// x (N, C, H, W) float32, channels_last -> (N, filters, ceil(H / stride), ceil(W / stride)), padded
// as `fastad.backbones.efficientnet_lite.pad_same`. `expand` (G, E / 16, C, 16), `depthwise` (G, E
// / 16, side * side, 16), `project` (G, ceil(filters / 16), E, 16) and `bias` (G, 2 E + 16 *
// ceil(filters / 16)) are of G networks, each for N / G of the images. Without an expansion E is C,
// and `expand` has no rows: (G, E / 16, 0, 16). In int16 `expand` and `project` come from
// `pack_separable`, with two rows more.
Tensor separable_block(Tensor x, Tensor expand, Tensor depthwise, Tensor project, Tensor bias,
                       int64_t filters, int64_t side, int64_t stride, bool add) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float,
                  "x must be (N, C, H, W), float32");
  STD_TORCH_CHECK(is_channels_last(x), "x must be channels_last");
  const int64_t n = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  STD_TORCH_CHECK(height > 0 && width > 0, "x must have pixels");
  STD_TORCH_CHECK(side == 3 || side == 5, "side must be 3 or 5; got ", side);
  STD_TORCH_CHECK(stride == 1 || stride == 2, "stride must be 1 or 2; got ", stride);
  const bool int16 = project.scalar_type() == ScalarType::Short;
  const ScalarType kind = int16 ? ScalarType::Short : ScalarType::Float;
  for (const Tensor* one : {&expand, &depthwise, &project})
    STD_TORCH_CHECK(one->dim() == 4 && one->size(3) == kGroup && one->size(0) == expand.size(0) &&
                        one->scalar_type() == (one == &depthwise ? ScalarType::Float : kind) &&
                        one->is_contiguous(),
                    "expand, depthwise and project must be (G, groups, rows, 16), contiguous and "
                    "float32, the first and the last both of them int16 or not");
  const int64_t more = int16 ? 2 : 0;
  const int64_t networks = expand.size(0), inner = expand.size(1) * kGroup;
  const bool expands = expand.size(2) != 0;
  STD_TORCH_CHECK(inner > 0 && (expands ? expand.size(2) - more : inner) == channels,
                  "expand must be of the ", channels, " channels of x");
  STD_TORCH_CHECK(depthwise.size(1) * kGroup == inner && depthwise.size(2) == side * side,
                  "depthwise must be (G, ", inner / kGroup, ", ", side * side, ", 16)");
  STD_TORCH_CHECK(filters > 0 && filters <= kMostFilters, "filters must be 1 to ", kMostFilters,
                  "; got ", filters);
  const int64_t padded = (filters + kGroup - 1) / kGroup * kGroup;
  STD_TORCH_CHECK(project.size(1) * kGroup == padded && project.size(2) == inner + more,
                  "project must be (G, ", padded / kGroup, ", ", inner + more, ", 16)");
  groups_of(bias, 1, bias, 2 * inner + padded, n);
  STD_TORCH_CHECK(bias.size(0) == networks, "bias must be of ", networks, " networks");
  STD_TORCH_CHECK(!add || (stride == 1 && filters == channels),
                  "the input can be added where the result has its shape");
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  STD_TORCH_CHECK(!int16 || (has_int16() && channels % 2 == 0),
                  "int16 needs AVX-512 VNNI and an even number of channels");
  const int64_t rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride;
  Tensor y = torch::stable::new_empty(x, {n, rows, columns, filters});
#ifdef FASTAD_PANELS
  const int64_t below = std::max<int64_t>((rows - 1) * stride + side - height, 0);
  const int64_t right = std::max<int64_t>((columns - 1) * stride + side - width, 0);
  const auto data = [](const Tensor& t) { return static_cast<const float*>(t.data_ptr()); };
  const auto* from = data(x);
  auto* to = static_cast<float*>(y.data_ptr());
  const Separable shape{channels,
                        inner,
                        filters,
                        height,
                        width,
                        rows,
                        columns,
                        side,
                        stride,
                        below / 2,
                        right / 2,
                        expands,
                        add,
                        expand.data_ptr(),
                        project.data_ptr(),
                        data(depthwise),
                        data(bias)};
  const int64_t band = band_of(shape, n), bands = (rows + band - 1) / band;
  const int64_t floats = int16 ? separable_int16_floats(shape, band)
                               : band * columns * (padded + kDepth * kGroup) +
                                     shape.tall(band) * shape.wide() * kGroup;
  const auto compute = int16 ? separable_int16 : has_wide_panels() ? separable_v4 : separable_v3;
  const int64_t bytes = int16 ? 2 : 4;  // of a filter's value
  parallel_for(0, n * bands, 1, [&](int64_t begin, int64_t end) {
    float* const memory = scratch(floats);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / bands, first = i % bands * band, network = image / (n / networks);
      Separable a = shape;
      a.expand = static_cast<const char*>(a.expand) + network * expand.size(2) * inner * bytes;
      a.project = static_cast<const char*>(a.project) + network * project.size(2) * padded * bytes;
      a.depthwise += network * side * side * inner;
      a.bias += network * (2 * inner + padded);
      compute(a, from + image * height * width * channels, first, std::min(first + band, rows),
              to + (image * rows + first) * columns * filters, memory);
    }
  });
#endif
  return as_nchw(y);
}

// (K, C) float64, contiguous, K a multiple of 16 and C even -> (K / 16, C + 2, 16) int16: slabs
// whose sums are of `chunk` values.
Tensor pack_separable(Tensor weight, int64_t chunk) {
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) % kGroup == 0 && weight.size(1) % 2 == 0 &&
                      weight.scalar_type() == ScalarType::Double && weight.is_contiguous() &&
                      chunk > 0 && chunk % 2 == 0,
                  "weight must be (K, C), float64 and contiguous, K a multiple of 16, C and chunk "
                  "even");
  const int64_t groups = weight.size(0) / kGroup, length = weight.size(1);
  Tensor packed = torch::stable::new_empty(weight, {groups, length + 2, kGroup}, ScalarType::Short);
  const auto* from = static_cast<const double*>(weight.data_ptr());
  auto* to = static_cast<int16_t*>(packed.data_ptr());
  for (int64_t group = 0; group < groups; ++group)
    pack_slab<kGroup>(
        length, chunk,
        [&](int64_t k, int64_t i) { return from[(group * kGroup + k) * length + i]; },
        to + group * (length + 2) * kGroup);
  return packed;
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("pack_separable", TORCH_BOX(&fastad::cpu::pack_separable));
  m.impl("separable_block", TORCH_BOX(&fastad::cpu::separable_block));
}
