// Tensors of a call as pointers and strides, and the plan of a pyramid: which path each level
// takes and how its blocks are counted. Host code only.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "checks.h"
#include "cuda/feature_pyramid.cuh"
#include "cuda/pixel_team.cuh"

namespace fastad::cuda {

inline int64_t element_size(ScalarType dtype) {
  return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
}

inline FeatureMap feature_map(const Tensor& x, bool writable) {
  const FeatureStrides strides(x);
  return {.data = writable ? x.mutable_data_ptr() : const_cast<void*>(x.const_data_ptr()),
          .image_stride = strides.image,
          .channel_stride = strides.channel,
          .pixel_stride = strides.pixel,
          .dtype = x.scalar_type()};
}

// 16-byte vectors along pixels need every other step to be a multiple of 16 bytes; likewise
// along channels.
inline bool takes_vectors(const FeatureMap& map, Path path) {
  const int64_t vector = kVectorBytes / element_size(map.dtype);
  const int64_t along = path == Path::kPlanar ? map.pixel_stride : map.channel_stride;
  const int64_t across = path == Path::kPlanar ? map.channel_stride : map.pixel_stride;
  return along == 1 && across % vector == 0 && map.image_stride % vector == 0 &&
         reinterpret_cast<uintptr_t>(map.data) % kVectorBytes == 0;
}

inline int log2_floor(int64_t x) {
  int result = 0;
  while (x >> (result + 1) > 0) ++result;
  return result;
}
inline int log2_ceil(int64_t x) { return x <= 1 ? 0 : log2_floor(x - 1) + 1; }

// Chooses a level's path and spreads the block's threads over pixels and channels.
inline void plan_level(FeatureLevel& level, bool vectors_allowed) {
  const FeatureMap* maps[] = {&level.teacher, &level.student, &level.gradient};
  const int count = level.gradient.data == nullptr ? 2 : 3;
  const auto all = [&](auto holds) {
    return std::all_of(maps, maps + count, [&](const FeatureMap* map) { return holds(*map); });
  };
  const int64_t vector = kVectorBytes / element_size(level.student.dtype);
  const int64_t channels = level.channels;

  if (vectors_allowed && level.image_pixels % vector == 0 &&
      all([](const FeatureMap& map) { return takes_vectors(map, Path::kPlanar); })) {
    level.path = Path::kPlanar;
    // A warp's loads cover 64 bytes of a row at least, 32 where there are so many channels that
    // more of a row would not stay on the chip.
    const int least = channels <= 512 ? 2 : 1;
    level.pixel_lanes_log2 =
        std::clamp(log2_floor(std::max<int64_t>(kThreads * kVectorSlots / channels, 1)), least,
                   kTilePixelsLog2 - log2_floor(vector));
    level.tile_pixels = static_cast<int>(vector << level.pixel_lanes_log2);
    level.chunks = static_cast<int>(
        (channels - 1) / (kVectorSlots * (kThreads >> level.pixel_lanes_log2)) + 1);
    return;
  }
  int channel_lanes_log2;
  int64_t slots;  // of all threads that share a pixel, were there one
  if (vectors_allowed && channels % vector == 0 &&
      all([](const FeatureMap& map) { return takes_vectors(map, Path::kInterleaved); })) {
    level.path = Path::kInterleaved;
    level.channels_fastest = true;
    slots = kVectorSlots;
    const int64_t vectors = channels / vector;
    channel_lanes_log2 = std::clamp(log2_ceil((vectors - 1) / slots + 1), 2, kThreadsLog2);
    level.chunks = static_cast<int>((vectors - 1) / (slots << channel_lanes_log2) + 1);
  } else {
    level.path = Path::kScalar;
    level.channels_fastest = all([](const FeatureMap& map) { return map.channel_stride == 1; });
    slots = kScalarSlots;
    const int wanted = log2_ceil((channels - 1) / slots + 1);
    channel_lanes_log2 =
        level.channels_fastest ? std::clamp(wanted, 4, kThreadsLog2) : std::clamp(wanted, 3, 4);
    level.chunks = static_cast<int>((channels - 1) / (slots << channel_lanes_log2) + 1);
  }
  level.pixel_lanes_log2 = kThreadsLog2 - channel_lanes_log2;
  level.tile_pixels = 1 << level.pixel_lanes_log2;
}

// Of features that `check_features` passed; `gradients` may be empty.
inline FeaturePyramid make_pyramid(const std::vector<Tensor>& teacher,
                                   const std::vector<Tensor>& student,
                                   const std::vector<Tensor>& gradients = {}) {
  FeaturePyramid pyramid = {};
  pyramid.count = static_cast<int>(teacher.size());
  pyramid.dtype = student[0].scalar_type();
  pyramid.is_double = distance_dtype(teacher, student) == ScalarType::Double;
  for (int l = 0; l < pyramid.count; ++l) {
    const Tensor& s = student[l];
    FeatureLevel& level = pyramid.levels[l];
    level.teacher = feature_map(teacher[l], false);
    level.student = feature_map(s, false);
    if (!gradients.empty()) level.gradient = feature_map(gradients[l], true);
    level.image_pixels = s.size(2) * s.size(3);
    level.pixels = s.size(0) * level.image_pixels;
    level.channels = static_cast<int>(s.size(1));
    for (const ScalarType dtype : {level.teacher.dtype, level.student.dtype}) {
      if (dtype != pyramid.dtype) pyramid.dtype = ScalarType::Undefined;
    }
  }
  const bool vectors = !pyramid.is_double && pyramid.dtype != ScalarType::Undefined;
  for (int l = 0; l < pyramid.count; ++l) {
    FeatureLevel& level = pyramid.levels[l];
    plan_level(level, vectors);
    const int64_t last_block =
        pyramid.first_block[l] + (level.pixels + level.tile_pixels - 1) / level.tile_pixels;
    STD_TORCH_CHECK(last_block <= std::numeric_limits<int>::max(),
                    "features are too large for one launch");
    pyramid.first_block[l + 1] = static_cast<int>(last_block);
  }
  return pyramid;
}

inline ScalarType result_dtype(const FeaturePyramid& pyramid) {
  return pyramid.is_double ? ScalarType::Double : ScalarType::Float;
}

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

inline int block_count(const FeaturePyramid& pyramid) { return pyramid.first_block[pyramid.count]; }

inline size_t shared_bytes(const FeaturePyramid& pyramid) {
  return pyramid.is_double ? sizeof(TeamMemory<double>) : sizeof(TeamMemory<float>);
}

}  // namespace fastad::cuda
