// The connected regions of a mask: 8 neighbours, so pixels that touch at a corner belong together.

#pragma once

#include <cstdint>
#include <vector>

namespace fastad::metrics {

// Marked pixels that stand side by side in one row: columns begin to end - 1.
struct Run {
  int64_t row, begin, end;
  uint32_t region;
};

struct Regions {
  std::vector<Run> runs;       // in raster order
  std::vector<int64_t> sizes;  // pixels of each region; regions are numbered by their first pixel
};

// `mask`: height * width bytes, row by row, not zero where marked.
Regions find_regions(const bool* mask, int64_t height, int64_t width);

}  // namespace fastad::metrics
