// Where the regions of a mask are, how large and how strong.

#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "metrics/regions.h"

namespace fastad::metrics {

struct Point {
  double x, y;
};

// The box of least area at any angle.
struct Box {
  std::array<Point, 4> corners;  // in turn
  double length, width;
  Point along;  // direction of the long side, of length 1
};

// The smallest box around points that are not all on one line. One side lies on a side of the
// convex hull (Freeman and Shapira, 1975). The hull is Andrew's monotone chain (1979).
Box smallest_box(std::vector<Point> points);

struct RegionMeasure {
  int64_t pixels, top, left, bottom, right;  // `bottom` and `right` lie outside
  double peak, sum;                          // of the map
  double rows, columns;                      // sums over the pixels
  Box box;                                   // in scaled coordinates
};

// Of each region, in the order of their numbers. `across` and `down` scale x and y of the boxes.
template <class T>
std::vector<RegionMeasure> measure_regions(const Regions& regions, const T* map, int64_t width,
                                           double across, double down);

}  // namespace fastad::metrics
