// Distance of flattened levels, a number an image and level, and its gradient for the student.
//
// A level of an image is one vector, so its norms are known only when all of it was read. Read once
// it is nevertheless: each block is compared as a vector of its own, and the distances of parts
// make that of the whole. With norms t_b, s_b and distance d_b of the parts, and t, s of the whole:
//
//     1/2 |t_hat - s_hat|^2 = sum_b 1/2 (t_b / t - s_b / s)^2 + t_b s_b / (t s) d_b
//
// No term cancels, so nearly equal levels keep their relative accuracy. The gradient is the same
// multiple of every element, and needs the norms: it takes a sweep of its own.
//
// As a loss, that is over one level of an image, directly after the norms and from the last block
// to the first: teacher and student still lie in a cache, 2 MB at most of ResNet-18's at 256x256.
// So teacher and student are read from memory once and the gradient is written once: 3 tensors of
// features, as with a distance of pixels. Few images leave threads without work. There, and where
// the upstream gradient of each image is known in a backward only, all norms come first: 5 tensors.
// Work: no more than of pixels, and a gradient without norms or distances of its own.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "cpu/distances.h"
#include "cpu/vector_loops.h"

namespace fastad::cpu {
namespace {

// A part whose norm is shorter has no direction, and too small a share in the whole to matter.
constexpr double kShortest = 1e-30;

// So many images a thread keep all threads busy where each image is the work of one.
constexpr int64_t kImagesOfThread = 2;

// Teacher and student as one vector each: their norms, and the distance of the normalised ones.
struct Pair {
  double t_norm = 0, s_norm = 0, distance = 0;
};

// The sum of a block's values times their weights, null for 1. In four sums, which do not wait for
// each other.
template <class A>
double weighted_sum(const A* values, const A* weights, int64_t count) {
  double sums[4] = {};
  for (int64_t p = 0; p < count; ++p) {
    const double weight = weights == nullptr ? 1 : static_cast<double>(weights[p]);
    sums[p % 4] += weight * static_cast<double>(values[p]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class A>
Pair compare_joined(const Pyramid& pyramid, const Place& place, Scratch<A>& scratch) {
  const Block<A> block = pyramid.read(place, scratch, false);
  const A t_norm = std::sqrt(square_sum(block.teacher.data, place.pixels));
  const A s_norm = std::sqrt(square_sum(block.student.data, place.pixels));
  const A t_inverse = t_norm < A(kShortest) ? A(0) : 1 / t_norm;
  const A s_inverse = s_norm < A(kShortest) ? A(0) : 1 / s_norm;
  return {
      t_norm, s_norm,
      vector_distance(block.teacher.data, block.student.data, place.pixels, t_inverse, s_inverse)};
}

template <class A>
Pair compare_block(const Pyramid& pyramid, const Place& place, Scratch<A>& scratch) {
  if (pyramid.levels()[place.level].is_joined) return compare_joined(pyramid, place, scratch);
  const Block<A> block = pyramid.read(place, scratch, true);
  const A* const weights = pyramid.weights<A>(place);
  const double t_norm = std::sqrt(weighted_sum(block.t_inverse, weights, block.pixels));
  const double s_norm = std::sqrt(weighted_sum(block.s_inverse, weights, block.pixels));
  block.set_inverses(static_cast<A>(t_norm < kShortest ? 0 : 1 / t_norm),
                     static_cast<A>(s_norm < kShortest ? 0 : 1 / s_norm));
  Pyramid::compare(pyramid.levels()[place.level], block);
  return {t_norm, s_norm, weighted_sum(block.distances, weights, block.pixels)};
}

// A part's share in the norm of the whole, 0 where that is infinite: as of a pixel, whose vector
// counts as zeros where the sum of its squares is too large.
double share(double norm, double whole) { return std::isinf(whole) ? 0 : norm / whole; }

Pair join(const Pair* parts, int64_t count, double eps) {
  double t_squares = 0, s_squares = 0;
  for (int64_t b = 0; b < count; ++b) {
    t_squares += parts[b].t_norm * parts[b].t_norm;
    s_squares += parts[b].s_norm * parts[b].s_norm;
  }
  Pair whole{.t_norm = std::sqrt(t_squares), .s_norm = std::sqrt(s_squares)};
  const double t = whole.t_norm < eps ? eps : whole.t_norm;
  const double s = whole.s_norm < eps ? eps : whole.s_norm;
  for (int64_t b = 0; b < count; ++b) {
    const double t_share = share(parts[b].t_norm, t), s_share = share(parts[b].s_norm, s);
    const double longer = t_share - s_share;
    whole.distance += 0.5 * longer * longer + t_share * s_share * parts[b].distance;
  }
  return whole;
}

// What a level of an image is made of, in the order of its blocks.
Pair join_image(const Pyramid& pyramid, const std::vector<Pair>& parts, int64_t index,
                int64_t image, double eps) {
  const Level& level = pyramid.levels()[index];
  return join(parts.data() + level.first_task + image * level.blocks, level.blocks, eps);
}

template <class A>
void forward(const Pyramid& pyramid, double eps, const Tensor& distances, const Tensor& norms) {
  std::vector<Pair> parts(pyramid.tasks());
  pyramid.for_each_place<A>([&](const Place& place, Scratch<A>& scratch) {
    parts[place.task] = compare_block(pyramid, place, scratch);
  });
  A* const distance = static_cast<A*>(distances.data_ptr());
  A* const t_norm = static_cast<A*>(norms.data_ptr());
  A* const s_norm = t_norm + distances.numel();
  const int64_t images = pyramid.levels()[0].student.images;
  for (int64_t i = 0; i < distances.numel(); ++i) {
    const Pair whole = join_image(pyramid, parts, i / images, i % images, eps);
    distance[i] = static_cast<A>(whole.distance);
    t_norm[i] = static_cast<A>(whole.t_norm);
    s_norm[i] = static_cast<A>(whole.s_norm);
  }
}

// Gradients as the levels' blocks are read.
std::vector<Features> outs_of(const Pyramid& pyramid, const std::vector<Tensor>& gradients) {
  std::vector<Features> outs(gradients.begin(), gradients.end());
  for (size_t i = 0; i < outs.size(); ++i) {
    if (pyramid.levels()[i % pyramid.levels().size()].is_joined) outs[i].join();
  }
  return outs;
}

// A level of an image as one vector, and what its gradients are made of.
template <class A>
struct Whole {
  A t_inverse, s_inverse;
  // s_hat . (s_hat - t_hat) and t_hat . (t_hat - s_hat). A clamped norm is a constant: the gradient
  // has no part through it.
  A projection, t_projection;
  A upstream;

  Whole(A t_norm, A s_norm, A distance, A upstream, A eps)
      : t_inverse(A(1) / (t_norm < eps ? eps : t_norm)),
        s_inverse(A(1) / (s_norm < eps ? eps : s_norm)),
        upstream(upstream) {
    const auto length = [eps](A norm, A inverse) {
      return inverse == A(0) ? A(0) : norm < eps ? norm * inverse : A(1);
    };
    const A t_hat = length(t_norm, t_inverse), s_hat = length(s_norm, s_inverse);
    projection = s_norm < eps ? A(0) : distance + A(0.5) * (A(1) - t_hat * t_hat);
    t_projection = t_norm < eps ? A(0) : distance + A(0.5) * (A(1) - s_hat * s_hat);
  }
};

// Writes the gradient of a block. `outs`: one a level, or two, the second for the teacher.
template <class A>
void differentiate(const Pyramid& pyramid, const Place& place, Scratch<A>& scratch,
                   const Whole<A>& whole, const std::vector<Features>& outs, bool past_cache) {
  const Level& level = pyramid.levels()[place.level];
  const Block<A> block = pyramid.read(place, scratch, false);
  const size_t count = pyramid.levels().size();
  if (level.is_joined) {  // as `write_gradient` does it, with one scale for all
    const A *t = block.teacher.data, *s = block.student.data;
    A own = whole.s_inverse, other = whole.t_inverse, projection = whole.projection;
    for (size_t i = place.level; i < outs.size(); i += count) {
      const A factor = whole.upstream * own;
      vector_gradient<A>(t, s, place.pixels, other * factor, own * (factor * (A(1) - projection)),
                         outs[i].at(place.image, place.pixel), outs[i].type, past_cache);
      std::swap(t, s), std::swap(own, other), projection = whole.t_projection;
    }
    return;
  }
  block.set_inverses(whole.t_inverse, whole.s_inverse);
  block.set_projections(whole.projection, whole.t_projection);
  std::fill_n(block.distances, block.pixels, whole.upstream);
  if (const A* const weights = pyramid.weights<A>(place); weights != nullptr) {
    for (int64_t p = 0; p < block.pixels; ++p) {
      block.distances[p] = weights[p] == A(0) ? A(0) : weights[p] * whole.upstream;
    }
  }
  for (size_t i = place.level; i < outs.size(); i += count) {
    const Features& out = outs[i];
    write_gradient(level, block, out.at(place.image, place.pixel), out.type, out.row_stride(),
                   i >= count);
  }
}

// Whether gradients are so large that a cache keeps little of them until they are read.
bool are_large(const std::vector<Features>& outs) {
  constexpr int64_t kLarge = int64_t{8} << 20;
  int64_t bytes = 0;
  for (const Features& x : outs) bytes += x.images * x.channels * x.pixels * size_of(x.type);
  return bytes >= kLarge;
}

template <class A>
void backward(const Pyramid& pyramid, A eps, const A* grad, const A* distances, const A* norms,
              const std::vector<Tensor>& gradients) {
  const std::vector<Features> outs = outs_of(pyramid, gradients);
  const int64_t images = pyramid.levels()[0].student.images;
  const auto all = static_cast<int64_t>(outs.size()) * images;
  const bool past_cache = are_large(outs);
  const auto sweep = [&](const Place& place, Scratch<A>& scratch) {
    const int64_t i = place.level * images + place.image;
    const Whole<A> whole(norms[i], norms[all + i], distances[i], grad[i], eps);
    differentiate(pyramid, place, scratch, whole, outs, past_cache);
  };
  pyramid.for_each_place<A>(sweep, kBackwards);
}

template <class A>
std::vector<double> sum_and_differentiate(const Pyramid& pyramid,
                                          const std::vector<double>& coefficients, double eps,
                                          const std::vector<Tensor>& gradients) {
  const std::vector<Features> outs = outs_of(pyramid, gradients);
  const auto& levels = pyramid.levels();
  const int64_t images = levels[0].student.images;
  const bool past_cache = are_large(outs);
  std::vector<Pair> parts(pyramid.tasks()), wholes(levels.size() * images);
  const auto compare = [&](const Place& place, Scratch<A>& scratch) {
    parts[place.task] = compare_block(pyramid, place, scratch);
  };
  const auto join = [&](int64_t level, int64_t image) {
    wholes[level * images + image] = join_image(pyramid, parts, level, image, eps);
  };
  const auto write = [&](const Place& place, Scratch<A>& scratch) {
    const Pair& pair = wholes[place.level * images + place.image];
    const Whole<A> whole(static_cast<A>(pair.t_norm), static_cast<A>(pair.s_norm),
                         static_cast<A>(pair.distance), static_cast<A>(coefficients[place.level]),
                         static_cast<A>(eps));
    differentiate(pyramid, place, scratch, whole, outs, past_cache);
  };
  if (images >= kImagesOfThread * thread_count()) {
    pyramid.for_each_image<A>([&](int64_t level, int64_t image, Scratch<A>& scratch) {
      const int64_t blocks = levels[level].blocks;
      for (int64_t b = 0; b < blocks; ++b) compare(pyramid.place(level, image, b), scratch);
      join(level, image);
      if (outs.empty()) return;
      for (int64_t b = blocks; b-- > 0;) write(pyramid.place(level, image, b), scratch);
    });
  } else {
    pyramid.for_each_place<A>(compare);
    for (size_t l = 0; l < levels.size(); ++l) {
      for (int64_t image = 0; image < images; ++image) join(static_cast<int64_t>(l), image);
    }
    if (!outs.empty()) pyramid.for_each_place<A>(write, kBackwards);
  }
  std::vector<double> sums(levels.size());
  for (size_t i = 0; i < wholes.size(); ++i) sums[i / images] += wholes[i].distance;
  return sums;
}

std::tuple<Tensor, Tensor> flat_distances(std::vector<Tensor> teacher, std::vector<Tensor> student,
                                          double eps, OptionalTensors spatial_weights,
                                          OptionalTensors channels) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(kCosineFlat, channels, student, dtype, true);
  const Pyramid pyramid(teacher, student, weights, comparison);
  const auto levels = static_cast<int64_t>(student.size());
  const int64_t images = student[0].size(0);
  const Tensor distances = torch::stable::new_empty(student[0], {levels, images}, dtype);
  const Tensor norms = torch::stable::new_empty(student[0], {2, levels, images}, dtype);
  pyramid.is_double() ? forward<double>(pyramid, eps, distances, norms)
                      : forward<float>(pyramid, eps, distances, norms);
  return {distances, norms};
}

std::vector<Tensor> flat_distances_backward(Tensor grad, Tensor distances, Tensor norms,
                                            std::vector<Tensor> teacher,
                                            std::vector<Tensor> student, double eps,
                                            OptionalTensors spatial_weights,
                                            OptionalTensors channels) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  check_flat_gradients(grad, distances, norms, student, dtype);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(kCosineFlat, channels, student, dtype, true);
  grad = as_contiguous(grad), distances = as_contiguous(distances), norms = as_contiguous(norms);
  std::vector<Tensor> gradients = empty_gradients(student);
  const Pyramid pyramid(teacher, student, weights, comparison, gradients);
  const auto sweep = [&](auto x) {
    using A = decltype(x);
    backward<A>(pyramid, static_cast<A>(eps), static_cast<const A*>(grad.data_ptr()),
                static_cast<const A*>(distances.data_ptr()),
                static_cast<const A*>(norms.data_ptr()), gradients);
  };
  pyramid.is_double() ? sweep(double{}) : sweep(float{});
  return gradients;
}

}  // namespace

std::vector<double> sum_flat_distances(const Pyramid& pyramid,
                                       const std::vector<double>& coefficients, double eps,
                                       const std::vector<Tensor>& gradients) {
  return pyramid.is_double() ? sum_and_differentiate<double>(pyramid, coefficients, eps, gradients)
                             : sum_and_differentiate<float>(pyramid, coefficients, eps, gradients);
}

}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("flat_distances", TORCH_BOX(&fastad::cpu::flat_distances));
  m.impl("flat_distances_backward", TORCH_BOX(&fastad::cpu::flat_distances_backward));
}
