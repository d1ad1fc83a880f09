#include "cpu/pyramid.h"

namespace fastad::cpu {
namespace {

// channels * pixels of a block. Planar blocks are long, because memory is read fastest in long
// rows: at most 1 MiB of teacher and student, and short enough that a single image still gives
// every thread several (by the size of the work alone, so that no sum depends on the number of
// threads). Interleaved pixels are contiguous anyway: their blocks stay in the L1 cache.
constexpr int64_t kLongestPlanar = 131072, kShortestPlanar = 16384, kInterleaved = 4096;
constexpr int64_t kPlanarBlocks = 16;
// Elements in a block of an image that is one vector: teacher and student stay in the L1 cache.
constexpr int64_t kJoined = 4096;

}  // namespace

Features::Features(const Tensor& x) : type(dtype_of(x)) {
  const FeatureStrides strides(x);
  data = static_cast<char*>(x.data_ptr());
  images = x.size(0);
  channels = x.size(1);
  pixels = x.size(2) * x.size(3);
  image_stride = strides.image;
  channel_stride = strides.channel;
  pixel_stride = strides.pixel;
  const bool pixels_join = strides.pixel == 1 || pixels == 1;
  layout = strides.channel == 1 || (channels == 1 && !pixels_join) ? Layout::interleaved
                                                                   : Layout::planar;
}

bool Features::is_dense() const {
  const bool planar = layout == Layout::planar;
  const int64_t inner = planar ? pixels : channels, outer = planar ? channels : pixels;
  const int64_t step = planar ? pixel_stride : channel_stride;
  return (inner == 1 || step == 1) && (outer == 1 || row_stride() == inner);
}

void Features::join() {
  pixels *= channels;
  channels = 1;
  layout = Layout::planar;
  pixel_stride = 1;
  channel_stride = pixels;
}

Pyramid::Pyramid(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student,
                 const std::vector<Tensor>& weights, const Comparison& comparison,
                 const std::vector<Tensor>& gradients)
    : l2_(comparison.l2) {
  int64_t elements = 0;
  for (const Tensor& s : student) elements += s.numel();
  const int64_t planar_block =
      std::clamp(elements / kPlanarBlocks, kShortestPlanar, kLongestPlanar);
  for (size_t i = 0; i < teacher.size(); ++i) {
    Level level{.teacher = Features(teacher[i]),
                .student = Features(student[i]),
                .layout = Features(gradients.empty() ? student[i] : gradients[i]).layout,
                .first_task = tasks_};
    Features &t = level.teacher, &s = level.student;
    if (comparison.flat && weights.empty() && comparison.channels.empty()) {
      level.is_joined = t.layout == s.layout && s.layout == level.layout && t.is_dense() &&
                        s.is_dense() && (gradients.empty() || Features(gradients[i]).is_dense());
    }
    if (level.is_joined) t.join(), s.join(), level.layout = Layout::planar;
    const bool planar = level.layout == Layout::planar;
    const int64_t block = level.is_joined ? kJoined : planar ? planar_block : kInterleaved;
    level.block = std::max<int64_t>(block / s.channels, planar ? 16 : 1);
    level.block = std::min(level.block, s.pixels);
    level.blocks = (s.pixels + level.block - 1) / level.block;
    tasks_ += s.images * level.blocks;
    largest_block_ = std::max(largest_block_, level.block * s.channels);
    largest_pixels_ = std::max(largest_pixels_, level.block);
    is_double_ = is_double_ || t.type == DType::float64 || s.type == DType::float64;
    if (!weights.empty()) {
      level.weights = weights[i].data_ptr();
      level.weights_stride = weights[i].stride(0);
    }
    if (!comparison.channels.empty()) level.channels = comparison.channels[i];
    levels_.push_back(level);
  }
}

Place Pyramid::place(int64_t level, int64_t image, int64_t block) const {
  const Level& of = levels_[level];
  const int64_t pixel = block * of.block;
  return {of.first_task + image * of.blocks + block, level, image, pixel,
          std::min(of.block, of.student.pixels - pixel)};
}

}  // namespace fastad::cpu
