// Spatial weights of any size to the levels of a pyramid: every pixel of a level gets the mean of
// the pixels that it touches, rows floor(i * H / H_l) to ceil((i + 1) * H / H_l), columns alike, as
// torch's adaptive_avg_pool2d has it.
//
// Bytes: an image once from memory (262 KB for 256x256 floats), 21 KB out. Work: an addition a
// pixel of the image. Rows are asked for ahead, because the processor looks ahead no farther than
// 4 KB, which are four rows. Levels whose sizes do not divide each other take the image again, from
// the cache.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <limits>
#include <utility>
#include <vector>

#include "checks.h"
#include "cpu/vector.h"
#include "instruction_set.h"

namespace fastad::cpu {
namespace {

// The pixels of an axis that each pixel of a level touches.
struct Cells {
  int64_t in, out;
  // Where cells are equal, neighbours are added in pairs so often first: `in` counts the sums.
  int64_t halvings = 0;

  Cells(int64_t in, int64_t out) : in(in), out(out) {
    for (; this->in % (2 * out) == 0; this->in /= 2) ++halvings;
  }
  int64_t first(int64_t i) const { return i * in / out; }
  int64_t end(int64_t i) const { return ((i + 1) * in + out - 1) / out; }
};

// sums[x] = the sum over `count` rows, NaN where a number is negative.
template <class A>
FASTAD_INLINE void sum_rows(const A* rows, int64_t count, int64_t width, A* sums) {
  constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();
  int64_t x = 0;
#if defined(__GNUC__)
  constexpr int kLanes = 64 / sizeof(A);
  using Row = Vector<A, kLanes>;
  for (; x + kLanes <= width; x += kLanes) {
    Row sum{};
    for (int64_t y = 0; y < count; ++y) {
      const Row row = load<A, kLanes>(rows + y * width + x);
      __builtin_prefetch(rows + (count + y) * width + x);  // harmless where there is none
      sum = sum + (row >= Row{} ? row : Row{} + kNaN);
    }
    store<A, kLanes>(sums + x, sum);
  }
#endif
  for (; x < width; ++x) {
    sums[x] = 0;
    for (int64_t y = 0; y < count; ++y) {
      const A value = rows[y * width + x];
      sums[x] += value >= A(0) ? value : kNaN;
    }
  }
}

// out[j] = the mean over `count` rows and the columns of cell j. `sums` has room for two rows.
template <class A>
FASTAD_INLINE void mean_row(const A* FASTAD_RESTRICT rows, int64_t count, int64_t width,
                            const Cells* cells, A* FASTAD_RESTRICT out, A* FASTAD_RESTRICT sums) {
  sum_rows<A>(rows, count, width, sums);
  A *from = sums, *to = sums + width;
  for (int64_t pairs = width / 2; pairs >= cells->in; pairs /= 2) {
    const A* FASTAD_RESTRICT whole = from;
    A* FASTAD_RESTRICT half = to;
    for (int64_t x = 0; x < pairs; ++x) half[x] = whole[2 * x] + whole[2 * x + 1];
    std::swap(from, to);
  }
  count <<= cells->halvings;
  if (cells->in == cells->out) {
    for (int64_t j = 0; j < cells->out; ++j) out[j] = from[j] / static_cast<A>(count);
    return;
  }
  for (int64_t j = 0; j < cells->out; ++j) {
    const int64_t first = cells->first(j), end = cells->end(j);
    A sum = 0;
    for (int64_t x = first; x < end; ++x) sum += from[x];
    out[j] = sum / static_cast<A>(count * (end - first));
  }
}

// Whether every pixel of a size `out` touches whole pixels of a size `in`, all as many.
bool divides(const Tensor& in, const Tensor& out) {
  return in.size(1) % out.size(1) == 0 && in.size(2) % out.size(2) == 0;
}

// What each level is averaged from: the image, or an earlier level, whose pixels are fewer, where
// the mean of its means is that of the image.
std::vector<Tensor> sources_of(const Tensor& weights, const std::vector<Tensor>& levels) {
  std::vector<Tensor> sources;
  for (size_t l = 0; l < levels.size(); ++l) {
    Tensor source = weights;
    for (size_t e = 0; e < l; ++e) {
      if (divides(weights, levels[e]) && divides(levels[e], levels[l]) &&
          levels[e].numel() < source.numel()) {
        source = levels[e];
      }
    }
    sources.push_back(source);
  }
  return sources;
}

template <class A>
void resize_as(const Tensor& weights, const std::vector<Tensor>& levels) {
  const std::vector<Tensor> sources = sources_of(weights, levels);
  torch::stable::parallel_for(0, weights.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<A> sums(2 * weights.size(2));
    for (int64_t n = begin; n < end; ++n) {
      for (size_t l = 0; l < levels.size(); ++l) {
        const int64_t height = sources[l].size(1), width = sources[l].size(2);
        const A* image = static_cast<const A*>(sources[l].data_ptr()) + n * height * width;
        const Cells rows(height, levels[l].size(1)), columns(width, levels[l].size(2));
        A* out = static_cast<A*>(levels[l].data_ptr()) + n * rows.out * columns.out;
        for (int64_t i = 0; i < rows.out; ++i) {
          const int64_t first = rows.first(i) << rows.halvings, last = rows.end(i) << rows.halvings;
          dispatch<mean_row<A>>(image + first * width, last - first, width, &columns,
                                out + i * columns.out, sums.data());
        }
      }
    }
  });
}

std::vector<Tensor> resize_weights(Tensor weights, std::vector<int64_t> heights,
                                   std::vector<int64_t> widths) {
  const ScalarType dtype = weights.scalar_type();
  STD_TORCH_CHECK(weights.dim() == 3 && is_size(weights.size(1), weights.size(2)) &&
                      (dtype == ScalarType::Float || dtype == ScalarType::Double),
                  "weights must be (N, H, W), float32 or float64, with 1 to 2^30 pixels, not ",
                  describe(weights));
  STD_TORCH_CHECK(heights.size() == widths.size() && heights.size() <= kMaxLevels,
                  "heights and widths must have one number a level, at most ", kMaxLevels, ", not ",
                  heights.size(), " and ", widths.size());
  for (size_t i = 0; i < heights.size(); ++i) check_size(heights[i], widths[i]);
  weights = as_contiguous(weights);
  std::vector<Tensor> levels;
  for (size_t i = 0; i < heights.size(); ++i) {
    levels.push_back(torch::stable::new_empty(weights, {weights.size(0), heights[i], widths[i]}));
  }
  dtype == ScalarType::Double ? resize_as<double>(weights, levels)
                              : resize_as<float>(weights, levels);
  return levels;
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("resize_weights", TORCH_BOX(&fastad::cpu::resize_weights));
}
