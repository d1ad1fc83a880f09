#include "cpu/pyramid.h"

namespace fastad::cpu {
namespace {

// channels * pixels of a block. Planar blocks are long, because memory is read fastest in long
// rows: at most 1 MiB of teacher and student, and short enough that a single image still gives
// every thread several (by the size of the work alone, so that no sum depends on the number of
// threads). Interleaved pixels are contiguous anyway: their blocks stay in the L1 cache.
constexpr int64_t kLongestPlanar = 131072, kShortestPlanar = 16384, kInterleaved = 4096;
constexpr int64_t kPlanarBlocks = 16;

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    default:
      STD_TORCH_CHECK(false, "features must be float64, float32, float16 or bfloat16");
  }
}

}  // namespace

Features::Features(const Tensor& x) : type(dtype_of(x)) {
  STD_TORCH_CHECK(x.dim() == 4, "features must be (N, C, H, W)");
  const int64_t height = x.size(2), width = x.size(3);
  data = static_cast<char*>(x.data_ptr());
  images = x.size(0);
  channels = x.size(1);
  pixels = height * width;
  image_stride = x.stride(0);
  // Strides of axes of length 1 mean nothing.
  channel_stride = channels > 1 ? x.stride(1) : 1;
  pixel_stride = width > 1 ? x.stride(3) : height > 1 ? x.stride(2) : channels;
  const bool rows_join = width == 1 || height == 1 || x.stride(2) == width * x.stride(3);
  if (rows_join && channel_stride == 1 && (channels > 1 || pixel_stride != 1)) {
    layout = Layout::interleaved;
  } else {
    STD_TORCH_CHECK(rows_join && (pixel_stride == 1 || pixels == 1),
                    "features must be contiguous or channels_last within an image");
    layout = Layout::planar;
    pixel_stride = 1;
  }
}

Pyramid::Pyramid(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student) {
  STD_TORCH_CHECK(teacher.size() == student.size(), "teacher and student differ in their levels");
  int64_t elements = 0;
  for (const Tensor& s : student) elements += s.numel();
  const int64_t planar_block =
      std::clamp(elements / kPlanarBlocks, kShortestPlanar, kLongestPlanar);
  for (size_t i = 0; i < teacher.size(); ++i) {
    Level level{Features(teacher[i]), Features(student[i]), 0, 0, tasks_};
    const Features &t = level.teacher, &s = level.student;
    STD_TORCH_CHECK(t.images == s.images && t.channels == s.channels && t.pixels == s.pixels,
                    "teacher and student differ in shape at level ", i);
    const bool planar = s.layout == Layout::planar;
    const int64_t block = planar ? planar_block : kInterleaved;
    level.block = std::max<int64_t>(block / std::max<int64_t>(s.channels, 1), planar ? 16 : 1);
    level.block = std::max<int64_t>(std::min(level.block, s.pixels), 1);
    level.blocks = (s.pixels + level.block - 1) / level.block;
    tasks_ += s.images * level.blocks;
    largest_block_ = std::max(largest_block_, level.block * s.channels);
    largest_pixels_ = std::max(largest_pixels_, level.block);
    is_double_ = is_double_ || t.type == DType::float64 || s.type == DType::float64;
    levels_.push_back(level);
  }
}

}  // namespace fastad::cpu
