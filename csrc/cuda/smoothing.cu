// Maps under a Gaussian, down the columns and across the rows in one launch, and the transpose.
//
// Never timed on a GPU. Bytes: 256x256 maps at batch 64: 16.8 MB read, which the launch before has
// just written, and 16.8 MB written, 8 us at 4.3 TB/s. Rows around a block's are read again, from
// the L2 cache: 3 times as much for 4 pixels. Work: 52 multiply-adds a pixel for 4 pixels.

#include <algorithm>
#include <cmath>

#include "bilinear.h"
#include "cuda/kernel.cuh"
#include "cuda/maximum.cuh"
#include "cuda/smoothing.cuh"
#include "gaussian.h"

namespace fastad::cuda {
namespace {

constexpr int kBlock = 128;           // threads, and columns of a block
constexpr int kRun = 16;              // pixels of a thread, and rows of a block
constexpr size_t kShared = 48 << 10;  // bytes that every device lets a block have

struct SmoothingParams {
  const void* from;
  void* to;       // (N, height, width), as `from`
  void* maximum;  // (N,), may be null
  int64_t images;
  int height, width;
  int radius;
  double sigma, sum;  // as of gaussian_sum
};

// What lies in shared memory: the weights of all pixels from -radius to radius, what they come to
// from a distance on, and the rows of a block, columns -radius to kBlock + radius - 1. The odd
// pitch puts a column of 16 rows and one 16 pixels beside it into 32 banks.
FASTAD_HOST_DEVICE int64_t pitch_of(int64_t radius) { return (kBlock + 2 * radius) | 1; }
inline int64_t shared_values(int64_t radius, int64_t rows) {
  return 2 * radius + 1 + radius + 1 + rows * pitch_of(radius);
}

// Pixels first to first + kLength - 1 of an axis of `length` pixels: sums[b] is the sum of
// weights[k] * at(first + b - radius + k). at(i) is called with pixels of the axis only. A pixel
// that is read counts in all sums: it moves through a window of registers.
template <class Acc, int kLength, bool kTransposed, class At>
__device__ __forceinline__ void blur(const Acc* weights, const Acc* beyond, int radius, int first,
                                     int length, const At& at, Acc (&sums)[kLength]) {
  if (kTransposed && length == 1) {
#pragma unroll
    for (int b = 0; b < kLength; ++b) sums[b] = at(0);
    return;
  }
  const auto pixel = [&](int i) {
    const int within = min(max(i, 0), length - 1);
    const Acc value = at(within);
    return kTransposed && within != i ? Acc(0) : value;
  };
  const int start = first - radius, taps = 2 * radius + 1;
  Acc window[kLength];
#pragma unroll
  for (int b = 0; b < kLength; ++b) {
    sums[b] = 0;
    window[b] = pixel(start + b);
  }
  for (int base = 0; base < taps; base += kLength) {
#pragma unroll
    for (int j = 0; j < kLength; ++j) {
      if (base + j == taps) break;
      const Acc weight = weights[base + j];
#pragma unroll
      for (int b = 0; b < kLength; ++b) sums[b] += weight * window[(j + b) % kLength];
      window[j] = pixel(start + base + j + kLength);
    }
  }
  if constexpr (kTransposed) {
    // All that the repeated pixels got goes to the one at the edge.
    for (const int edge : {0, length - 1}) {
      const int at_edge = edge - first, step = edge == 0 ? 1 : -1;
      if (at_edge < 0 || at_edge >= kLength) continue;
      Acc sum = 0;
      for (int k = 0; k <= min(radius, length - 1); ++k) sum += beyond[k] * at(edge + step * k);
#pragma unroll
      for (int b = 0; b < kLength; ++b) sums[b] = b == at_edge ? sum : sums[b];
    }
  }
}

// A block owns kRows rows of an image and kBlock of their columns. Each thread sums down some of
// the columns that these and their neighbours across need, then across a part of a row.
template <class Acc, int kRows, bool kTransposed>
__global__ void __launch_bounds__(kBlock)
    smoothing_kernel(const __grid_constant__ SmoothingParams params) {
  Acc* const weights = &shared_memory<Acc>();
  const int radius = params.radius, width = params.width, height = params.height;
  const int pitch = static_cast<int>(pitch_of(radius));
  Acc* const beyond = weights + 2 * radius + 1;
  Acc* const rows = beyond + radius + 1;
  const int64_t across = (width - 1) / kBlock + 1, down = (height - 1) / kRows + 1;
  const int64_t block = blockIdx.x, image = divide(block, across * down);
  const int in_image = static_cast<int>(block - image * across * down);
  const int band = in_image / static_cast<int>(across);
  const int y0 = band * kRows, x0 = (in_image - band * static_cast<int>(across)) * kBlock;
  const int64_t offset = image * height * width;
  const Acc* from = static_cast<const Acc*>(params.from) + offset;
  const int thread = threadIdx.x;

  for (int k = thread; k <= radius; k += kBlock) {
    const Acc distance = static_cast<Acc>(k / params.sigma);
    const Acc weight = exp(Acc(-0.5) * distance * distance) / static_cast<Acc>(params.sum);
    weights[radius - k] = weight;
    weights[radius + k] = weight;
  }
  __syncthreads();
  if (kTransposed) {
    for (int k = thread; k <= radius; k += kBlock) {
      Acc sum = 0;
      for (int i = 2 * radius; i >= radius + k; --i) sum += weights[i];
      beyond[k] = sum;
    }
    __syncthreads();
  }

  for (int column = thread; column < kBlock + 2 * radius; column += kBlock) {
    const int x = min(max(x0 - radius + column, 0), width - 1);
    Acc sums[kRows];
    blur<Acc, kRows, kTransposed>(
        weights, beyond, radius, y0, height,
        [&](int y) { return load(from + (int64_t{y} * width + x)); }, sums);
#pragma unroll
    for (int r = 0; r < kRows; ++r) rows[r * pitch + column] = sums[r];
  }
  __syncthreads();

  const int r = thread % kRows, begin = thread / kRows * kRows;
  Acc sums[kRows];
  blur<Acc, kRows, kTransposed>(
      weights, beyond, radius, x0 + begin, width,
      [&](int x) {
        // Pixels beyond those that a block holds have no part in what it stores.
        const int column = min(x - x0 + radius, kBlock + 2 * radius - 1);
        return rows[r * pitch + column];
      },
      sums);
  __syncthreads();
#pragma unroll
  for (int b = 0; b < kRows; ++b) rows[r * pitch + begin + b] = sums[b];
  __syncthreads();

  const int x = x0 + thread;
  Acc* to = static_cast<Acc*>(params.to) + offset + x;
  Acc maximum = -static_cast<Acc>(INFINITY);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (x >= width || y0 + i >= height) continue;
    const Acc value = rows[i * pitch + thread];
    store(to + int64_t{y0 + i} * width, value);
    maximum = maximum_of(maximum, value);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    maximum = maximum_of(maximum, __shfl_xor_sync(0xffffffffu, maximum, step));
  }
  if (thread % kWarp == 0 && params.maximum != nullptr) {
    atomic_maximum(static_cast<Acc*>(params.maximum) + image, maximum);
  }
}

template <class Acc, int kRows, bool kTransposed>
void launch_smoothing(const SmoothingParams& params, cudaStream_t stream) {
  const int64_t across = (params.width - 1) / kBlock + 1, down = (params.height - 1) / kRows + 1;
  launch(smoothing_kernel<Acc, kRows, kTransposed>, params.images * across * down, kBlock,
         shared_values(params.radius, kRows) * sizeof(Acc), stream, params);
}

template <bool kTransposed>
void run(const Tensor& from, const Tensor& to, const Tensor* maximum, double sigma) {
  SmoothingParams params = {.from = from.const_data_ptr(),
                            .to = to.mutable_data_ptr(),
                            .maximum = maximum == nullptr ? nullptr : maximum->mutable_data_ptr(),
                            .images = from.size(0),
                            .height = static_cast<int>(from.size(1)),
                            .width = static_cast<int>(from.size(2)),
                            .radius = static_cast<int>(gaussian_radius(sigma)),
                            .sigma = sigma,
                            .sum = gaussian_sum(sigma)};
  if (params.images == 0) return;
  const cudaStream_t stream = current_stream(from.get_device_index());
  const auto start = [&](auto x) {
    using Acc = decltype(x);
    // Of a wide Gaussian a block holds one row only.
    const bool fits = shared_values(params.radius, kRun) * sizeof(Acc) <= kShared;
    fits ? launch_smoothing<Acc, kRun, kTransposed>(params, stream)
         : launch_smoothing<Acc, 1, kTransposed>(params, stream);
  };
  from.scalar_type() == ScalarType::Double ? start(double{}) : start(float{});
}

}  // namespace

void smooth(const Tensor& from, const Tensor& to, const Tensor* maximum, double sigma) {
  run<false>(from, to, maximum, sigma);
}

void unsmooth(const Tensor& from, const Tensor& to, double sigma) {
  run<true>(from, to, nullptr, sigma);
}

}  // namespace fastad::cuda
