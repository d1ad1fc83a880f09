// Two passes over the runs of a mask with union-find (Rosenfeld and Pfaltz, 1966; Wu, Otoo and
// Suzuki, 2009): the first joins each run to those of the row above that it touches, the second
// numbers the roots. Work and memory grow with the runs; the rest of the mask is only read once,
// eight bytes at a time.

#include "metrics/regions.h"

#include <cstring>

namespace fastad::metrics {
namespace {

int64_t next_marked(const bool* row, int64_t column, int64_t width) {
  for (uint64_t eight; column + 8 <= width; column += 8) {
    std::memcpy(&eight, row + column, 8);
    if (eight != 0) break;
  }
  while (column < width && !row[column]) ++column;
  return column;
}

// While runs are joined, `region` of a run is the number of an earlier run of its region, or its
// own number: then it is the root, and the first of the region in raster order.
uint32_t root(std::vector<Run>& runs, uint32_t run) {
  while (runs[run].region != run) {
    runs[run].region = runs[runs[run].region].region;  // halves the way for the next search
    run = runs[run].region;
  }
  return run;
}

void join(std::vector<Run>& runs, uint32_t a, uint32_t b) {
  a = root(runs, a);
  b = root(runs, b);
  if (a < b)
    runs[b].region = a;
  else
    runs[a].region = b;
}

}  // namespace

Regions find_regions(const bool* mask, int64_t height, int64_t width) {
  Regions result;
  std::vector<Run>& runs = result.runs;
  size_t above = 0, first = 0;  // where the runs of the row above and of this row begin
  for (int64_t y = 0; y < height; ++y) {
    const bool* row = mask + y * width;
    for (int64_t x = next_marked(row, 0, width); x < width; x = next_marked(row, x, width)) {
      const int64_t begin = x;
      while (x < width && row[x]) ++x;
      const auto run = static_cast<uint32_t>(runs.size());
      runs.push_back({y, begin, x, run});
      // Runs of the row above that end before this one touch none that follow it either.
      while (above < first && runs[above].end < begin) ++above;
      for (size_t i = above; i < first && runs[i].begin <= x; ++i)
        join(runs, run, static_cast<uint32_t>(i));
    }
    above = first;
    first = runs.size();
  }
  for (uint32_t i = 0; i < runs.size(); ++i) {
    // A region's root precedes its other runs: it has its number when they ask for it.
    if (runs[i].region == i) {
      runs[i].region = static_cast<uint32_t>(result.sizes.size());
      result.sizes.push_back(0);
    } else {
      runs[i].region = runs[runs[i].region].region;
    }
    result.sizes[runs[i].region] += runs[i].end - runs[i].begin;
  }
  return result;
}

}  // namespace fastad::metrics
