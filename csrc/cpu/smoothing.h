// A Gaussian over the rows of a map while they are made, and the transpose of that.
//
// Work: 2 * taps multiply-adds a pixel, 50 for a deviation of 4 pixels. Bytes: none beyond the map.
// The last 2 * radius + 4 rows, 28 KB for a width of 256, lie in the cache.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "cpu/smoothing_loops.h"
#include "gaussian.h"

namespace fastad::cpu {

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
        line_stride_(stride_ + 2 * radius_),
        lines_(kBlurRows * line_stride_),
        sources_(2 * radius_ + kBlurRows) {
    const std::vector<double> weights = gaussian_weights(sigma);
    for (int64_t i = -radius_; i <= radius_; ++i)
      weights_.push_back(static_cast<A>(weights[std::abs(i)]));
    double rest = 0;
    beyond_.resize(radius_ + 1);
    for (int64_t i = radius_; i >= 0; --i) beyond_[i] = static_cast<A>(rest += weights[i]);
  }

  // Rows [begin, end) of a map. make(y, row) writes row y before, from top to bottom; place(y)
  // is where row y comes to lie.
  template <class Make, class Place>
  void run(int64_t begin, int64_t end, const Make& make, const Place& place) {
    int64_t made = std::max<int64_t>(begin - radius_, 0);
    for (int64_t y = begin; y < end; y += kBlurRows) {
      const int64_t count = std::min<int64_t>(kBlurRows, end - y);
      for (; made < std::min(y + count + radius_, height_); ++made) make(made, row(made));
      if (transposed_ && height_ == 1) {
        std::copy_n(row(0), width_, line(0));
      } else {
        down(y, count, made);
      }
      for (int64_t r = 0; r < count; ++r) across(line(r), place(y + r));
    }
  }

 private:
  A* row(int64_t y) { return rows_.data() + y % kept_ * stride_; }
  A* line(int64_t r) { return lines_.data() + r * line_stride_ + radius_; }

  // Rows y to y + count - 1 after the sums down the columns, to the lines.
  void down(int64_t y, int64_t count, int64_t made) {
    // Without a division for each row.
    int64_t last = std::clamp<int64_t>(y - radius_, 0, made - 1), place = last % kept_;
    for (int64_t i = 0; i < static_cast<int64_t>(sources_.size()); ++i) {
      const int64_t source = y - radius_ + i, within = std::clamp<int64_t>(source, 0, made - 1);
      if (within != last) place = place + 1 == kept_ ? 0 : place + 1;
      last = within;
      const A* row = rows_.data() + place * stride_;
      sources_[i] = transposed_ && source != within ? zeros_.data() : row;
    }
    blur_down<A>(sources_.data(), weights_.data(), 2 * radius_ + 1, width_, line(0), line_stride_);
    if (!transposed_) return;
    // All that the repeated rows got goes to the row at the edge.
    if (y == 0) add_beyond(line(0), 0, 1);
    if (y + count == height_) add_beyond(line(count - 1), height_ - 1, -1);
  }

  void add_beyond(A* out, int64_t edge, int64_t step) {
    std::fill_n(out, width_, A(0));
    for (int64_t i = 0; i <= std::min(radius_, height_ - 1); ++i) {
      const A* source = row(edge + i * step);
      for (int64_t x = 0; x < width_; ++x) out[x] += beyond_[i] * source[x];
    }
  }

  void across(A* line, A* out) {
    if (transposed_ && width_ == 1) {
      out[0] = line[0];
      return;
    }
    std::fill_n(line - radius_, radius_, transposed_ ? A(0) : line[0]);
    std::fill_n(line + width_, radius_, transposed_ ? A(0) : line[width_ - 1]);
    blur_across<A>(line - radius_, weights_.data(), 2 * radius_ + 1, width_, out);
    if (!transposed_) return;
    out[0] = out[width_ - 1] = 0;
    for (int64_t i = 0; i <= std::min(radius_, width_ - 1); ++i) {
      out[0] += beyond_[i] * line[i];
      out[width_ - 1] += beyond_[i] * line[width_ - 1 - i];
    }
  }

  int64_t height_, width_, radius_, stride_;
  bool transposed_;
  int64_t kept_;
  std::vector<A> rows_, zeros_;  // the last rows that were made
  int64_t line_stride_;
  std::vector<A> lines_;  // rows that wait for the sums across
  std::vector<const A*> sources_;
  std::vector<A> weights_;  // from one end of the Gaussian to the other
  std::vector<A> beyond_;   // what it weighs from a distance on
};

}  // namespace fastad::cpu
