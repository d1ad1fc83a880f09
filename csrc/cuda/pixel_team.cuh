// The threads that share the channels of a pixel: who reads what, and how their sums meet.
//
// Threads of a block run along pixels and along channels. Where channels are fastest, the threads
// of a pixel are neighbours: sums are warp shuffles, and only a pixel wider than a warp needs
// shared memory. Where pixels are fastest, every warp holds a part of every pixel: after the
// shuffles the warps' parts are added by the thread that owns the pixel, always in one order.

#pragma once

#include "cuda/feature_pyramid.cuh"
#include "cuda/memory.cuh"

namespace fastad::cuda {

constexpr int kTold = 3;  // numbers that the threads of a pixel share

template <class Acc>
struct TeamMemory {
  alignas(16) Acc partial[2][kWarps][kTilePixels];  // a warp's part of a pixel's sums
  alignas(16) Acc told[kTold][kTilePixels];         // what the owner of a pixel tells its threads
};

// kPixels: neighbouring pixels that a thread reads together; more than one only with pixels
// fastest.
template <class Acc, int kPixels>
class PixelTeam {
 public:
  __device__ PixelTeam(const FeatureLevel& level, bool channels_fastest)
      : tile_pixels_(level.tile_pixels),
        pixel_lanes_log2_(level.pixel_lanes_log2),
        channels_fastest_(channels_fastest) {
    const int channel_lanes_log2 = kThreadsLog2 - pixel_lanes_log2_;
    const int fast_log2 = channels_fastest ? channel_lanes_log2 : pixel_lanes_log2_;
    const int fast = thread() & ((1 << fast_log2) - 1), slow = thread() >> fast_log2;
    pixel_lane_ = channels_fastest ? slow : fast;
    channel_lane_ = channels_fastest ? fast : slow;
  }

  __device__ bool channels_fastest() const { return channels_fastest_; }
  __device__ int pixel_lane() const { return pixel_lane_; }
  __device__ int channel_lane() const { return channel_lane_; }
  __device__ int channel_lanes() const { return kThreads >> pixel_lanes_log2_; }

  // Whether this thread gets the sums of a pixel, and of which in the tile. Threads of one warp
  // that share a pixel all own it; exactly one of them is its writer.
  __device__ bool owns() const { return in_warp() || thread() < tile_pixels_; }
  __device__ bool writes() const { return in_warp() ? channel_lane_ == 0 : owns(); }
  __device__ int owned_pixel() const {
    if (in_warp()) return pixel_lane_;
    const int lane = thread() & ((1 << pixel_lanes_log2_) - 1);
    return kPixels > 1 ? lane * kPixels + (thread() >> pixel_lanes_log2_) : thread();
  }

  // Sums over the channels of every pixel; `total` is that of the owned pixel.
  template <int kSums>
  __device__ void sum(Acc (&sums)[kSums][kPixels], Acc (&total)[kSums]) {
    const int begin = channels_fastest_ ? 1 : 1 << pixel_lanes_log2_;
    const int end = channels_fastest_ ? min(channel_lanes(), kWarp) : kWarp;
    for (int offset = begin; offset < end; offset *= 2) {
#pragma unroll
      for (int i = 0; i < kSums * kPixels; ++i) {
        Acc& sum = sums[i / kPixels][i % kPixels];
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
    }
    if (in_warp()) {
#pragma unroll
      for (int k = 0; k < kSums; ++k) total[k] = sums[k][0];
      return;
    }
    TeamMemory<Acc>& memory = shared_memory<TeamMemory<Acc>>();
    const int part = (thread() / kWarp) & (parts() - 1);
    if (thread() % kWarp < begin) {
#pragma unroll
      for (int i = 0; i < kSums * kPixels; ++i) {
        memory.partial[i / kPixels][part][place(i % kPixels)] = sums[i / kPixels][i % kPixels];
      }
    }
    __syncthreads();
    if (!owns()) return;
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      total[k] = 0;
      for (int i = 0; i < parts(); ++i) total[k] += memory.partial[k][i][thread()];
    }
  }

  // Numbers of a pixel from `kFirst` on, from its owner to all of its threads. Calls of sum and
  // tell alternate: the barrier of each protects what the other reads.
  template <int kFirst, int kCount>
  __device__ void tell(const Acc (&numbers)[kCount]) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (in_warp()) {
        told_[kFirst + k] = numbers[k];
      } else if (owns()) {
        shared_memory<TeamMemory<Acc>>().told[kFirst + k][thread()] = numbers[k];
      }
    }
    if (!in_warp()) __syncthreads();
  }

  // What was told of this thread's pixel p. Read where it is used: registers are for features.
  template <int kNumber>
  __device__ Acc told(int p) const {
    if (in_warp()) return told_[kNumber];
    return shared_memory<TeamMemory<Acc>>().told[kNumber][place(p)];
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  // Warps that share a pixel, a power of two.
  __device__ int parts() const {
    return kPixels > 1 || !channels_fastest_ ? kWarps : max(channel_lanes() / kWarp, 1);
  }
  __device__ bool in_warp() const {
    return kPixels == 1 && channels_fastest_ && channel_lanes() <= kWarp;
  }
  // Of this thread's pixel p in shared memory: neighbouring lanes lie in neighbouring banks.
  __device__ int place(int p) const { return (p << pixel_lanes_log2_) + pixel_lane_; }

  int tile_pixels_, pixel_lanes_log2_, pixel_lane_, channel_lane_;
  bool channels_fastest_;
  Acc told_[kTold];  // where no other warp has to know
};

}  // namespace fastad::cuda
