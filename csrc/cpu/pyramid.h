// A feature pyramid as the CPU kernels see it: raw pointers, strides, blocks, and the walk over
// all blocks of all levels that every op on features shares.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "checks.h"
#include "cpu/distance_loops.h"
#include "parallel.h"

namespace fastad::cpu {

inline DType dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Half:
      return DType::float16;
    default:
      return DType::bfloat16;
  }
}

inline int64_t size_of(DType type) {
  return type == DType::float64 ? 8 : type == DType::float32 ? 4 : 2;
}

// (N, C, H, W) features. Strides as in `FeatureStrides`. Interleaved: the channels of a pixel lie
// side by side. Planar: the pixels of a channel do.
struct Features {
  char* data;
  DType type;
  Layout layout;
  int64_t images, channels, pixels;
  int64_t image_stride, pixel_stride, channel_stride;

  explicit Features(const Tensor& tensor);

  // Between rows of a block: channels where planar, pixels where interleaved.
  int64_t row_stride() const { return layout == Layout::planar ? channel_stride : pixel_stride; }
  void* at(int64_t image, int64_t pixel) const {
    return data + (image * image_stride + pixel * pixel_stride) * size_of(type);
  }
};

struct Level {
  Features teacher, student;
  Layout layout;                  // of the block's values: the gradient's where there is one
  int64_t block;                  // pixels in a block
  int64_t blocks;                 // blocks in an image
  int64_t first_task;             // tasks count the blocks of all images of all levels
  const void* weights = nullptr;  // (images, pixels), null for 1
  int64_t weights_stride = 0;     // from image to image
};

// One block's place, and what has been computed of it.
template <class A>
struct Block {
  int64_t task, level, image, pixel, pixels;
  Staged<A> teacher, student;
  A *t_inverse, *s_inverse, *distances;
  // s_hat . (s_hat - t_hat) where the student's norm counts, zero where it is clamped to eps.
  A* projection;
  const A* weights;  // of the pixels, null for 1
};

class Pyramid {
 public:
  // Of features that `check_features` passed, of what `check_spatial_weights` returned, and of the
  // student's gradients if there are any.
  Pyramid(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student,
          const std::vector<Tensor>& weights, const std::vector<Tensor>& gradients = {});

  const std::vector<Level>& levels() const { return levels_; }
  int64_t tasks() const { return tasks_; }
  // Arithmetic in double when any feature is double.
  bool is_double() const { return is_double_; }

  // Calls visit(block) for every block, on all threads, with its distances computed.
  template <class A, class Visit>
  void for_each_block(double eps, const Visit& visit) const;

 private:
  std::vector<Level> levels_;
  int64_t tasks_ = 0;
  int64_t largest_block_ = 0;   // channels * pixels
  int64_t largest_pixels_ = 0;  // pixels
  bool is_double_ = false;
};

template <class A, class Visit>
void Pyramid::for_each_block(double eps, const Visit& visit) const {
  parallel_for(0, tasks_, 1, [&](int64_t begin, int64_t end) {
    // Kept from call to call: fresh memory would cost more in page faults than the work in it.
    thread_local std::vector<A> values, of_pixel;
    if (static_cast<int64_t>(values.size()) < 2 * largest_block_) values.resize(2 * largest_block_);
    if (static_cast<int64_t>(of_pixel.size()) < 4 * largest_pixels_) {
      of_pixel.resize(4 * largest_pixels_);
    }
    int64_t index = 0;
    for (int64_t task = begin; task < end; ++task) {
      while (index + 1 < static_cast<int64_t>(levels_.size()) &&
             levels_[index + 1].first_task <= task) {
        ++index;
      }
      const Level& level = levels_[index];
      const Features &t = level.teacher, &s = level.student;
      const int64_t in_level = task - level.first_task;
      const int64_t image = in_level / level.blocks;
      const int64_t pixel = in_level % level.blocks * level.block;
      const int64_t pixels = std::min(level.block, t.pixels - pixel);
      A *t_inverse = of_pixel.data(), *s_inverse = t_inverse + largest_pixels_;
      A *distances = s_inverse + largest_pixels_, *projection = distances + largest_pixels_;

      const auto t_block = stage<A>(t.at(image, pixel), t.type, t.layout, t.row_stride(),
                                    level.layout, t.channels, pixels, values.data(), t_inverse);
      const auto s_block =
          stage<A>(s.at(image, pixel), s.type, s.layout, s.row_stride(), level.layout, s.channels,
                   pixels, values.data() + largest_block_, s_inverse);
      inverse_norms<A>(pixels, eps, t_inverse, s_inverse, projection);
      distance<A>(t_block, s_block, level.layout, s.channels, pixels, t_inverse, s_inverse,
                  distances);
      for (int64_t p = 0; p < pixels; ++p) {
        projection[p] = projection[p] < A(0) ? A(0) : projection[p] + distances[p];
      }
      const A* weights = static_cast<const A*>(level.weights);
      if (weights != nullptr) weights += image * level.weights_stride + pixel;
      visit(Block<A>{task, index, image, pixel, pixels, t_block, s_block, t_inverse, s_inverse,
                     distances, projection, weights});
    }
  });
}

}  // namespace fastad::cpu
