// The inner loops of a residual network's stem. Free of torch.

#pragma once

#include <cstdint>

#include "half_precision.h"

namespace fastad::cpu {

constexpr int64_t kStemSide = 7;  // points along an axis: of a tile's inputs and values
constexpr int64_t kStemValues = kStemSide * kStemSide;  // of a tile
constexpr int64_t kStemChannels = 12;                   // two rows of two pixels of three channels
constexpr float kStemPoint = 0.3125f;                   // beside those of 3x3 (winograd_tile.h)

// Interleaved (channels_last) images, the filters of a 7x7 convolution of stride 2 and padding 3,
// and the maximum of 3x3 with stride 2 that follows bias and ReLU.
struct Stem {
  int64_t height, width;  // of the images
  int64_t padding;        // of the maximum: 1, or 0 with what remains at the end (ceil_mode)
  int64_t filters;
  const float* images;   // (n, height, width, 3)
  const float* weight;   // (filters / kPanel, kStemValues, kStemChannels, kPanel), or null
  const int16_t* int16;  // (filters / kPanel, kStemValues) slabs of kStemChannels
  const float* bias;
  float* y;        // (n, pooled_rows, pooled_columns, filters), or null
  BFloat16* half;  // the same in the other precision

  // Of the convolution's result, and of the maximum's.
  int64_t rows() const { return (height + 1) / 2; }
  int64_t columns() const { return (width + 1) / 2; }
  int64_t pooled_rows() const { return (rows() + padding) / 2; }
  int64_t pooled_columns() const { return (columns() + padding) / 2; }
  // Whether there is a result, and no window of the maximum without any.
  bool fits() const { return rows() > 2 - 2 * padding && columns() > 2 - 2 * padding; }

  // Tile (i, j) has the convolution's rows from 4 * i + shift() on, and its columns from
  // 4 * j + shift(): those from which results 2 * i and 2 * i + 1 are the maxima, but for the last
  // one of the tile before, down and across. That is where the first tile may lie: before the
  // image.
  int64_t shift() const { return 1 - padding; }
  int64_t first() const { return -shift(); }
  int64_t last_row() const { return (pooled_rows() + 1) / 2; }
  int64_t tile_columns() const { return (pooled_columns() + 1) / 2 - first(); }
};

// Only where `has_panels`, and `has_int16` for `int16`: one image's rows of tiles from `begin` to
// `end`, of `last_row()`.
void compute_stem(const Stem& stem, int64_t image, int64_t begin, int64_t end);

}  // namespace fastad::cpu
