// The inner loops of F(4x4, 3x3) in 16-bit integers (convolution/int16.h), between transforms in
// float32.
//
// A tile's inputs at all points have one scale: its rounding stays in the tile.

#include <algorithm>

#include "convolution/int16.h"
#include "convolution/panel.h"
#include "convolution/winograd.h"
#include "convolution/winograd_tile.h"

namespace fastad::cpu {

#ifdef FASTAD_PANELS

namespace {

// v[point * point_stride + c], and what integers are multiplied by to get the inputs back.
FASTAD_VNNI float transform_int16(const Convolution3x3& a, Tile tile, const float* zeros,
                                  float* values, int64_t point_stride, int16_t* v) {
  BitsOf<16>::type most;
  transform_tile<16, true>(a, tile, zeros, a.channels, values, &most);
  const Int16Scale scale = int16_scale(reinterpret_cast<__m512i>(most));
  for (int64_t p = 0; p < kPoints; ++p)
    to_int16(values + p * a.channels, a.channels, scale.factor, v + p * point_stride);
  return scale.inverse;
}

FASTAD_VNNI void convolve(const Convolution3x3& a, int64_t first, int64_t tiles,
                          int64_t first_panel, int64_t last_panel) {
  const int64_t rows = (tiles + kInt16Rows - 1) / kInt16Rows * kInt16Rows;
  // Padded to avoid cache-set conflicts, which powers of two cause.
  const int64_t stride = a.channels + 32;
  const int64_t chunk = int16_chunk(a.channels);
  const int64_t m_stride = rows * kPanel + 16;
  const int64_t v_size = kPoints * rows * stride / 2, m_size = kPoints * m_stride;
  float* zeros = scratch(a.channels + kPoints * a.channels + v_size + m_size + rows);
  float *values = zeros + a.channels, *m = values + kPoints * a.channels, *scales = m + m_size;
  auto* v = reinterpret_cast<int16_t*>(scales + rows);
  std::fill_n(zeros, a.channels, 0.0f);
  for (int64_t t = 0; t < tiles; ++t)
    scales[t] =
        transform_int16(a, Tile(a, first + t), zeros, values, rows * stride, v + t * stride);
  // Rows beyond the last tile are multiplied too, and not written.
  std::fill_n(scales + tiles, rows - tiles, 0.0f);
  for (int64_t p = 0; p < kPoints; ++p)
    std::fill_n(v + (p * rows + tiles) * stride, (rows - tiles) * stride, int16_t{0});
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const int16_t* slabs = a.int16 + panel * kPoints * slab_size(a.channels);
    for (int64_t p = 0; p < kPoints; ++p) {
      const int16_t* slab = slabs + p * slab_size(a.channels);
      for (int64_t r = 0; r < rows; r += kInt16Rows)
        for (int64_t c = 0; c < a.channels; c += chunk)
          multiply_int16(v + (p * rows + r) * stride + c, stride, 0, slab + c * kPanel, 1,
                         chunk / 2, slab_scales(slab, a.channels), scales + r, 1, c > 0,
                         m + p * m_stride + r * kPanel);
    }
    for (int64_t t = 0; t < tiles; ++t)
      finish_tile<16>(a, Tile(a, first + t), panel, m_stride, m + t * kPanel);
  }
}

}  // namespace

void convolve_tiles_int16(const Convolution3x3& convolution, int64_t first, int64_t tiles,
                          int64_t first_panel, int64_t last_panel) {
  convolve(convolution, first, tiles, first_panel, last_panel);
}

#else

void convolve_tiles_int16(const Convolution3x3&, int64_t, int64_t, int64_t, int64_t) {}

#endif

}  // namespace fastad::cpu
