// What every distinct value of the defect pixels adds to the pixel curves (ROC, precision-recall,
// per-region and per-image overlap): all of them follow from these rows.

#pragma once

#include <cstdint>
#include <vector>

namespace fastad::metrics {

template <class T>
struct Image {
  const bool* mask;  // height * width
  const T* map;
  int64_t height, width;
};

// One row a distinct value of the defect pixels, the highest first.
struct Curve {
  std::vector<double> values;
  std::vector<int64_t> defects;       // defect pixels of this value
  std::vector<double> overlap;        // the same, each as 1 / size of its region
  std::vector<int64_t> normal_above;  // normal pixels of higher values
  std::vector<int64_t> normal_equal;  // normal pixels of this value
  int64_t normal = 0;                 // all normal pixels
  int64_t regions = 0;
};

// With `normal_images`, pixels of images that have a defect do not count as normal.
// Throws std::invalid_argument for values that are not finite, std::length_error for 2^32 pixels.
template <class T>
Curve pixel_curve(const std::vector<Image<T>>& images, bool normal_images, int threads);

}  // namespace fastad::metrics
