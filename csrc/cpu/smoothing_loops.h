// The inner loops of smoothing: sums of rows, and of neighbours in a row. Free of torch.
//
// A Gaussian is separable. It runs down the columns first: rows as they are made lie in the cache,
// and a row that is read counts in four sums. Then it runs across each row.

#pragma once

#include <cstdint>

namespace fastad::cpu {

constexpr int kBlurRows = 4;        // that are computed together
constexpr int64_t kBlurStep = 128;  // columns that are computed together

// out[b * stride + x] = sum over i < taps of weights[i] * rows[b + i][x], for b < kBlurRows. Reads
// kBlurRows - 1 + taps rows. They and out go on to the next multiple of kBlurStep.
template <class A>
void blur_down(const A* const* rows, const A* weights, int64_t taps, int64_t width, A* out,
               int64_t stride);

// out[x] = sum over i < taps of weights[i] * row[x + i]. The row goes on to taps - 1 beyond the
// next multiple of kBlurStep.
template <class A>
void blur_across(const A* row, const A* weights, int64_t taps, int64_t width, A* out);

}  // namespace fastad::cpu
