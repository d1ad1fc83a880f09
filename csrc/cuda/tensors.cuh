// Tensors of a call as pointers and strides, and the plan of a pyramid: which path each level
// takes and how its blocks are counted. Host code only.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "cuda/feature_pyramid.cuh"
#include "cuda/pixel_team.cuh"

namespace fastad::cuda {

using torch::stable::Tensor;

inline int64_t element_size(ScalarType dtype) {
  return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
}

inline ScalarType floating_dtype(const Tensor& x) {
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float ||
                      dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  "tensors must be float64, float32, float16 or bfloat16");
  return dtype;
}

inline int device_of(const std::vector<Tensor>& tensors) {
  STD_TORCH_CHECK(!tensors.empty() && tensors.size() <= kMaxLevels, "there must be 1 to ",
                  kMaxLevels, " levels, not ", tensors.size());
  const int device = tensors[0].get_device_index();
  for (const Tensor& x : tensors) {
    STD_TORCH_CHECK(x.get_device_index() == device, "levels must be on one device");
  }
  return device;
}

// Features whose rows join, so that one stride leads from pixel to pixel.
inline FeatureMap describe(const Tensor& x, bool writable) {
  STD_TORCH_CHECK(x.dim() == 4, "features must be (N, C, H, W)");
  const int64_t height = x.size(2), width = x.size(3);
  STD_TORCH_CHECK(height == 1 || width == 1 || x.stride(2) == width * x.stride(3),
                  "features must be contiguous or channels_last within an image");
  FeatureMap map = {};
  map.data = writable ? x.mutable_data_ptr() : const_cast<void*>(x.const_data_ptr());
  map.image_stride = x.size(0) > 1 ? x.stride(0) : 0;
  map.channel_stride = x.size(1) > 1 ? x.stride(1) : 0;
  map.pixel_stride = width > 1 ? x.stride(3) : height > 1 ? x.stride(2) : 0;
  map.dtype = floating_dtype(x);
  STD_TORCH_CHECK(map.pixel_stride <= 1 || map.channel_stride <= 1,
                  "features must be contiguous or channels_last within an image");
  return map;
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

// `gradients` may be empty.
inline FeaturePyramid make_pyramid(const std::vector<Tensor>& teacher,
                                   const std::vector<Tensor>& student,
                                   const std::vector<Tensor>& gradients = {}) {
  STD_TORCH_CHECK(teacher.size() == student.size(), "teacher and student differ in their levels");
  STD_TORCH_CHECK(device_of(teacher) == device_of(student),
                  "teacher and student must be on one device");
  // Images, pixels of an image and blocks are counted in 32 bits, everything else in 64.
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  FeaturePyramid pyramid = {};
  pyramid.count = static_cast<int>(teacher.size());
  pyramid.dtype = floating_dtype(student[0]);
  for (int l = 0; l < pyramid.count; ++l) {
    const Tensor &t = teacher[l], &s = student[l];
    FeatureLevel& level = pyramid.levels[l];
    level.teacher = describe(t, false);
    level.student = describe(s, false);
    for (int axis = 0; axis < 4; ++axis) {
      STD_TORCH_CHECK(t.size(axis) == s.size(axis), "teacher and student differ in shape at level ",
                      l);
    }
    STD_TORCH_CHECK(s.size(0) <= kMost && s.size(1) > 0 && s.size(1) <= (1 << 24) &&
                        s.size(2) * s.size(3) <= kMost,
                    "features of level ", l, " are too large or have no channels");
    if (!gradients.empty()) level.gradient = describe(gradients[l], true);
    level.image_pixels = s.size(2) * s.size(3);
    level.pixels = s.size(0) * level.image_pixels;
    level.channels = static_cast<int>(s.size(1));
    for (const ScalarType dtype : {level.teacher.dtype, level.student.dtype}) {
      if (dtype != pyramid.dtype) pyramid.dtype = ScalarType::Undefined;
      pyramid.is_double = pyramid.is_double || dtype == ScalarType::Double;
    }
  }
  const bool vectors = !pyramid.is_double && pyramid.dtype != ScalarType::Undefined;
  for (int l = 0; l < pyramid.count; ++l) {
    FeatureLevel& level = pyramid.levels[l];
    plan_level(level, vectors);
    const int64_t last_block =
        pyramid.first_block[l] + (level.pixels + level.tile_pixels - 1) / level.tile_pixels;
    STD_TORCH_CHECK(last_block <= kMost, "features are too large for one launch");
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
