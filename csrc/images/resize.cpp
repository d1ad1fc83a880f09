// Antialiased bilinear resize of bytes. The result is that of F.interpolate(antialias=True) in
// float32, rounded. The image is never stored as floats.
//
// For each output row the source rows under the filter are added up, vector by vector, along the
// whole row. Then every output pixel adds up its columns of that sum. A shrink by s reads every
// byte 2 s / s = 2 times and makes 2 s multiply-adds a byte of the output row by row, and as many a
// byte of the output column by column: for 1024x1024 to 256x256 6.3 + 1.6 million.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "checks.h"
#include "instruction_set.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

// The filter along one axis: output i is the sum over k < taps of weight[k * out + i] times input
// begin[i] + k. All outputs have the same number of taps. Taps that one does not need have weight
// 0.
struct Filter {
  int64_t taps = 0;
  std::vector<int> begin;
  std::vector<float> weight;

  // ATen's rule (compute_index_ranges_weights): a triangle as wide as an output pixel, and at least
  // as an input pixel, cut off at the borders and normalised.
  Filter(int64_t in, int64_t out) : begin(out) {
    const double scale = static_cast<double>(in) / out, support = std::max(scale, 1.0);
    std::vector<int64_t> low(out), high(out);
    for (int64_t i = 0; i < out; ++i) {
      const double centre = scale * (i + 0.5);
      low[i] = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
      high[i] = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in);
      taps = std::max(taps, high[i] - low[i]);
    }
    weight.assign(taps * out, 0.0f);
    for (int64_t i = 0; i < out; ++i) {
      const double centre = scale * (i + 0.5);
      double total = 0;
      for (int64_t j = low[i]; j < high[i]; ++j) total += triangle((j - centre + 0.5) / support);
      const int64_t first = std::min(low[i], in - taps);  // no tap lies outside
      begin[i] = static_cast<int>(first);
      for (int64_t j = low[i]; j < high[i]; ++j) {
        const double share = triangle((j - centre + 0.5) / support) / total;
        weight[(j - first) * out + i] = static_cast<float>(share);
      }
    }
  }

  static double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }
};

// sum[i] = sum over k of weight[k * step] * rows[k * stride + i].
FASTAD_INLINE void add_rows(const uint8_t* FASTAD_RESTRICT rows, int64_t stride,
                            const float* FASTAD_RESTRICT weight, int64_t step, int64_t taps,
                            int64_t length, float* FASTAD_RESTRICT sum) {
  // A stretch of the sum stays in the first-level cache for all rows.
  constexpr int64_t kStretch = 2048;
  for (int64_t start = 0; start < length; start += kStretch) {
    const int64_t end = std::min(start + kStretch, length);
    for (int64_t i = start; i < end; ++i) sum[i] = weight[0] * rows[i];
    for (int64_t k = 1; k < taps; ++k) {
      const float factor = weight[k * step];
      if (factor == 0) continue;
      const uint8_t* FASTAD_RESTRICT row = rows + k * stride;
      for (int64_t i = start; i < end; ++i) sum[i] += factor * row[i];
    }
  }
}

// out[i] = the grey level of sum over k of weight[k * length + i] * sum[begin[i] + k * pixel].
FASTAD_INLINE void add_columns(const float* FASTAD_RESTRICT sum, const int* FASTAD_RESTRICT begin,
                               int64_t pixel, const float* FASTAD_RESTRICT weight, int64_t taps,
                               int64_t length, float* FASTAD_RESTRICT wide,
                               uint8_t* FASTAD_RESTRICT out) {
  for (int64_t i = 0; i < length; ++i) wide[i] = 0;
  for (int64_t k = 0; k < taps; ++k) {
    const float* FASTAD_RESTRICT shifted = sum + k * pixel;
    const float* FASTAD_RESTRICT factor = weight + k * length;
    for (int64_t i = 0; i < length; ++i) wide[i] += factor[i] * shifted[begin[i]];
  }
  for (int64_t i = 0; i < length; ++i) {
    // Rounds half to even, as torch does: a float at 2^23 has no bits for fractions.
    const float rounded = (wide[i] + 8388608.0f) - 8388608.0f;
    out[i] = static_cast<uint8_t>(std::min(std::max(rounded, 0.0f), 255.0f));
  }
}

// (N, C, H, W) uint8, its rows contiguous or its pixels interleaved -> contiguous of another size.
//
// The images may be a band of larger ones: of their `rows` rows those from `top` on. Of the result
// come the rows from `first` to `last` alone, and the band must hold every row that they take.
Tensor resize_bytes(Tensor images, int64_t height, int64_t width, int64_t rows, int64_t top,
                    int64_t first, int64_t last) {
  STD_TORCH_CHECK(images.dim() == 4 && images.scalar_type() == ScalarType::Byte,
                  "images must be uint8 (N, C, H, W)");
  const int64_t n = images.size(0), channels = images.size(1);
  const int64_t held = images.size(2), columns = images.size(3);
  rows = rows < 0 ? held : rows;
  last = last < 0 ? height : last;
  STD_TORCH_CHECK(channels > 0 && held > 0 && is_size(rows, columns) && is_size(height, width) &&
                      channels <= kMostPixels / std::max(columns, width),
                  "images and size must not be empty, and have at most 2^30 pixels, not ",
                  describe(images), " and (", height, ", ", width, ")");
  STD_TORCH_CHECK(0 <= top && top <= rows - held && 0 <= first && first < last && last <= height,
                  "images: there are no rows ", top, " to ", top, " + ", held, " among ", rows,
                  ", or none from ", first, " to ", last, " of the result among ", height);
  const bool interleaved = images.stride(1) == 1 && images.stride(3) == channels && channels > 1;
  STD_TORCH_CHECK(interleaved || images.stride(3) == 1 || columns == 1,
                  "images must be interleaved or have contiguous rows");
  const int64_t lines = last - first;
  Tensor out = torch::stable::new_empty(images, {n, channels, lines, width});
  if (n == 0) return out;

  const Filter vertical(rows, height), horizontal(columns, width);
  // Where a row of the result begins grows with the row.
  STD_TORCH_CHECK(
      vertical.begin[first] >= top && vertical.begin[last - 1] + vertical.taps <= top + held,
      "images: the rows ", first, " to ", last, " of the result take rows ", vertical.begin[first],
      " to ", vertical.begin[last - 1] + vertical.taps, ", and there are ", top, " to ",
      top + held);
  // An interleaved row is one plane, whose pixels are `pixel` values apart.
  const int64_t pixel = interleaved ? channels : 1, planes = interleaved ? 1 : channels;
  const int64_t length = columns * pixel;
  // The result is planar, whatever the source's layout.
  std::vector<int> begin(width * pixel);
  std::vector<float> weight(horizontal.taps * width * pixel);
  for (int64_t c = 0; c < pixel; ++c)
    for (int64_t x = 0; x < width; ++x) {
      begin[c * width + x] = static_cast<int>(horizontal.begin[x] * pixel + c);
      for (int64_t k = 0; k < horizontal.taps; ++k)
        weight[(k * pixel + c) * width + x] = horizontal.weight[k * width + x];
    }

  const auto* source = static_cast<const uint8_t*>(images.data_ptr());
  auto* target = static_cast<uint8_t*>(out.data_ptr());
  const int64_t image_stride = images.stride(0), plane_stride = images.stride(1);
  const int64_t row_stride = images.stride(2);
  const int64_t grain = std::max<int64_t>(1, 65536 / (vertical.taps * length));
  parallel_for(0, n * planes * lines, grain, [&](int64_t begin_line, int64_t end_line) {
    std::vector<float> sum(length), wide(width * pixel);
    std::vector<uint8_t> line(width * pixel);
    for (int64_t i = begin_line; i < end_line; ++i) {
      const int64_t line_of = i % lines, y = first + line_of;
      const int64_t plane = i / lines % planes, image = i / lines / planes;
      const uint8_t* from = source + image * image_stride + plane * plane_stride;
      dispatch<add_rows>(from + (vertical.begin[y] - top) * row_stride, row_stride,
                         vertical.weight.data() + y, height, vertical.taps, length, sum.data());
      dispatch<add_columns>(sum.data(), begin.data(), pixel, weight.data(), horizontal.taps,
                            width * pixel, wide.data(), line.data());
      for (int64_t c = 0; c < pixel; ++c)
        std::copy_n(line.data() + c * width, width,
                    target + ((image * channels + plane + c) * lines + line_of) * width);
    }
  });
  return out;
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("resize_bytes", TORCH_BOX(&fastad::cpu::resize_bytes));
}
