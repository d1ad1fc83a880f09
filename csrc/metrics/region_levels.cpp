// Pixels join their neighbours in the order of their values, the highest first, by union-find
// (Najman and Couprie, 2006). The first region of an area gives its level, so for small areas few
// pixels need to be ordered. A sample says which are the highest. Where they do not suffice, more
// are taken. The sample changes the time, never the result.

#include "metrics/region_levels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

namespace fastad::metrics {
namespace {

constexpr int64_t sample_step = 16;  // one pixel in so many is in the sample
constexpr int64_t fewest = 1024;     // pixels to begin with
constexpr int64_t per_area = 4;      // for each pixel of the largest area
constexpr int32_t absent = -1;

class Forest {
 public:
  Forest(int64_t height, int64_t width)
      : height_(height), width_(width), parents_(height * width, absent), sizes_(height * width) {}

  // The area of the pixel's region once the pixel is there.
  int64_t add(int32_t pixel) {
    parents_[pixel] = pixel;
    sizes_[pixel] = 1;
    const int64_t y = pixel / width_, x = pixel % width_;
    for (int64_t row = std::max<int64_t>(y - 1, 0); row <= std::min(y + 1, height_ - 1); ++row)
      for (int64_t column = std::max<int64_t>(x - 1, 0); column <= std::min(x + 1, width_ - 1);
           ++column) {
        const auto other = static_cast<int32_t>(row * width_ + column);
        if (parents_[other] != absent) join(pixel, other);
      }
    return sizes_[root(pixel)];
  }

 private:
  int32_t root(int32_t pixel) {
    while (parents_[pixel] != pixel) {
      parents_[pixel] = parents_[parents_[pixel]];  // halves the way for the next search
      pixel = parents_[pixel];
    }
    return pixel;
  }

  void join(int32_t a, int32_t b) {
    a = root(a);
    b = root(b);
    if (a == b) return;
    if (sizes_[a] < sizes_[b]) std::swap(a, b);
    parents_[b] = a;
    sizes_[a] += sizes_[b];
  }

  int64_t height_, width_;
  std::vector<int32_t> parents_;
  std::vector<int32_t> sizes_;
};

// A value with its pixel in the low half, so that pairs order as their values do. The bits of a
// float order as an unsigned integer once those of negative values are inverted.
uint64_t ordered(float value, int64_t pixel) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(key) << 32 | static_cast<uint32_t>(pixel);
}

// Sorts descending by the upper half, least significant digit first. Equal values keep their order.
void sort_by_value(std::vector<uint64_t>& pairs) {
  constexpr int bits = 11;
  constexpr uint64_t digits = uint64_t(1) << bits;
  std::vector<uint64_t> sorted(pairs.size());
  for (int shift = 32; shift < 64; shift += bits) {
    std::array<int64_t, digits> places{};
    const auto digit = [&](uint64_t pair) { return digits - 1 - (pair >> shift & (digits - 1)); };
    for (const uint64_t pair : pairs) ++places[digit(pair)];
    std::exclusive_scan(places.begin(), places.end(), places.begin(), int64_t(0));
    for (const uint64_t pair : pairs) sorted[places[digit(pair)]++] = pair;
    pairs.swap(sorted);
  }
}

// Returns a level that about `wanted` values reach.
float cut(const float* map, int64_t pixels, int64_t wanted) {
  std::vector<float> sample;
  for (int64_t i = 0; i < pixels; i += sample_step) sample.push_back(map[i]);
  const auto rank = std::min<int64_t>(wanted / sample_step, std::ssize(sample) - 1);
  std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<>());
  return sample[rank];
}

}  // namespace

void region_levels(const float* map, int64_t height, int64_t width, const int64_t* areas,
                   int64_t count, float* levels) {
  const int64_t pixels = height * width;
  if (count == 0) return;
  if (std::any_of(map, map + pixels, [](float value) { return std::isnan(value); })) {
    std::fill(levels, levels + count, NAN);
    return;
  }
  std::vector<uint64_t> order;
  for (int64_t wanted = std::max(fewest, per_area * areas[count - 1]);; wanted *= 4) {
    order.clear();
    const float least = wanted < pixels / 2 ? cut(map, pixels, wanted) : -INFINITY;
    for (int64_t i = 0; i < pixels; ++i)
      if (map[i] >= least) order.push_back(ordered(map[i], i));
    sort_by_value(order);
    Forest forest(height, width);
    int64_t found = 0;
    for (const uint64_t next : order) {
      const auto pixel = static_cast<int32_t>(next & 0xffffffffu);
      const int64_t area = forest.add(pixel);
      while (found < count && areas[found] <= area) levels[found++] = map[pixel];
      if (found == count) return;
    }
  }
}

}  // namespace fastad::metrics
