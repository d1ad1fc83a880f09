// The inner loop of smoothing: sums of rows, and of neighbours in a row. Free of torch.
//
// A Gaussian is separable. It runs down the columns first, four rows at once: rows as they are made
// lie in the cache, and one that is read counts in four sums. Pixels at the same distance share a
// weight, so they are added first. To run across, the same loop takes columns in place of rows.
// Four rows by four columns at a time, it leaves both transposed.

#pragma once

#include <cstdint>

namespace fastad::cpu {

constexpr int kBlurRows = 4;       // that are computed together
constexpr int64_t kBlurStep = 32;  // numbers of a row that are computed together

// With sums[b][x] = weights[0] * rows[b][x]
//                   + sum over 0 < i <= radius of weights[i] * (rows[b - i][x] + rows[b + i][x]),
// out[b][4 q + c] = sums[c][4 q + b], for b, c < 4 = kBlurRows. Reads rows[-radius] to
// rows[3 + radius]. They and out go on to the next multiple of kBlurStep.
template <class A>
void blur(const A* const* rows, const A* weights, int64_t radius, int64_t width, A* const* out);

}  // namespace fastad::cpu
