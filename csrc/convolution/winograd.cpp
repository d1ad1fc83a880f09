#include "convolution/winograd.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "convolution/int16.h"
#include "convolution/panel.h"
#include "convolution/winograd_filters.h"
#include "convolution/winograd_tile.h"

namespace fastad::cpu {

#ifdef FASTAD_PANELS

namespace {

// kRows * kVectors sums stay in registers.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void convolve(const Convolution3x3& a, int64_t first, int64_t tiles,
                            int64_t first_panel, int64_t last_panel) {
  const int64_t rows = (tiles + kRows - 1) / kRows * kRows;
  // Padded to avoid cache-set conflicts, which powers of two cause.
  const int64_t stride = a.channels + 16;
  const int64_t m_stride = rows * kPanel + 16;
  const int64_t v_size = kPoints * rows * stride, m_size = kPoints * m_stride;
  float* zeros = scratch(a.channels + v_size + m_size);
  float* v = zeros + a.channels;
  float* m = v + v_size;
  std::fill_n(zeros, a.channels, 0.0f);
  for (int64_t t = 0; t < tiles; ++t)
    transform_tile<kLanes>(a, Tile(a, first + t), zeros, rows * stride, v + t * stride);
  // Rows beyond the last tile are multiplied too, and not written.
  for (int64_t p = 0; p < kPoints; ++p)
    std::fill_n(v + (p * rows + tiles) * stride, (rows - tiles) * stride, 0.0f);
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const float* u = a.weight + panel * kPoints * a.channels * kPanel;
    for (int64_t p = 0; p < kPoints; ++p) {
      for (int64_t r = 0; r < rows; r += kRows) {
        for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
          Lanes<kLanes> sum[kRows][kVectors] = {};
          multiply_add<kLanes>(sum, v + (p * rows + r) * stride, stride,
                               u + p * a.channels * kPanel + k, a.channels);
          store_panel<kLanes>(sum, m + p * m_stride + r * kPanel + k);
        }
      }
    }
    for (int64_t t = 0; t < tiles; ++t)
      finish_tile<kLanes>(a, Tile(a, first + t), panel, m_stride, m + t * kPanel);
  }
}

FASTAD_V4 void convolve_v4(const Convolution3x3& a, int64_t first, int64_t tiles,
                           int64_t first_panel, int64_t last_panel) {
  convolve<16, 8, 2>(a, first, tiles, first_panel, last_panel);
}

FASTAD_V3 void convolve_v3(const Convolution3x3& a, int64_t first, int64_t tiles,
                           int64_t first_panel, int64_t last_panel) {
  convolve<8, 4, 2>(a, first, tiles, first_panel, last_panel);
}

}  // namespace

void convolve_tiles(const Convolution3x3& convolution, int64_t first, int64_t tiles,
                    int64_t first_panel, int64_t last_panel) {
  static const bool wide = has_wide_panels();
  (wide ? convolve_v4 : convolve_v3)(convolution, first, tiles, first_panel, last_panel);
}

#else

void convolve_tiles(const Convolution3x3&, int64_t, int64_t, int64_t, int64_t) {}

#endif

namespace {

// (36, channels, kPanel) of a panel's filters, weight (kPanel, channels, 3, 3).
std::vector<double> values_of_panel(const double* weight, int64_t channels) {
  static const FilterPoints<3, 6> points({0, kA, -kA, kB, -kB, INFINITY});
  std::vector<double> values(kPoints * channels * kPanel);
  for (int64_t k = 0; k < kPanel; ++k)
    for (int64_t c = 0; c < channels; ++c) {
      const double* filter = weight + (k * channels + c) * 9;
      points.evaluate([filter](int y, int x) { return filter[y * 3 + x]; }, channels * kPanel,
                      &values[c * kPanel + k]);
    }
  return values;
}

}  // namespace

void pack_panel(const double* weight, int64_t channels, float* packed) {
  const std::vector<double> values = values_of_panel(weight, channels);
  std::transform(values.begin(), values.end(), packed,
                 [](double value) { return static_cast<float>(value); });
}

void pack_panel(const double* weight, int64_t channels, int16_t* packed) {
  const std::vector<double> values = values_of_panel(weight, channels);
  for (int64_t p = 0; p < kPoints; ++p)
    pack_slab(
        channels, int16_chunk(channels),
        [&](int64_t k, int64_t c) { return values[(p * channels + c) * kPanel + k]; },
        packed + p * slab_size(channels));
}

}  // namespace fastad::cpu
