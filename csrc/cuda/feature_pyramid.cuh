// A feature pyramid as the CUDA kernels see it: one plain struct, passed by value, that tells a
// block which tile of which level is its own and how its threads share it. feature_tile.cuh draws
// a tile.
//
// However many channels a level has, a tile is about 32 KiB of features: all blocks of all levels
// carry the same load, and a tile stays in registers while norms, distance and gradient are
// computed, so that memory is read once.

#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "checks.h"
#include "cuda/kernel.cuh"

namespace fastad::cuda {

constexpr int kThreadsLog2 = 8, kThreads = 1 << kThreadsLog2;
constexpr int kVectorSlots = 4;  // vectors of one tensor that a thread holds
constexpr int kScalarSlots = 8;  // elements, where 16-byte loads are impossible
constexpr int kTilePixelsLog2 = 7, kTilePixels = 1 << kTilePixelsLog2;  // at most

// (N, C, H, W) elements at data[n * image_stride + c * channel_stride + pixel * pixel_stride].
// Strides as in `FeatureStrides`.
struct FeatureMap {
  void* data;
  int64_t image_stride, channel_stride, pixel_stride;
  ScalarType dtype;
};

// What a thread reads at a time.
enum class Path : int {
  kPlanar,       // a vector of neighbouring pixels of one channel
  kInterleaved,  // a vector of neighbouring channels of one pixel
  kScalar,       // an element: odd sizes, misaligned, mixed dtypes or layouts, float64
};

struct FeatureLevel {
  FeatureMap teacher, student;
  FeatureMap gradient;          // of the student; data is null where there is none
  FeatureMap teacher_gradient;  // likewise
  const void* standard;         // (2, channels): as in `Comparison`; null for none
  int64_t pixels;               // of all images, N * H * W
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
  bool l2;           // vectors are compared as they are, not normalised

  int blocks() const { return first_block[count]; }
  ScalarType result_dtype() const { return is_double ? ScalarType::Double : ScalarType::Float; }
};

// What a kernel is compiled for. `Scalar` is the one dtype of all features; void stands for any
// mix of them, read element by element.
template <class S, class A>
struct Traits {
  using Scalar = S;
  using Acc = A;
};

// Calls visit(Traits{}) with what the kernels are compiled for. float64 and mixed dtypes are
// rare: one kernel that switches on the dtype at the loads serves them all.
template <class Visit>
void visit_traits(const FeaturePyramid& pyramid, const Visit& visit) {
  if (pyramid.is_double) return visit(Traits<void, double>{});
  switch (pyramid.dtype) {
    case ScalarType::Float:
      return visit(Traits<float, float>{});
    case ScalarType::Half:
      return visit(Traits<c10::Half, float>{});
    case ScalarType::BFloat16:
      return visit(Traits<c10::BFloat16, float>{});
    default:
      return visit(Traits<void, float>{});
  }
}

// ---- the plan, made on the host -----------------------------------------------------------------

inline FeatureMap feature_map(const Tensor& x, bool writable = false) {
  const FeatureStrides strides(x);
  return {.data = writable ? x.mutable_data_ptr() : const_cast<void*>(x.const_data_ptr()),
          .image_stride = strides.image,
          .channel_stride = strides.channel,
          .pixel_stride = strides.pixel,
          .dtype = x.scalar_type()};
}

// Whether 16-byte vectors lie along pixels or channels: the other strides are multiples of them.
inline bool takes_vectors(const FeatureMap& map, Path path) {
  const int64_t vector = kVectorBytes / element_size(map.dtype);
  const bool planar = path == Path::kPlanar;
  const int64_t along = planar ? map.pixel_stride : map.channel_stride;
  const int64_t across = planar ? map.channel_stride : map.pixel_stride;
  return along == 1 && across % vector == 0 && map.image_stride % vector == 0 &&
         reinterpret_cast<uintptr_t>(map.data) % kVectorBytes == 0;
}

// Chooses a level's path and spreads the block's threads over pixels and channels: as many channel
// lanes as hold all channels at once, within limits.
inline void plan_level(FeatureLevel& level, bool vectors_allowed) {
  const auto all = [&](const auto& holds) {
    return holds(level.teacher) && holds(level.student) &&
           (level.gradient.data == nullptr || holds(level.gradient)) &&
           (level.teacher_gradient.data == nullptr || holds(level.teacher_gradient));
  };
  const int vector = static_cast<int>(kVectorBytes / element_size(level.student.dtype));
  const auto serves = [&](Path path, int64_t length) {
    return vectors_allowed && length % vector == 0 &&
           all([&](const FeatureMap& map) { return takes_vectors(map, path); });
  };
  int pixels = 1, channels = kVectorSlots;  // of a thread
  int least, most;                          // channel lanes, their logarithm
  if (serves(Path::kPlanar, level.image_pixels)) {
    level.path = Path::kPlanar;
    pixels = vector;
    least = kThreadsLog2 - kTilePixelsLog2 + std::bit_width(static_cast<unsigned>(vector)) - 1;
    // A warp's loads cover at least 64 bytes of a row. With more than 512 channels they cover 32:
    // a wider tile would not stay on the chip.
    most = kThreadsLog2 - (level.channels <= 512 ? 2 : 1);
  } else if (serves(Path::kInterleaved, level.channels)) {
    level.path = Path::kInterleaved;
    level.channels_fastest = true;
    channels *= vector;
    // Two neighbours at least, which read a sector of 32 bytes.
    least = 1;
    most = kThreadsLog2;
  } else {
    level.path = Path::kScalar;
    level.channels_fastest = all([](const FeatureMap& map) { return map.channel_stride == 1; });
    channels = kScalarSlots;
    least = level.channels_fastest ? 4 : 3;
    most = level.channels_fastest ? kThreadsLog2 : 4;
  }
  const unsigned wanted = (level.channels - 1) / channels + 1;
  const int lanes_log2 = std::clamp<int>(std::bit_width(wanted - 1), least, most);
  level.pixel_lanes_log2 = kThreadsLog2 - lanes_log2;
  level.tile_pixels = pixels << level.pixel_lanes_log2;
  level.chunks = (level.channels - 1) / (channels << lanes_log2) + 1;
}

// Of features that `check_features` passed and what `check_comparison` returned. `gradients`: none,
// the student's, or those and the teacher's.
inline FeaturePyramid make_pyramid(const std::vector<Tensor>& teacher,
                                   const std::vector<Tensor>& student, const Comparison& comparison,
                                   const std::vector<Tensor>& gradients = {}) {
  FeaturePyramid pyramid = {.count = static_cast<int>(teacher.size()),
                            .dtype = student[0].scalar_type(),
                            .is_double = distance_dtype(teacher, student) == ScalarType::Double,
                            .l2 = comparison.l2};
  for (const auto* features : {&teacher, &student}) {
    for (const Tensor& x : *features) {
      if (x.scalar_type() != student[0].scalar_type()) pyramid.dtype = ScalarType::Undefined;
    }
  }
  const bool vectors = !pyramid.is_double && pyramid.dtype != ScalarType::Undefined;
  for (int l = 0; l < pyramid.count; ++l) {
    const Tensor& s = student[l];
    const int64_t image_pixels = s.size(2) * s.size(3);
    FeatureLevel& level = pyramid.levels[l];
    level = {.teacher = feature_map(teacher[l]),
             .student = feature_map(s),
             .gradient = gradients.empty() ? FeatureMap{} : feature_map(gradients[l], true),
             .teacher_gradient = gradients.size() > student.size()
                                     ? feature_map(gradients[student.size() + l], true)
                                     : FeatureMap{},
             .standard = comparison.channels.empty() ? nullptr : comparison.channels[l],
             .pixels = s.size(0) * image_pixels,
             .image_pixels = image_pixels,
             .channels = static_cast<int>(s.size(1))};
    const bool aligned = reinterpret_cast<uintptr_t>(level.standard) % kVectorBytes == 0;
    plan_level(level, vectors && aligned);
    const int64_t blocks = (level.pixels + level.tile_pixels - 1) / level.tile_pixels;
    STD_TORCH_CHECK(pyramid.first_block[l] + blocks <= std::numeric_limits<int>::max(),
                    "features are too large for one launch");
    pyramid.first_block[l + 1] = pyramid.first_block[l] + static_cast<int>(blocks);
  }
  return pyramid;
}

}  // namespace fastad::cuda
