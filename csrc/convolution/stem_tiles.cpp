// What happens to a strip of tiles of a residual network's stem; see stem.cpp.

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "convolution/int16.h"
#include "convolution/panel.h"
#include "convolution/stem.h"
#include "convolution/winograd_tile.h"
#include "half_precision.h"

namespace fastad::cpu {

#ifdef FASTAD_PANELS

namespace {

constexpr int64_t kTogether = kInt16Rows;  // tiles whose products are computed together
constexpr int64_t kProducts = kTogether * kPanel + 16;  // of a point; caches dislike powers of two
constexpr int64_t kSpace = 16;      // that a pixel's channels lie in, with zeros
constexpr float kOutside = -3e38f;  // less than all results

// The larger of two values; NaN in either propagates, and an infinite `a` becomes NaN.
template <int kLanes>
FASTAD_INLINE Lanes<kLanes> larger_of(Lanes<kLanes> a, Lanes<kLanes> b) {
#ifdef __clang__
  const Lanes<kLanes> larger = a > b ? a : b;
#else
  // g++ would take the comparison apart before the function knows its instruction set.
  Lanes<kLanes> larger;
  asm("vmaxps %2, %1, %0" : "=v"(larger) : "v"(a), "v"(b));  // b where one is NaN
#endif
  return larger + 0.0f * a;
}

// The seven inputs' polynomial at the seven points, to which filters' values are scaled.
template <int kLanes>
FASTAD_INLINE void evaluate_seven(const Lanes<kLanes>* d, Lanes<kLanes>* out) {
  Lanes<kLanes> rest[6];
  for (int i = 0; i < 6; ++i) rest[i] = d[i + 1] - kStemPoint * d[i];
  evaluate_inputs<kLanes>(rest, out);
  out[6] = (d[5] - (kA2 + kB2) * d[3]) + (kA2 * kB2) * d[1];
}

// Four results from the products at the seven points.
template <int kLanes>
FASTAD_INLINE void interpolate_seven(const Lanes<kLanes>* m, Lanes<kLanes>* out) {
  interpolate_results<kLanes>(m, out);
  out[0] += m[6];
  out[1] += kStemPoint * m[6];
  out[2] += (kStemPoint * kStemPoint) * m[6];
  out[3] += (kStemPoint * kStemPoint * kStemPoint) * m[6];
}

// Where a strip's values lie while it is computed.
struct Memory {
  float* pixels;  // (4 * tile_columns + 3, kSpace): two rows of the image
  float* across;  // (kStemSide, tile_columns, kStemSide, kSpace): seven such, transformed along the
                  // rows
  float* values;  // (kStemValues, kSpace): a tile's
  float* v;       // (kStemValues, kTogether, kSpace): of float, or int16 values
  float* scales;  // (kTogether): of those
  float* m;       // (kStemValues, kProducts): products, (kTogether, kPanel) and some space
  float* above;   // (panels, pooled_columns, kPanel): maxima of the last row of the tiles above
  float* left;    // (panels, 3, kPanel): of a tile's last column, see `finish_tile`

  explicit Memory(const Stem& a) {
    const int64_t tiles = a.tile_columns(), panels = a.filters / kPanel;
    const int64_t sizes[] = {(4 * tiles + 3) * kSpace,
                             kStemValues * tiles * kSpace,
                             kStemValues * kSpace,
                             kStemValues * kTogether * kSpace,
                             16,
                             kStemValues * kProducts,
                             a.filters * a.pooled_columns(),
                             panels * 3 * kPanel};
    float** parts[] = {&pixels, &across, &values, &v, &scales, &m, &above, &left};
    float* at = scratch(std::accumulate(std::begin(sizes), std::end(sizes), int64_t{0}));
    for (int i = 0; i < 8; at += sizes[i++]) *parts[i] = at;
  }
};

// Rows 2 * pair and 2 * pair + 1 of an image, transformed along them.
template <int kLanes>
FASTAD_INLINE void prepare_pair(const Stem& a, const Memory& memory, const float* image,
                                int64_t pair) {
  const int64_t tiles = a.tile_columns(), count = 4 * tiles + 3;
  // The pair of columns from which the first tile's first result is computed.
  const int64_t start = 4 * a.first() + a.shift() - 2;
  std::fill_n(memory.pixels, count * kSpace, 0.0f);
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t row = 2 * pair + i;
    if (row < 0 || row >= a.height) continue;
    const float* from = image + row * a.width * 3;
    float* to = memory.pixels - start * kSpace + i * 6;
    // Eight floats at a time: the second row overwrites the two of the first that do not belong
    // there, and its own two fall into unused places.
    const bool wide = i == 1 || row + 1 < a.height;
    const int64_t last = wide ? std::min((a.width * 3 - 2) / 6, start + count) : 0;
    for (int64_t q = 0; q < last; ++q) std::copy_n(from + q * 6, 8, to + q * kSpace);
    for (int64_t q = last; q < std::min((a.width + 1) / 2, start + count); ++q)
      std::copy_n(from + q * 6, std::min<int64_t>(6, (a.width - 2 * q) * 3), to + q * kSpace);
  }
  float* to = memory.across + (pair + 4 * kStemSide) % kStemSide * tiles * kStemSide * kSpace;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int64_t k = 0; k < kSpace; k += kLanes) {
      Lanes<kLanes> d[kStemSide], out[kStemSide];
      for (int64_t i = 0; i < kStemSide; ++i)
        d[i] = lanes_at<kLanes>(memory.pixels + (4 * tile + i) * kSpace + k);
      evaluate_seven<kLanes>(d, out);
      for (int64_t i = 0; i < kStemSide; ++i)
        store_lanes<kLanes>(to + (tile * kStemSide + i) * kSpace + k, out[i]);
    }
  }
}

// Where one tile's part of seven pairs of rows, transformed along them, lies.
struct Across {
  const float* rows[kStemSide];

  Across(const Stem& a, const Memory& memory, int64_t pair, int64_t tile) {
    for (int64_t i = 0; i < kStemSide; ++i)
      rows[i] = memory.across + ((pair + i + 4 * kStemSide) % kStemSide * a.tile_columns() + tile) *
                                    kStemSide * kSpace;
  }

  // The tile's values of one column of points.
  template <int kLanes>
  FASTAD_INLINE void transform(int64_t column, int64_t k, Lanes<kLanes>* out) const {
    Lanes<kLanes> d[kStemSide];
    for (int64_t i = 0; i < kStemSide; ++i) d[i] = lanes_at<kLanes>(rows[i] + column * kSpace + k);
    evaluate_seven<kLanes>(d, out);
  }
};

// How a few tiles' values are multiplied with the filters: in float32.
template <int kVectorLanes, int kRows, int kVectors>
struct FloatProducts {
  static constexpr int kLanes = kVectorLanes;

  FASTAD_INLINE static void prepare(const Memory& memory, const Across& across, int64_t index) {
    for (int64_t column = 0; column < kStemSide; ++column) {
      for (int64_t k = 0; k < kSpace; k += kLanes) {
        Lanes<kLanes> out[kStemSide];
        across.transform<kLanes>(column, k, out);
        for (int64_t i = 0; i < kStemSide; ++i) {
          const int64_t point = i * kStemSide + column;
          store_lanes<kLanes>(memory.v + (point * kTogether + index) * kSpace + k, out[i]);
        }
      }
    }
  }

  FASTAD_INLINE static void multiply(const Stem& a, const Memory& memory, int64_t panel) {
    const float* weight = a.weight + panel * kStemValues * kStemChannels * kPanel;
    for (int64_t p = 0; p < kStemValues; ++p) {
      for (int64_t r = 0; r < kTogether; r += kRows) {
        for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
          Lanes<kLanes> sum[kRows][kVectors] = {};
          multiply_add<kLanes>(sum, memory.v + (p * kTogether + r) * kSpace, kSpace,
                               weight + p * kStemChannels * kPanel + k, kStemChannels);
          store_panel<kLanes>(sum, memory.m + p * kProducts + r * kPanel + k);
        }
      }
    }
  }
};

// In 16-bit integers, a tile's values with one scale.
struct Int16Products {
  static constexpr int kLanes = 16;

  FASTAD_VNNI static void prepare(const Memory& memory, const Across& across, int64_t index) {
    const __m512 none = _mm512_setzero_ps();
    __m512i most[kStemSide] = {};
    for (int64_t column = 0; column < kStemSide; ++column) {
      Lanes<kLanes> out[kStemSide];
      across.transform<kLanes>(column, 0, out);
      for (int64_t i = 0; i < kStemSide; ++i) {
        const __m512 value = _mm512_mask_mov_ps(none, 0x0fff, reinterpret_cast<__m512>(out[i]));
        most[i] = larger_magnitude(most[i], value);
        _mm512_storeu_ps(memory.values + (i * kStemSide + column) * kSpace, value);
      }
    }
    for (int64_t i = 1; i < kStemSide; ++i) most[0] = _mm512_max_epu32(most[0], most[i]);
    const Int16Scale scale = int16_scale(most[0]);
    memory.scales[index] = scale.inverse;
    auto* v = reinterpret_cast<int16_t*>(memory.v) + index * kSpace;
    for (int64_t p = 0; p < kStemValues; ++p)
      to_int16(memory.values + p * kSpace, kSpace, scale.factor, v + p * kTogether * kSpace);
  }

  FASTAD_INLINE static void multiply(const Stem& a, const Memory& memory, int64_t panel) {
    const auto* v = reinterpret_cast<const int16_t*>(memory.v);
    for (int64_t p = 0; p < kStemValues; ++p) {
      const int16_t* slab = a.int16 + (panel * kStemValues + p) * slab_size(kStemChannels);
      multiply_int16(v + p * kTogether * kSpace, kSpace, 0, slab, 1, kStemChannels / 2,
                     slab_scales(slab, kStemChannels), memory.scales, 1, false,
                     memory.m + p * kProducts);
    }
  }
};

// Four results side by side become the maxima of the first two, of the last three and of the last:
// what a tile gives to two results of the maximum and to the one after it.
template <int kLanes>
FASTAD_INLINE void maxima(const Lanes<kLanes>* four, Lanes<kLanes>* three) {
  three[0] = larger_of<kLanes>(four[0], four[1]);
  three[1] = larger_of<kLanes>(larger_of<kLanes>(four[1], four[2]), four[3]);
  three[2] = four[3];
}

template <int kLanes>
FASTAD_INLINE void put(const Stem& a, int64_t place, Lanes<kLanes> value, Lanes<kLanes> bias) {
  value = relu_of<kLanes>(value + bias);
  if (a.half == nullptr) {
    store_lanes<kLanes>(a.y + place, value);
  } else {
    float values[kLanes];
    store_lanes<kLanes>(values, value);
    BFloat16* FASTAD_RESTRICT to = a.half + place;
    // Unrolled before it is vectorised, the loop would stay scalar.
#pragma GCC unroll 1
    for (int64_t k = 0; k < kLanes; ++k) to[k] = to_bfloat16(values[k]);
  }
}

// The results of one tile and one panel, from products of which `m` is the first: m[point * stride
// + filter].
template <int kLanes>
FASTAD_INLINE void finish_tile(const Stem& a, const Memory& memory, const float* m, int64_t stride,
                               int64_t image, int64_t i, int64_t j, int64_t panel, bool results) {
  using V = Lanes<kLanes>;
  const int64_t top = 4 * i + a.shift(), start = 4 * j + a.shift();
  const bool whole = top >= 0 && start >= 0 && top + 4 <= a.rows() && start + 4 <= a.columns();
  float* left = memory.left + panel * 3 * kPanel;
  for (int64_t k = 0; k < kPanel; k += kLanes) {
    V half[4][kStemSide], down[4][3];
#pragma GCC unroll 7
    for (int x = 0; x < kStemSide; ++x) {
      V products[kStemSide], column[4];
      for (int y = 0; y < kStemSide; ++y)
        products[y] = lanes_at<kLanes>(m + (y * kStemSide + x) * stride + k);
      interpolate_seven<kLanes>(products, column);
      for (int y = 0; y < 4; ++y) half[y][x] = column[y];
    }
#pragma GCC unroll 4
    for (int64_t y = 0; y < 4; ++y) {
      V row[4];
      interpolate_seven<kLanes>(half[y], row);
      if (!whole)
        for (int64_t x = 0; x < 4; ++x)
          if (top + y < 0 || top + y >= a.rows() || start + x < 0 || start + x >= a.columns())
            row[x] = V{} + kOutside;
      maxima<kLanes>(row, down[y]);
    }
    V most[3][3];  // [down][across], see `maxima`
#pragma GCC unroll 3
    for (int x = 0; x < 3; ++x) {
      const V column[4] = {down[0][x], down[1][x], down[2][x], down[3][x]};
      V three[3];
      maxima<kLanes>(column, three);
      for (int y = 0; y < 3; ++y) most[y][x] = three[y];
    }
    // With what the tile to the left gives to the first column, and it to the next tile's.
    for (int y = 0; y < 3; ++y) {
      float* next = left + y * kPanel + k;
      most[y][0] = larger_of<kLanes>(most[y][0], lanes_at<kLanes>(next));
      store_lanes<kLanes>(next, most[y][2]);
    }
    const V bias = lanes_at<kLanes>(a.bias + panel * kPanel + k);
    for (int64_t x = 0; x < 2; ++x) {
      const int64_t column = 2 * j + x;
      if (column < 0 || column >= a.pooled_columns()) continue;
      float* next = memory.above + (panel * a.pooled_columns() + column) * kPanel + k;
      const V first = larger_of<kLanes>(most[0][x], lanes_at<kLanes>(next));
      store_lanes<kLanes>(next, most[2][x]);
      if (!results) continue;
      const int64_t place =
          ((image * a.pooled_rows() + 2 * i) * a.pooled_columns() + column) * a.filters +
          panel * kPanel + k;
      put<kLanes>(a, place, first, bias);
      if (2 * i + 1 < a.pooled_rows())
        put<kLanes>(a, place + a.pooled_columns() * a.filters, most[1][x], bias);
    }
  }
}

// Rows of tiles from `begin` to `end` of one image.
template <class Products>
FASTAD_INLINE void compute_strip(const Stem& a, int64_t image, int64_t begin, int64_t end) {
  constexpr int kLanes = Products::kLanes;
  const Memory memory(a);
  const int64_t panels = a.filters / kPanel, tiles = a.tile_columns();
  const float* pixels = a.images + image * a.height * a.width * 3;
  std::fill_n(memory.above, a.filters * a.pooled_columns(), kOutside);
  // Of the row of tiles before the first only the last row counts, if that is one of the image.
  const int64_t before = 4 * begin + a.shift() > 0 ? begin - 1 : begin;
  int64_t prepared = 4 * before + a.shift() - 2;
  for (int64_t i = before; i < end; ++i) {
    const int64_t pair = 4 * i + a.shift() - 2;
    for (; prepared < pair + kStemSide; ++prepared)
      prepare_pair<kLanes>(a, memory, pixels, prepared);
    std::fill_n(memory.left, panels * 3 * kPanel, kOutside);
    for (int64_t tile = 0; tile < tiles; tile += kTogether) {
      const int64_t count = std::min(kTogether, tiles - tile);
      for (int64_t t = 0; t < count; ++t)
        Products::prepare(memory, Across(a, memory, pair, tile + t), t);
      for (int64_t panel = 0; panel < panels; ++panel) {
        // Places beyond the last tile are multiplied too, and not written.
        Products::multiply(a, memory, panel);
        for (int64_t t = 0; t < count; ++t)
          finish_tile<kLanes>(a, memory, memory.m + t * kPanel, kProducts, image, i,
                              tile + t + a.first(), panel, i >= begin);
      }
    }
  }
}

FASTAD_V4 void compute_v4(const Stem& a, int64_t image, int64_t begin, int64_t end) {
  compute_strip<FloatProducts<16, 8, 2>>(a, image, begin, end);
}

FASTAD_V3 void compute_v3(const Stem& a, int64_t image, int64_t begin, int64_t end) {
  compute_strip<FloatProducts<8, 4, 2>>(a, image, begin, end);
}

FASTAD_VNNI void compute_int16(const Stem& a, int64_t image, int64_t begin, int64_t end) {
  compute_strip<Int16Products>(a, image, begin, end);
}

}  // namespace

void compute_stem(const Stem& stem, int64_t image, int64_t begin, int64_t end) {
  static const bool wide = has_wide_panels();
  const auto compute = stem.int16 != nullptr ? compute_int16 : wide ? compute_v4 : compute_v3;
  compute(stem, image, begin, end);
}

#else

void compute_stem(const Stem&, int64_t, int64_t, int64_t) {}

#endif

}  // namespace fastad::cpu
