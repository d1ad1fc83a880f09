#include "cpu/winograd.h"

#include <algorithm>

#include "cpu/panel.h"

namespace fastad::cpu {

#ifdef FASTAD_PANELS

namespace {

constexpr float kA = 0.625f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB;

// The values of the six inputs' polynomial at the six points, to which filters' values are scaled.
template <int kLanes>
FASTAD_INLINE void evaluate_inputs(const Lanes<kLanes>* d, Lanes<kLanes>* out) {
  using V = Lanes<kLanes>;
  const V even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  const V even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  out[0] = (d[4] - (kA2 + kB2) * d[2]) + (kA2 * kB2) * d[0];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = (d[5] - (kA2 + kB2) * d[3]) + (kA2 * kB2) * d[1];
}

// Four results from the products at the six points.
template <int kLanes>
FASTAD_INLINE void interpolate_results(const Lanes<kLanes>* m, Lanes<kLanes>* out) {
  using V = Lanes<kLanes>;
  const V even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const V even_b = m[3] + m[4], odd_b = m[3] - m[4];
  out[0] = m[0] + (even_a + even_b);
  out[1] = kA * odd_a + kB * odd_b;
  out[2] = kA2 * even_a + kB2 * even_b;
  out[3] = m[5] + (kA2 * kA) * odd_a + (kB2 * kB) * odd_b;
}

// Where a tile lies.
struct Tile {
  int64_t image, row, column;

  Tile(const Convolution3x3& a, int64_t index)
      : image(index / (a.tile_rows() * a.tile_columns())),
        row(index / a.tile_columns() % a.tile_rows() * 4),
        column(index % a.tile_columns() * 4) {}
};

// v[point * rows * stride + c] from the tile's inputs; those outside the image are `zeros`.
template <int kLanes>
FASTAD_INLINE void transform_tile(const Convolution3x3& a, Tile tile, const float* zeros,
                                  int64_t point_stride, float* FASTAD_RESTRICT v) {
  const float* inputs[6][6];
  for (int64_t i = 0; i < 6; ++i) {
    for (int64_t j = 0; j < 6; ++j) {
      const int64_t y = tile.row + i - 1, x = tile.column + j - 1;
      const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
      inputs[i][j] =
          inside ? a.x + ((tile.image * a.height + y) * a.width + x) * a.channels : zeros;
    }
  }
  for (int64_t c = 0; c < a.channels; c += kLanes) {
    Lanes<kLanes> half[6][6];
    for (int j = 0; j < 6; ++j) {
      Lanes<kLanes> d[6], values[6];
      for (int i = 0; i < 6; ++i) d[i] = lanes_at<kLanes>(inputs[i][j] + c);
      evaluate_inputs<kLanes>(d, values);
      for (int i = 0; i < 6; ++i) half[i][j] = values[i];
    }
    for (int i = 0; i < 6; ++i) {
      Lanes<kLanes> values[6];
      evaluate_inputs<kLanes>(half[i], values);
      for (int j = 0; j < 6; ++j)
        store_lanes<kLanes>(v + (i * 6 + j) * point_stride + c, values[j]);
    }
  }
}

// A tile's results of one panel from m[point * point_stride + filter].
template <int kLanes>
FASTAD_INLINE void finish_tile(const Convolution3x3& a, Tile tile, int64_t panel,
                               int64_t point_stride, const float* FASTAD_RESTRICT m) {
  const int64_t rows = std::min<int64_t>(4, a.height - tile.row);
  const int64_t columns = std::min<int64_t>(4, a.width - tile.column);
  const int64_t corner = (tile.image * a.height + tile.row) * a.width + tile.column;
  for (int64_t k = 0; k < kPanel; k += kLanes) {
    Lanes<kLanes> half[4][6];
    for (int j = 0; j < 6; ++j) {
      Lanes<kLanes> products[6], results[4];
      for (int i = 0; i < 6; ++i)
        products[i] = lanes_at<kLanes>(m + (i * 6 + j) * point_stride + k);
      interpolate_results<kLanes>(products, results);
      for (int i = 0; i < 4; ++i) half[i][j] = results[i];
    }
    const int64_t filter = panel * kPanel + k;
    const Lanes<kLanes> bias = lanes_at<kLanes>(a.bias + filter);
    for (int64_t i = 0; i < rows; ++i) {
      Lanes<kLanes> results[4];
      interpolate_results<kLanes>(half[i], results);
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t place = (corner + i * a.width + j) * a.filters + filter;
        Lanes<kLanes> y = results[j] + bias;
        if (a.added != nullptr) y += lanes_at<kLanes>(a.added + place);
        if (a.relu) y = relu_of<kLanes>(y);
        store_lanes<kLanes>(a.y + place, y);
      }
    }
  }
}

// kRows * kVectors sums stay in registers.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void convolve(const Convolution3x3& a, int64_t first, int64_t tiles,
                            int64_t first_panel, int64_t last_panel) {
  const int64_t rows = (tiles + kRows - 1) / kRows * kRows;
  const int64_t stride = a.channels + 16;  // not a power of two, which caches dislike
  const int64_t v_size = kPoints * rows * stride, m_size = kPoints * rows * kPanel;
  float* zeros = scratch(a.channels + v_size + m_size);
  float* v = zeros + a.channels;
  float* m = v + v_size;
  std::fill_n(zeros, a.channels, 0.0f);
  for (int64_t t = 0; t < tiles; ++t)
    transform_tile<kLanes>(a, Tile(a, first + t), zeros, rows * stride, v + t * stride);
  // Rows beyond the last tile are multiplied too, but go nowhere.
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
          store_panel<kLanes>(sum, m + (p * rows + r) * kPanel + k);
        }
      }
    }
    for (int64_t t = 0; t < tiles; ++t)
      finish_tile<kLanes>(a, Tile(a, first + t), panel, rows * kPanel, m + t * kPanel);
  }
}

__attribute__((target("arch=x86-64-v4"))) void convolve_v4(const Convolution3x3& a, int64_t first,
                                                           int64_t tiles, int64_t first_panel,
                                                           int64_t last_panel) {
  convolve<16, 8, 2>(a, first, tiles, first_panel, last_panel);
}

__attribute__((target("arch=x86-64-v3"))) void convolve_v3(const Convolution3x3& a, int64_t first,
                                                           int64_t tiles, int64_t first_panel,
                                                           int64_t last_panel) {
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

void pack_filters(const double* weight, int64_t filters, int64_t channels, float* packed) {
  // The filter's polynomial at the points, divided by the product of their distances: Lagrange's
  // factors, which the inputs' values lack.
  constexpr double point[5] = {0, 0.625, -0.625, 1.5, -1.5};
  double g[6][3] = {};
  for (int i = 0; i < 5; ++i) {
    double product = 1;
    for (int j = 0; j < 5; ++j) product *= j == i ? 1 : point[i] - point[j];
    for (int j = 0; j < 3; ++j)
      g[i][j] = (j == 0 ? 1 : j == 1 ? point[i] : point[i] * point[i]) / product;
  }
  g[5][2] = 1;
  for (int64_t k = 0; k < filters; ++k) {
    for (int64_t c = 0; c < channels; ++c) {
      const double* w = weight + (k * channels + c) * 9;
      float* out = packed + (k / kPanel * kPoints * channels + c) * kPanel + k % kPanel;
      for (int i = 0; i < 6; ++i) {
        for (int j = 0; j < 6; ++j) {
          double sum = 0;
          for (int y = 0; y < 3; ++y)
            for (int x = 0; x < 3; ++x) sum += g[i][y] * w[y * 3 + x] * g[j][x];
          out[(i * 6 + j) * channels * kPanel] = static_cast<float>(sum);
        }
      }
    }
  }
}

}  // namespace fastad::cpu
