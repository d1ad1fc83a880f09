// A Gaussian over the rows of a map while they are made, and the transpose of that.
//
// Work: 2 * radius + 2 multiplications and 4 * radius additions a pixel, 26 and 48 for a deviation
// of 4 pixels. A multiplication and an addition are one instruction: on a core with two of these
// and two more additions of 64 bytes a cycle that is 13 us for 256x256 floats at 4.1 GHz. It takes
// 28, 12 of them across, where three loads in four touch two lines of the cache. Bytes: none beyond
// the map. The last 2 * radius + 4 rows, 28 KB for a width of 256, and four of them between the two
// passes lie in the cache.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "cpu/smoothing_loops.h"
#include "gaussian.h"

namespace fastad::cpu {

// Numbers that begin at a line of the cache. A load across two lines takes twice as long.
template <class A>
class Lines {
 public:
  explicit Lines(int64_t count) : lines_((count + kCount - 1) / kCount) {}
  A* data() { return reinterpret_cast<A*>(lines_.data()); }

  // The next multiple of what a line holds.
  static int64_t whole(int64_t count) { return (count + kCount - 1) / kCount * kCount; }

 private:
  static constexpr int64_t kCount = 64 / sizeof(A);
  struct alignas(64) Line {
    A numbers[kCount];
  };
  std::vector<Line> lines_;
};

template <class A>
class Smoothing {
 public:
  // Of maps height x width. `transposed`: of their gradients.
  Smoothing(double sigma, int64_t height, int64_t width, bool transposed)
      : height_(height),
        width_(width),
        radius_(gaussian_radius(sigma)),
        stride_((width + kBlurStep - 1) / kBlurStep * kBlurStep),
        transposed_(transposed),
        kept_(std::min(2 * radius_ + kBlurRows, height)),
        rows_(kept_ * stride_),
        zeros_(transposed ? stride_ : 0),
        margin_(Lines<A>::whole(radius_)),
        class_stride_(margin_ + stride_ + Lines<A>::whole(radius_ + 4)),
        columns_(4 * class_stride_),
        results_(kBlurRows * stride_),
        row_sources_(2 * radius_ + kBlurRows) {
    const std::vector<double> weights = gaussian_weights(sigma);
    weights_.assign(weights.begin(), weights.end());
    double rest = 0;
    beyond_.resize(radius_ + 1);
    for (int64_t i = radius_; i >= 0; --i) beyond_[i] = static_cast<A>(rest += weights[i]);
    for (int64_t x = -radius_; x < radius_ + kBlurRows; ++x) column_sources_.push_back(column(x));
  }

  // Rows [begin, end) of a map. make(y, row) writes row y before, from top to bottom; place(y)
  // is where row y comes to lie.
  template <class Make, class Place>
  void run(int64_t begin, int64_t end, const Make& make, const Place& place) {
    int64_t made = std::max<int64_t>(begin - radius_, 0);
    for (int64_t y = begin; y < end; y += kBlurRows) {
      const int64_t count = std::min<int64_t>(kBlurRows, end - y);
      for (; made < std::min(y + count + radius_, height_); ++made) make(made, row(made));
      down(y, count, made);
      const bool in_place = count == kBlurRows && width_ == stride_;
      A* out[kBlurRows];
      for (int64_t r = 0; r < kBlurRows; ++r)
        out[r] = in_place ? place(y + r) : results_.data() + r * stride_;
      across(out);
      for (int64_t r = 0; r < count && !in_place; ++r) std::copy_n(out[r], width_, place(y + r));
    }
  }

 private:
  A* row(int64_t y) { return rows_.data() + y % kept_ * stride_; }
  // Where column x of the four rows between the passes lies. Four columns on comes the next four
  // numbers, so that a vector holds every fourth column.
  A* column(int64_t x) {
    return columns_.data() + (x & 3) * class_stride_ + margin_ + (x & ~int64_t{3});
  }

  // Rows y to y + 3 after the sums down the columns, to the columns.
  void down(int64_t y, int64_t count, int64_t made) {
    if (transposed_ && height_ == 1) {
      for (int64_t x = 0; x < width_; ++x) column(x)[0] = row(0)[x];
      return;
    }
    // Without a division for each row.
    int64_t last = std::clamp<int64_t>(y - radius_, 0, made - 1), place = last % kept_;
    for (int64_t i = 0; i < static_cast<int64_t>(row_sources_.size()); ++i) {
      const int64_t source = y - radius_ + i, within = std::clamp<int64_t>(source, 0, made - 1);
      if (within != last) place = place + 1 == kept_ ? 0 : place + 1;
      last = within;
      const A* row = rows_.data() + place * stride_;
      row_sources_[i] = transposed_ && source != within ? zeros_.data() : row;
    }
    A* const out[kBlurRows] = {column(0), column(1), column(2), column(3)};
    blur<A>(row_sources_.data() + radius_, weights_.data(), radius_, width_, out);
    if (!transposed_) return;
    // All that the repeated rows got goes to the row at the edge.
    if (y == 0) add_beyond(0, 0, 1);
    if (y + count == height_) add_beyond(count - 1, height_ - 1, -1);
  }

  void add_beyond(int64_t r, int64_t edge, int64_t step) {
    A* const sums = results_.data();
    std::fill_n(sums, width_, A(0));
    for (int64_t i = 0; i <= std::min(radius_, height_ - 1); ++i) {
      const A* source = row(edge + i * step);
      for (int64_t x = 0; x < width_; ++x) sums[x] += beyond_[i] * source[x];
    }
    for (int64_t x = 0; x < width_; ++x) column(x)[r] = sums[x];
  }

  void across(A* const* out) {
    if (transposed_ && width_ == 1) {
      for (int64_t r = 0; r < kBlurRows; ++r) out[r][0] = column(0)[r];
      return;
    }
    constexpr A kZeros[kBlurRows] = {};
    const A* const before = transposed_ ? kZeros : column(0);
    const A* const after = transposed_ ? kZeros : column(width_ - 1);
    for (int64_t i = 1; i <= radius_; ++i) {
      std::copy_n(before, kBlurRows, column(-i));
      std::copy_n(after, kBlurRows, column(width_ - 1 + i));
    }
    blur<A>(column_sources_.data() + radius_, weights_.data(), radius_, width_, out);
    for (int64_t r = 0; r < kBlurRows && transposed_; ++r) {
      A first = 0, last = 0;
      for (int64_t i = 0; i <= std::min(radius_, width_ - 1); ++i) {
        first += beyond_[i] * column(i)[r];
        last += beyond_[i] * column(width_ - 1 - i)[r];
      }
      out[r][0] = first, out[r][width_ - 1] = last;
    }
  }

  int64_t height_, width_, radius_, stride_;
  bool transposed_;
  int64_t kept_;
  Lines<A> rows_, zeros_;          // the last rows that were made
  int64_t margin_, class_stride_;  // of columns whose numbers are equal modulo 4
  Lines<A> columns_;               // four rows that wait for the sums across
  Lines<A> results_;
  std::vector<const A*> row_sources_, column_sources_;
  std::vector<A> weights_;  // of the distances 0 to the radius
  std::vector<A> beyond_;   // what the Gaussian weighs from a distance on
};

}  // namespace fastad::cpu
