// A feature pyramid as the CPU kernels see it: raw pointers, strides, blocks, and the walk over
// all blocks of all levels that every op on features shares.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
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

  // Whether the elements of an image lie side by side.
  bool is_dense() const;
  // From now on the elements of an image, which is dense, are pixels of one channel each, in the
  // order of memory.
  void join();
};

struct Level {
  Features teacher, student;
  Layout layout;                   // of the block's values: the gradient's where there is one
  int64_t block;                   // pixels in a block
  int64_t blocks;                  // blocks in an image
  int64_t first_task;              // tasks count the blocks of all images of all levels
  const void* weights = nullptr;   // (images, pixels), null for 1
  int64_t weights_stride = 0;      // from image to image
  const void* channels = nullptr;  // (2, channels), as in `Comparison`; null for none
  bool is_joined = false;          // an image is one vector, whose order does not matter
};

// Consecutive pixels of an image.
struct Place {
  int64_t task, level, image, pixel, pixels;
};

// Features of some pixels in memory, as `stage` reads them.
struct Source {
  const void* data;
  int64_t stride;
};

// What has been computed of a block of pixels.
template <class A>
struct Block {
  int64_t pixels;
  Staged<A> teacher, student;
  // Inverse norms. Where vectors are compared as they are, the root of the distance's factor.
  A *t_inverse, *s_inverse, *distances;
  // s_hat . (s_hat - t_hat) where the student's norm counts, zero where it is clamped to eps; and
  // t_hat . (t_hat - s_hat).
  A *projection, *t_projection;
  A* other_scale;  // room for the gradient's

  // The same for all pixels.
  void set_inverses(A teacher, A student) const {
    std::fill_n(t_inverse, pixels, teacher);
    std::fill_n(s_inverse, pixels, student);
  }
  void set_projections(A of_student, A of_teacher) const {
    std::fill_n(projection, pixels, of_student);
    std::fill_n(t_projection, pixels, of_teacher);
  }
};

// Memory of a thread for one block after the other.
template <class A>
struct Scratch {
  std::vector<A> values, of_pixel;
};

// The order of a second sweep: it finds in the cache what the first read last.
constexpr bool kBackwards = true;

class Pyramid {
 public:
  // Of features that `check_features` passed, of what the other checks returned, which must live
  // on, and of the student's gradients if there are any.
  Pyramid(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student,
          const std::vector<Tensor>& weights, const Comparison& comparison,
          const std::vector<Tensor>& gradients = {});

  const std::vector<Level>& levels() const { return levels_; }
  int64_t tasks() const { return tasks_; }
  // Arithmetic in double when any feature is double.
  bool is_double() const { return is_double_; }

  // The block of an image, counted within it.
  Place place(int64_t level, int64_t image, int64_t block) const;

  // Calls visit(place, scratch) for every block, on all threads, or from the last one to the first.
  template <class A, class Visit>
  void for_each_place(const Visit& visit, bool backwards = false) const;
  // Calls visit(level, image, scratch) for every level of one image after the other. Each is the
  // work of one thread.
  template <class A, class Visit>
  void for_each_image(const Visit& visit) const;

  // A block's features. In place of inverse norms it has, where `squares` asks for them, the square
  // sums of the pixels. The rest is room.
  template <class A>
  Block<A> read(const Place& place, Scratch<A>& scratch, bool squares) const;
  // Those of pixels of the level, which lie elsewhere.
  template <class A>
  Block<A> read(const Level& level, Source teacher, Source student, int64_t pixels,
                Scratch<A>& scratch, bool squares) const;
  // Sets a block's distances from its features and inverse norms.
  template <class A>
  static void compare(const Level& level, const Block<A>& block);

  // The distances of a block's pixels.
  template <class A>
  Block<A> compute(const Place& place, double eps, Scratch<A>& scratch) const;
  // Those of pixels of the level, which lie elsewhere.
  template <class A>
  Block<A> compute(const Level& level, Source teacher, Source student, int64_t pixels, double eps,
                   Scratch<A>& scratch) const;

  // Calls visit(place, block) for every block, on all threads, with its distances computed.
  template <class A, class Visit>
  void for_each_block(double eps, const Visit& visit) const {
    for_each_place<A>([&](const Place& place, Scratch<A>& scratch) {
      visit(place, compute(place, eps, scratch));
    });
  }

  // Spatial weights of a block's pixels, null for 1.
  template <class A>
  const A* weights(const Place& place) const {
    const Level& level = levels_[place.level];
    if (level.weights == nullptr) return nullptr;
    return static_cast<const A*>(level.weights) + place.image * level.weights_stride + place.pixel;
  }

 private:
  // A thread's memory for a block.
  template <class A>
  Scratch<A>& scratch() const;

  // A block in the accumulation type. Its pixels' square sums are computed where `squares` asks for
  // them; what lies right already is not read for nothing.
  template <class A>
  static Staged<A> staged(const Features& x, Source source, const Level& level, int64_t pixels,
                          A* scratch, A* square_sums, bool squares);

  std::vector<Level> levels_;
  bool l2_ = false;
  int64_t tasks_ = 0;
  int64_t largest_block_ = 0;   // channels * pixels
  int64_t largest_pixels_ = 0;  // pixels
  bool is_double_ = false;
};

// Kept from call to call: fresh memory would cost more in page faults than the work in it.
template <class A>
Scratch<A>& Pyramid::scratch() const {
  thread_local Scratch<A> scratch;
  if (static_cast<int64_t>(scratch.values.size()) < 2 * largest_block_) {
    scratch.values.resize(2 * largest_block_);
  }
  if (static_cast<int64_t>(scratch.of_pixel.size()) < 6 * largest_pixels_) {
    scratch.of_pixel.resize(6 * largest_pixels_);
  }
  return scratch;
}

template <class A, class Visit>
void Pyramid::for_each_place(const Visit& visit, bool backwards) const {
  parallel_for(0, tasks_, 1, [&](int64_t begin, int64_t end) {
    Scratch<A>& memory = scratch<A>();
    int64_t index = 0;
    for (int64_t turn = begin; turn < end; ++turn) {
      const int64_t task = backwards ? tasks_ - 1 - turn : turn;
      if (backwards) index = 0;
      while (index + 1 < static_cast<int64_t>(levels_.size()) &&
             levels_[index + 1].first_task <= task) {
        ++index;
      }
      const Level& level = levels_[index];
      const int64_t in_level = task - level.first_task;
      visit(place(index, in_level / level.blocks, in_level % level.blocks), memory);
    }
  });
}

template <class A, class Visit>
void Pyramid::for_each_image(const Visit& visit) const {
  const auto count = static_cast<int64_t>(levels_.size());
  parallel_for(0, levels_[0].student.images * count, 1, [&](int64_t begin, int64_t end) {
    Scratch<A>& memory = scratch<A>();
    for (int64_t i = begin; i < end; ++i) visit(i % count, i / count, memory);
  });
}

template <class A>
Block<A> Pyramid::compute(const Place& place, double eps, Scratch<A>& scratch) const {
  const Level& level = levels_[place.level];
  const Features &t = level.teacher, &s = level.student;
  return compute(level, {t.at(place.image, place.pixel), t.row_stride()},
                 {s.at(place.image, place.pixel), s.row_stride()}, place.pixels, eps, scratch);
}

template <class A>
Block<A> Pyramid::read(const Place& place, Scratch<A>& scratch, bool squares) const {
  const Level& level = levels_[place.level];
  const Features &t = level.teacher, &s = level.student;
  return read(level, {t.at(place.image, place.pixel), t.row_stride()},
              {s.at(place.image, place.pixel), s.row_stride()}, place.pixels, scratch, squares);
}

template <class A>
Block<A> Pyramid::read(const Level& level, Source teacher, Source student, int64_t pixels,
                       Scratch<A>& scratch, bool squares) const {
  A* of_pixel[6];
  for (int i = 0; i < 6; ++i) of_pixel[i] = scratch.of_pixel.data() + i * largest_pixels_;
  const auto [t_inverse, s_inverse, distances, projection, t_projection, room] = of_pixel;
  A *const first = scratch.values.data(), *const second = first + largest_block_;
  const bool plain = squares && level.channels == nullptr;
  auto t_block = staged(level.teacher, teacher, level, pixels, first, t_inverse, plain);
  t_block.standard = static_cast<const A*>(level.channels);
  if (squares && level.channels != nullptr) {
    standard_squares<A>(t_block, level.layout, level.student.channels, pixels, t_inverse);
  }
  const auto s_block = staged(level.student, student, level, pixels, second, s_inverse, squares);
  return {pixels,    t_block,    s_block,      t_inverse, s_inverse,
          distances, projection, t_projection, room};
}

template <class A>
void Pyramid::compare(const Level& level, const Block<A>& block) {
  distance<A>(block.teacher, block.student, level.layout, level.student.channels, block.pixels,
              block.t_inverse, block.s_inverse, block.distances);
}

template <class A>
Block<A> Pyramid::compute(const Level& level, Source teacher, Source student, int64_t pixels,
                          double eps, Scratch<A>& scratch) const {
  const Block<A> block = read(level, teacher, student, pixels, scratch, !l2_);
  if (l2_) {
    block.set_inverses(A(1), A(1));
    compare(level, block);
    // Times 2 / C: the mean over channels. The gradient is what that of the distance of x / |x|
    // is where both norms are constants, the root of C / 2.
    const A factor = A(2) / static_cast<A>(level.student.channels);
    block.set_inverses(std::sqrt(factor), std::sqrt(factor));
    for (int64_t p = 0; p < pixels; ++p) block.distances[p] *= factor;
    block.set_projections(A(0), A(0));
    return block;
  }
  A *const projection = block.projection, *const t_projection = block.t_projection;
  inverse_norms<A>(pixels, eps, block.t_inverse, block.s_inverse, projection, t_projection);
  compare(level, block);
  const A* const distances = block.distances;
  for (int64_t p = 0; p < pixels; ++p) {
    projection[p] = projection[p] < A(0) ? A(0) : projection[p] + distances[p];
    t_projection[p] = t_projection[p] < A(0) ? A(0) : t_projection[p] + distances[p];
  }
  return block;
}

template <class A>
Staged<A> Pyramid::staged(const Features& x, Source source, const Level& level, int64_t pixels,
                          A* scratch, A* square_sums, bool squares) {
  const DType accumulated = sizeof(A) == 8 ? DType::float64 : DType::float32;
  if (!squares && x.type == accumulated && x.layout == level.layout) {
    return {static_cast<const A*>(source.data), source.stride};
  }
  return stage<A>(source.data, x.type, x.layout, source.stride, level.layout, x.channels, pixels,
                  scratch, square_sums);
}

}  // namespace fastad::cpu
