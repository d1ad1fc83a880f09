// The inner loops of 1x1 and 3x3 convolutions of any stride in 16-bit integers. Free of torch.

#pragma once

#include <algorithm>
#include <cstdint>

#include "convolution/int16.h"

namespace fastad::cpu {

// Interleaved (channels_last) images, a convolution's filters and what follows them.
struct Int16Convolution {
  static constexpr int64_t kPixels = 256;  // of the result, about, that are computed together

  int64_t height, width, channels;  // of the images
  int64_t rows, columns, filters;   // of the result
  int64_t side;                     // of a filter, 1 or 3; its padding is side / 2
  int64_t stride;
  const float* x;         // (n, height, width, channels)
  const int16_t* weight;  // (panels) slabs of side * side * channels
  const float* bias;      // (panels * kPanel)
  const float* added;     // as y, added to the results; or null
  float* y;               // (n, rows, columns, filters)
  bool relu;

  int64_t strip() const { return std::max<int64_t>(kPixels / columns, 1); }
  int64_t strips() const { return (rows + strip() - 1) / strip(); }
  int64_t length() const { return side * side * channels; }
  // Pixels of a row of the result that are computed, and of the image that they are computed from:
  // every stride-th for a filter of one.
  int64_t computed() const { return (columns + kInt16Rows - 1) / kInt16Rows * kInt16Rows; }
  int64_t step() const { return side == 1 ? 1 : stride; }
  int64_t skip() const { return side == 1 ? stride : 1; }
  int64_t padded() const { return (computed() - 1) * step() + side; }
};

// Only where `has_int16`: one strip of one image, of the panels from `first` to `last`.
void convolve_strip(const Int16Convolution& convolution, int64_t image, int64_t strip,
                    int64_t first, int64_t last);

}  // namespace fastad::cpu
