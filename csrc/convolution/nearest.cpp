// Which of many vectors is the nearest to each query, for a memory of normal images.
//
// A product of two matrices of which only the place of each row's extreme is kept: the products
// stay in registers. Written to memory, those of a 256x256 image on ResNet-18's layer1 alone are 32
// MB.
//
// Floor for N queries of length D and M vectors: N * M * D multiply-adds. A tile of queries and a
// panel of vectors lie in the caches, so memory is read about once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "convolution/panel.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 1 << 18;  // multiply-adds: with fewer, another thread does not pay
constexpr int64_t kTile = 96;        // queries that see a panel one after the other
constexpr int kMostLanes = 16;

struct Nearest {
  int64_t width, panels;
  const float* vectors;  // (panels, width, kPanel)
  const float* halves;   // (panels * kPanel,): half the squared norms
};

#ifdef FASTAD_PANELS

template <int kLanes>
struct IntegersOf {
  typedef int32_t type __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
};
template <int kLanes>
using Integers = typename IntegersOf<kLanes>::type;

// Of each query of a tile, in each lane: the least half(m) - q * m so far, and the number of its
// group of vectors, of which there is one to a lane.
struct Best {
  float value[kTile * kMostLanes];
  int32_t group[kTile * kMostLanes];
};

// Takes one panel's vectors into the best of kRows queries.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void compare(const Nearest& a, int64_t panel, const float* queries, float* value,
                           int32_t* group) {
  const float* vectors = a.vectors + panel * a.width * kPanel;
  const float* halves = a.halves + panel * kPanel;
  for (int64_t k = 0; k < kPanel; k += kVectors * kLanes) {
    Lanes<kLanes> sum[kRows][kVectors] = {};
    multiply_add<kLanes>(sum, queries, a.width, vectors + k, a.width);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Lanes<kLanes> least = lanes_at<kLanes>(value + r * kLanes);
      Integers<kLanes> place = *reinterpret_cast<const Integers<kLanes>*>(group + r * kLanes);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const Lanes<kLanes> found = lanes_at<kLanes>(halves + k + j * kLanes) - sum[r][j];
        const auto number = static_cast<int32_t>((panel * kPanel + k) / kLanes + j);
        const Integers<kLanes> numbers = number - Integers<kLanes>{};
        const auto less = found < least;
        place = less ? numbers : place;
        least = less ? found : least;
      }
      store_lanes<kLanes>(value + r * kLanes, least);
      *reinterpret_cast<Integers<kLanes>*>(group + r * kLanes) = place;
    }
  }
}

// The nearest of all vectors to `count` queries, at most a tile.
template <int kLanes, int kRows, int kVectors>
FASTAD_INLINE void nearest_tile(const Nearest& a, const float* queries, int64_t count, Best& best,
                                int64_t* index) {
  std::fill_n(best.value, count * kLanes, std::numeric_limits<float>::infinity());
  std::fill_n(best.group, count * kLanes, 0);
  for (int64_t panel = 0; panel < a.panels; ++panel) {
    int64_t q = 0;
    for (; q + kRows <= count; q += kRows)
      compare<kLanes, kRows, kVectors>(a, panel, queries + q * a.width, best.value + q * kLanes,
                                       best.group + q * kLanes);
    for (; q < count; ++q)
      compare<kLanes, 1, kVectors>(a, panel, queries + q * a.width, best.value + q * kLanes,
                                   best.group + q * kLanes);
  }
  for (int64_t q = 0; q < count; ++q) {
    const float* value = best.value + q * kLanes;
    const int32_t* group = best.group + q * kLanes;
    int lane = 0;
    for (int l = 1; l < kLanes; ++l)  // the first one of equal ones
      if (value[l] < value[lane] || (value[l] == value[lane] && group[l] < group[lane])) lane = l;
    index[q] = int64_t{group[lane]} * kLanes + lane;
  }
}

FASTAD_V4 void nearest_v4(const Nearest& a, const float* queries, int64_t count, Best& best,
                          int64_t* index) {
  nearest_tile<16, 12, 2>(a, queries, count, best, index);
}

FASTAD_V3 void nearest_v3(const Nearest& a, const float* queries, int64_t count, Best& best,
                          int64_t* index) {
  nearest_tile<8, 6, 2>(a, queries, count, best, index);
}

#endif

// Queries (N, D) and vectors, packed as (M / 32, D, 32), with half their squared norms (M,), all
// float32 and contiguous. -> (N,) int64: of each query the place of the least halves - q * v. That
// is the nearest vector. A half of infinity stands for no vector.
Tensor nearest(Tensor queries, Tensor vectors, Tensor halves) {
  STD_TORCH_CHECK(
      queries.dim() == 2 && queries.scalar_type() == ScalarType::Float && queries.is_contiguous(),
      "queries must be (N, D), float32 and contiguous");
  const int64_t n = queries.size(0), width = queries.size(1);
  STD_TORCH_CHECK(vectors.dim() == 3 && vectors.size(0) >= 1 && vectors.size(1) == width &&
                      vectors.size(2) == kPanel && vectors.scalar_type() == ScalarType::Float &&
                      vectors.is_contiguous(),
                  "vectors must be (M / 32, D, 32), float32 and contiguous");
  const int64_t panels = vectors.size(0);
  STD_TORCH_CHECK(panels <= std::numeric_limits<int32_t>::max() / kPanel, "there are too many");
  STD_TORCH_CHECK(halves.dim() == 1 && halves.size(0) == panels * kPanel &&
                      halves.scalar_type() == ScalarType::Float && halves.is_contiguous(),
                  "halves must be (M,), float32 and contiguous");
  STD_TORCH_CHECK(has_panels(), "this processor has no AVX2");
  Tensor index = torch::stable::new_empty(queries, {n}, ScalarType::Long);
#ifdef FASTAD_PANELS
  const Nearest a{width, panels, static_cast<const float*>(vectors.data_ptr()),
                  static_cast<const float*>(halves.data_ptr())};
  const auto* from = static_cast<const float*>(queries.data_ptr());
  auto* to = static_cast<int64_t*>(index.data_ptr());
  const auto compute = has_wide_panels() ? nearest_v4 : nearest_v3;
  const int64_t tiles = (n + kTile - 1) / kTile;
  const int64_t work = std::max<int64_t>(1, kTile * panels * kPanel * width);
  parallel_for(0, tiles, std::max<int64_t>(1, kGrain / work), [&](int64_t first, int64_t last) {
    Best best;
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t start = tile * kTile;
      compute(a, from + start * width, std::min(kTile, n - start), best, to + start);
    }
  });
#endif
  return index;
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) { m.impl("nearest", TORCH_BOX(&fastad::cpu::nearest)); }
