// A filter's values at Winograd's points, divided by the product of the points' distances:
// Lagrange's factors, which the inputs' values lack.

#pragma once

#include <cmath>
#include <cstdint>

namespace fastad::cpu {

template <int kTaps, int kCount>
struct FilterPoints {
  double g[kCount][kTaps] = {};

  // The point at infinity is one of them.
  explicit FilterPoints(const double (&point)[kCount]) {
    for (int i = 0; i < kCount; ++i) {
      if (std::isinf(point[i])) {
        g[i][kTaps - 1] = 1;
        continue;
      }
      double product = 1;
      for (int j = 0; j < kCount; ++j)
        if (j != i && !std::isinf(point[j])) product *= point[i] - point[j];
      double power = 1;
      for (int j = 0; j < kTaps; ++j, power *= point[i]) g[i][j] = power / product;
    }
  }

  // out[(i * kCount + j) * stride] of one channel's filter, whose taps are `value(y, x)`.
  template <class Value>
  void evaluate(Value value, int64_t stride, double* out) const {
    for (int i = 0; i < kCount; ++i) {
      double row[kTaps] = {};
      for (int y = 0; y < kTaps; ++y)
        for (int x = 0; x < kTaps; ++x) row[x] += g[i][y] * value(y, x);
      for (int j = 0; j < kCount; ++j) {
        double sum = 0;
        for (int x = 0; x < kTaps; ++x) sum += row[x] * g[j][x];
        out[(i * kCount + j) * stride] = sum;
      }
    }
  }
};

}  // namespace fastad::cpu
