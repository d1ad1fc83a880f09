// Counts of pixels by the leading bits of their values: what curves are drawn from.

#pragma once

#include <cstdint>

#include "metrics/curve.h"

namespace fastad::metrics {

// Adds the pixels of one image, whose map is finite, to histograms with a bin for every `bits`
// leading bits: normal and defect pixels, and defect pixels each as 1 / size of its region.
void add_to_histograms(const Image<float>& image, int bits, int64_t* normal, int64_t* defect,
                       double* overlap);

}  // namespace fastad::metrics
