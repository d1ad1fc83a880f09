#include "metrics/region_measures.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastad::metrics {
namespace {

Point operator-(const Point& a, const Point& b) { return {a.x - b.x, a.y - b.y}; }
double dot(const Point& a, const Point& b) { return a.x * b.x + a.y * b.y; }
double cross(const Point& a, const Point& b) { return a.x * b.y - a.y * b.x; }

// In turn, each once.
std::vector<Point> convex_hull(std::vector<Point> points) {
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.y != b.y ? a.y < b.y : a.x < b.x; });
  std::vector<Point> hull;
  for (int side = 0; side < 2; ++side) {
    const size_t start = hull.size();
    for (const Point& point : points) {
      while (hull.size() >= start + 2 &&
             cross(hull.back() - hull[hull.size() - 2], point - hull.back()) <= 0)
        hull.pop_back();
      hull.push_back(point);
    }
    hull.pop_back();  // the other side begins with it
    std::reverse(points.begin(), points.end());
  }
  return hull;
}

struct Span {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  double length() const { return high - low; }
};

}  // namespace

Box smallest_box(std::vector<Point> points) {
  const std::vector<Point> hull = convex_hull(std::move(points));
  double least = std::numeric_limits<double>::infinity();
  Point best{1, 0};
  Span best_along, best_across;
  for (size_t i = 0; i < hull.size(); ++i) {
    const Point side = hull[(i + 1) % hull.size()] - hull[i];
    const double length = std::hypot(side.x, side.y);
    const Point along{side.x / length, side.y / length}, across{-along.y, along.x};
    Span of_along, of_across;
    for (const Point& point : hull) {
      of_along.add(dot(point, along));
      of_across.add(dot(point, across));
    }
    const double area = of_along.length() * of_across.length();
    if (area < least * (1 - 1e-12)) {  // of sides that are equal but for rounding, the first
      least = area;
      best = along;
      best_along = of_along;
      best_across = of_across;
    }
  }
  const Point across{-best.y, best.x};
  const auto at = [&](double a, double b) {
    return Point{a * best.x + b * across.x, a * best.y + b * across.y};
  };
  const bool turned = best_across.length() > best_along.length();
  return {{at(best_along.low, best_across.low), at(best_along.high, best_across.low),
           at(best_along.high, best_across.high), at(best_along.low, best_across.high)},
          std::max(best_along.length(), best_across.length()),
          std::min(best_along.length(), best_across.length()),
          turned ? across : best};
}

template <class T>
std::vector<RegionMeasure> measure_regions(const Regions& regions, const T* map, int64_t width,
                                           double across, double down) {
  const size_t count = regions.sizes.size();
  std::vector<RegionMeasure> found(count);
  std::vector<std::vector<Point>> outer(count);
  for (size_t i = 0; i < count; ++i)
    found[i] = {regions.sizes[i],
                std::numeric_limits<int64_t>::max(),
                width,
                0,
                0,
                -std::numeric_limits<double>::infinity()};
  for (const Run& run : regions.runs) {
    RegionMeasure& of = found[run.region];
    std::vector<Point>& points = outer[run.region];
    // Runs come row by row: of each row only the outermost ends count.
    if (points.empty() || of.bottom <= run.row) {
      for (const int64_t y : {run.row, run.row + 1})
        for (const int64_t x : {run.begin, run.end})
          points.push_back({static_cast<double>(x) * across, static_cast<double>(y) * down});
    } else {
      const double end = static_cast<double>(run.end) * across;
      points[points.size() - 3].x = points.back().x = end;
    }
    of.top = std::min(of.top, run.row);
    of.left = std::min(of.left, run.begin);
    of.bottom = run.row + 1;
    of.right = std::max(of.right, run.end);
    const auto length = static_cast<double>(run.end - run.begin);
    of.rows += length * static_cast<double>(run.row);
    of.columns += length * static_cast<double>(run.begin + run.end - 1) / 2;
    for (const T* value = map + run.row * width + run.begin;
         value < map + run.row * width + run.end; ++value) {
      of.peak = std::max(of.peak, static_cast<double>(*value));
      of.sum += static_cast<double>(*value);
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(found[i].sum)) found[i].peak = found[i].sum;  // comparisons pass over NaN
    found[i].box = smallest_box(std::move(outer[i]));
  }
  return found;
}

template std::vector<RegionMeasure> measure_regions<float>(const Regions&, const float*, int64_t,
                                                           double, double);
template std::vector<RegionMeasure> measure_regions<double>(const Regions&, const double*, int64_t,
                                                            double, double);

}  // namespace fastad::metrics
