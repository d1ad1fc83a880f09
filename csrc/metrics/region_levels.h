// The highest level at which a map has a large enough region.

#pragma once

#include <cstdint>

namespace fastad::metrics {

// For each of `count` areas in pixels, ascending, 1 to height * width: the highest value v such
// that the pixels of at least v have a region (8 neighbours) of at least this area. It is the
// maximum of the map's area opening (Vincent, 1992). NaN where the map holds a NaN.
void region_levels(const float* map, int64_t height, int64_t width, const int64_t* areas,
                   int64_t count, float* levels);

}  // namespace fastad::metrics
