#include "metrics/histogram.h"

#include "metrics/order.h"
#include "metrics/regions.h"

namespace fastad::metrics {

void add_to_histograms(const Image<float>& image, int bits, int64_t* normal, int64_t* defect,
                       double* overlap) {
  const int shift = 32 - bits;
  const Regions regions = find_regions(image.mask, image.height, image.width);
  const auto count = [&](const float* values, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++normal[key_of(values[i]) >> shift];
  };
  int64_t done = 0;  // normal pixels are those between the runs
  for (const Run& run : regions.runs) {
    const int64_t begin = run.row * image.width + run.begin;
    const int64_t end = run.row * image.width + run.end;
    count(image.map, done, begin);
    const double share = 1.0 / static_cast<double>(regions.sizes[run.region]);
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t bin = key_of(image.map[i]) >> shift;
      ++defect[bin];
      overlap[bin] += share;
    }
    done = end;
  }
  count(image.map, done, image.height * image.width);
}

}  // namespace fastad::metrics
