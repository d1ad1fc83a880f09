// A feature pyramid as the CUDA kernels see it: one plain struct, passed by value, that tells a
// block which pixels of which level are its own and how its threads share them.
//
// A block holds one tile: 256 threads, each with at most kVectorSlots 16-byte vectors of teacher
// and of student. However many channels a level has, a tile is then about 32 KiB of features: all
// blocks of all levels carry the same load, and the tile stays in registers while norms, distance
// and gradient are computed, so that memory is read once.

#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "checks.h"

namespace fastad::cuda {

constexpr int kWarp = 32;
constexpr int kThreadsLog2 = 8, kThreads = 1 << kThreadsLog2;
constexpr int kWarps = kThreads / kWarp;
constexpr int kVectorBytes = 16;
constexpr int kVectorSlots = 4;  // vectors of one tensor that a thread holds
constexpr int kScalarSlots = 8;  // elements, where 16-byte loads are impossible
constexpr int kTilePixelsLog2 = 7, kTilePixels = 1 << kTilePixelsLog2;  // at most

// (N, C, H, W) elements at data[n * image_stride + c * channel_stride + pixel * pixel_stride].
// Strides of axes of length 1 are 0.
struct FeatureMap {
  void* data;
  int64_t image_stride, channel_stride, pixel_stride;
  ScalarType dtype;
};

// How the threads of a block read their tile.
enum class Path : int {
  kPlanar,       // a vector is neighbouring pixels of one channel
  kInterleaved,  // a vector is neighbouring channels of one pixel
  kScalar,       // element by element: odd sizes, misaligned, mixed dtypes or layouts, float64
};

struct FeatureLevel {
  FeatureMap teacher, student;
  FeatureMap gradient;  // of the student; data is null where there is none
  int64_t pixels;       // of all images, N * H * W
  int64_t image_pixels;
  int channels;
  Path path;
  bool channels_fastest;  // neighbouring threads read neighbouring channels, else pixels
  int pixel_lanes_log2;   // threads of a block along pixels; the others run along channels
  int tile_pixels;
  int chunks;  // visits a thread needs for all of its channels; 1: the tile fits in registers
};

struct FeaturePyramid {
  FeatureLevel levels[kMaxLevels];
  int first_block[kMaxLevels + 1];
  int count;
  ScalarType dtype;  // of every feature, or Undefined where they differ
  bool is_double;    // arithmetic and outputs are float64
};

// What a kernel is compiled for. `Scalar` is the one dtype of all features; void stands for any
// mix of them, read element by element.
template <class S, class A>
struct Traits {
  using Scalar = S;
  using Acc = A;
};

__device__ __forceinline__ int find_level(const FeaturePyramid& pyramid, int block) {
  int level = 0;
  while (level + 1 < pyramid.count && block >= pyramid.first_block[level + 1]) ++level;
  return level;
}

// 64-bit division is a subroutine of about a hundred instructions; few operands need it.
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

}  // namespace fastad::cuda
