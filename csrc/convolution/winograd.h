// The inner loops of 3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray,
// CVPR 2016), in float32 or with products in 16-bit integers (convolution/int16.h). Free of torch.
//
// A tile of 4x4 results needs 6x6 inputs. Both and the filters are polynomials' values at six
// points, where a convolution is a product: 36 multiplications for a tile, a channel and a filter
// in place of 144. The points are 0, +-5/8, +-3/2 and infinity instead of Lavin and Gray's 0, +-1,
// +-2: their powers differ less, so the rounding is two to three times a direct convolution's.

#pragma once

#include <cstdint>

#include "convolution/panel.h"

namespace fastad::cpu {

constexpr int64_t kPoints = 36;  // 6x6
// Tiles that are computed together: their inputs, transformed, stay in the second-level cache.
constexpr int64_t kBlock = 16;

// A batch of interleaved (channels_last) images, its filters and what follows them.
struct Convolution3x3 {
  int64_t images, height, width, channels, filters;  // both multiples of kPanel
  const float* x;                                    // (images, height, width, channels)
  const float* weight;                               // (filters / kPanel, 36, channels, kPanel)
  const int16_t* int16;                              // or (filters / kPanel, 36) slabs
  const float* bias;                                 // (filters)
  const float* added;                                // as y, added to the results; or null
  float* y;                                          // (images, height, width, filters)
  bool relu;

  int64_t tile_rows() const { return (height + 3) / 4; }
  int64_t tile_columns() const { return (width + 3) / 4; }
  int64_t tiles() const { return images * tile_rows() * tile_columns(); }
};

// A panel's filters (kPanel, channels, 3, 3) as `Convolution3x3` takes them.
void pack_panel(const double* weight, int64_t channels, float* packed);
void pack_panel(const double* weight, int64_t channels, int16_t* packed);

// Only where `has_panels`: computes `tiles` tiles from `first` on, of the panels from `first_panel`
// to `last_panel`.
void convolve_tiles(const Convolution3x3& convolution, int64_t first, int64_t tiles,
                    int64_t first_panel, int64_t last_panel);

// The same in 16-bit integers, only where `has_int16`.
void convolve_tiles_int16(const Convolution3x3& convolution, int64_t first, int64_t tiles,
                          int64_t first_panel, int64_t last_panel);

}  // namespace fastad::cpu
