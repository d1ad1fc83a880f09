// The Gaussian that maps are smoothed with: cut at 3 standard deviations, its weights sum to 1. The
// pixels at the edges of a map are repeated. Host code that both backends share.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fastad {

constexpr double kMostSmoothing = 300;  // pixels: a block of CUDA holds all within the radius

// How many pixels on each side have a weight; `sigma`, above 0, is the standard deviation.
inline int64_t gaussian_radius(double sigma) {
  return std::max<int64_t>(std::llrint(3 * sigma), 1);
}

inline double gaussian(double sigma, int64_t pixels) {
  const double distance = static_cast<double>(pixels) / sigma;
  return std::exp(-0.5 * distance * distance);
}

// What the sum of all weights is divided by.
inline double gaussian_sum(double sigma) {
  double sum = 1;
  for (int64_t i = gaussian_radius(sigma); i > 0; --i) sum += 2 * gaussian(sigma, i);
  return sum;
}

// The weights of the pixels at distances 0 to the radius.
inline std::vector<double> gaussian_weights(double sigma) {
  std::vector<double> weights;
  const double sum = gaussian_sum(sigma);
  for (int64_t i = 0; i <= gaussian_radius(sigma); ++i) weights.push_back(gaussian(sigma, i) / sum);
  return weights;
}

}  // namespace fastad
