// What a tile of F(4x4, 3x3) goes through before and after the products. See panel.h before
// including it.

#pragma once

#include <algorithm>
#include <cstdint>

#include "convolution/panel.h"
#include "convolution/winograd.h"

namespace fastad::cpu {

constexpr float kA = 0.625f, kB = 1.5f;

#ifdef FASTAD_PANELS

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

// Lanes' bits.
template <int kLanes>
struct BitsOf {
  typedef uint32_t type __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
};

// `larger_magnitude` (int16.h) of lanes, without intrinsics: a function that names no instruction
// set cannot use them.
template <int kLanes>
FASTAD_INLINE void take_magnitude(typename BitsOf<kLanes>::type& most, Lanes<kLanes> x) {
  using Bits = typename BitsOf<kLanes>::type;
  const Bits size = reinterpret_cast<Bits>(x) & 0x7fffffffu;
#ifdef __clang__
  most = most > size ? most : size;
#else
  // g++ splits the comparison before it inlines this into code for an instruction set.
  asm("vpmaxud %1, %0, %0" : "+v"(most) : "v"(size));
#endif
}

// v[point * point_stride + c] from the tile's inputs; those outside the image are `zeros`. With
// `kMost`, `most` becomes the largest magnitudes of v.
template <int kLanes, bool kMost = false>
FASTAD_INLINE void transform_tile(const Convolution3x3& a, Tile tile, const float* zeros,
                                  int64_t point_stride, float* FASTAD_RESTRICT v,
                                  typename BitsOf<kLanes>::type* most = nullptr) {
  typename BitsOf<kLanes>::type largest{};
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
      // Prefetches the next tile, which the processor would not do.
      if (j >= 2)
        for (int i = 0; i < 6; ++i) __builtin_prefetch(inputs[i][j] + 4 * a.channels + c);
      evaluate_inputs<kLanes>(d, values);
      for (int i = 0; i < 6; ++i) half[i][j] = values[i];
    }
    for (int i = 0; i < 6; ++i) {
      Lanes<kLanes> values[6];
      evaluate_inputs<kLanes>(half[i], values);
      for (int j = 0; j < 6; ++j) {
        store_lanes<kLanes>(v + (i * 6 + j) * point_stride + c, values[j]);
        if constexpr (kMost) take_magnitude<kLanes>(largest, values[j]);
      }
    }
  }
  if constexpr (kMost) *most = largest;
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

#endif

}  // namespace fastad::cpu
