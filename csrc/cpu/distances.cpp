// Distance of normalised features per pixel, and its gradient for the student.
//
// Weights multiply the distances of a block while it is in the cache. The gradient of a pixel is 0
// where its upstream gradient is 0, whatever its features are.
//
// Work: per element 2 squares, 1 difference, 1 square, all in cache after one read. Bytes: teacher
// and student once (3.67 MB an image for the float32 pyramid of ResNet-18 at 256x256), 21 KB out;
// the floor is what one sum over the same bytes takes. Weights add
// the 21 KB that are written, or once for all images. A standard of the channels adds none: it is
// applied in each pass over the block. Vectors compared as they are (l2) take one pass, not two.

#include "cpu/distances.h"

#include <torch/csrc/stable/library.h>

#include <limits>

#include "cpu/few_pixels.h"
#include "instruction_set.h"

namespace fastad::cpu {
namespace {

template <class A>
void forward(const Pyramid& pyramid, double eps, std::vector<Tensor>& out) {
  pyramid.for_each_block<A>(eps, [&](const Place& place, const Block<A>& block) {
    const int64_t pixels = pyramid.levels()[place.level].student.pixels;
    A* map = static_cast<A*>(out[place.level].data_ptr()) + place.image * pixels + place.pixel;
    const A* const weights = pyramid.weights<A>(place);
    if (weights == nullptr) {
      std::copy_n(block.distances, block.pixels, map);
    } else {
      for (int64_t p = 0; p < block.pixels; ++p) map[p] = block.distances[p] * weights[p];
    }
  });
}

// Where at most this share of a block's pixels has an upstream gradient, they are gathered, and the
// other features are not read: a cache line of one channel holds 16 pixels.
constexpr int64_t kFew = 16;

// A thread's memory for the few pixels of a block that have an upstream gradient.
template <class A>
struct FewPixels {
  std::vector<A> upstream;  // of all pixels of the block, then of the few
  std::vector<int64_t> places;
  std::vector<char> teacher, student, gradient;
};

// Their features -> their gradient, through memory in which they lie side by side.
template <class A>
void backward_of_few(const Pyramid& pyramid, const Place& place, double eps, FewPixels<A>& few,
                     Scratch<A>& scratch, const Features& out) {
  const Level& level = pyramid.levels()[place.level];
  const auto count = static_cast<int64_t>(few.places.size());
  const auto side_by_side = [&](const Features& x) {
    return x.layout == Layout::planar ? count : x.channels;
  };
  const auto gather = [&](const Features& x, std::vector<char>& to) {
    to.resize(count * x.channels * size_of(x.type));
    gather_pixels(x.at(place.image, place.pixel), x.type, x.layout, x.row_stride(), x.channels,
                  few.places.data(), count, to.data());
    return Source{to.data(), side_by_side(x)};
  };
  const Source t = gather(level.teacher, few.teacher), s = gather(level.student, few.student);
  const Block<A> block = pyramid.compute(level, t, s, count, eps, scratch);
  for (int64_t k = 0; k < count; ++k) block.distances[k] = few.upstream[few.places[k]];
  few.gradient.resize(count * out.channels * size_of(out.type));
  write_gradient(level, block, few.gradient.data(), out.type, side_by_side(out));
  scatter_pixels(few.gradient.data(), out.type, out.layout, out.row_stride(), out.channels,
                 few.places.data(), count, out.at(place.image, place.pixel));
}

template <class A>
void backward(const Pyramid& pyramid, double eps, const std::vector<Tensor>& grad,
              const std::vector<Tensor>& gradients) {
  const std::vector<Features> outs(gradients.begin(), gradients.end());
  const auto sweep = [&](const Place& place, Scratch<A>& scratch) {
    thread_local FewPixels<A> few;
    const Level& level = pyramid.levels()[place.level];
    const Features& out = outs[place.level];
    const A* upstream = static_cast<const A*>(grad[place.level].data_ptr()) +
                        place.image * level.student.pixels + place.pixel;
    few.upstream.assign(upstream, upstream + place.pixels);
    if (const A* const weights = pyramid.weights<A>(place); weights != nullptr) {
      // 0 also where the gradient of a map, as of its square root at 0, is infinite.
      for (int64_t p = 0; p < place.pixels; ++p) {
        few.upstream[p] = weights[p] == A(0) ? A(0) : weights[p] * few.upstream[p];
      }
    }
    const int64_t most = place.pixels / kFew;
    few.places.clear();
    for (int64_t p = 0; p < place.pixels; ++p) {
      if (few.upstream[p] == A(0)) continue;
      if (static_cast<int64_t>(few.places.size()) == most) {
        const Block<A> block = pyramid.compute(place, eps, scratch);
        std::copy_n(few.upstream.data(), place.pixels, block.distances);
        return write_gradient(level, block, out.at(place.image, place.pixel), out.type,
                              out.row_stride());
      }
      few.places.push_back(p);
    }
    clear_pixels(out.type, out.layout, out.row_stride(), out.channels, place.pixels,
                 out.at(place.image, place.pixel));
    if (!few.places.empty()) backward_of_few(pyramid, place, eps, few, scratch, out);
  };
  pyramid.for_each_place<A>(sweep, kBackwards);
}

template <class A>
FASTAD_INLINE bool all_count(const A* weights, int64_t count) {
  int bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    bad |= !(weights[i] >= A(0) && weights[i] <= std::numeric_limits<A>::max());
  }
  return bad == 0;
}

template <class A>
bool are_weights(const Tensor& weights) {
  const int64_t images = weights.stride(0) == 0 && weights.size(0) > 0 ? 1 : weights.size(0);
  const int64_t pixels = weights.size(1) * weights.size(2);
  const A* data = static_cast<const A*>(weights.data_ptr());
  bool result = true;
  for (int64_t n = 0; n < images; ++n) {
    result &= dispatch<all_count<A>>(data + n * weights.stride(0), pixels);
  }
  return result;
}

}  // namespace

std::vector<Tensor> weights_of(const OptionalTensors& spatial_weights,
                               const std::vector<Tensor>& student, ScalarType dtype) {
  std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  for (size_t i = 0; i < weights.size(); ++i) {
    STD_TORCH_CHECK(dtype == ScalarType::Double ? are_weights<double>(weights[i])
                                                : are_weights<float>(weights[i]),
                    "spatial_weights[", i, "] must be finite and at least 0");
  }
  return weights;
}

std::vector<Tensor> distances(std::vector<Tensor> teacher, std::vector<Tensor> student, double eps,
                              OptionalTensors spatial_weights, int64_t distance,
                              OptionalTensors channels) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(distance, channels, student, dtype);
  const Pyramid pyramid(teacher, student, weights, comparison);
  std::vector<Tensor> out;
  for (const Tensor& s : student) {
    out.push_back(torch::stable::new_empty(s, {s.size(0), s.size(2), s.size(3)}, dtype));
  }
  pyramid.is_double() ? forward<double>(pyramid, eps, out) : forward<float>(pyramid, eps, out);
  return out;
}

namespace {

std::vector<Tensor> distances_backward(std::vector<Tensor> grad, std::vector<Tensor> teacher,
                                       std::vector<Tensor> student, double eps,
                                       OptionalTensors spatial_weights, int64_t distance,
                                       OptionalTensors channels) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  check_distance_gradients(grad, student, dtype);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(distance, channels, student, dtype);
  for (Tensor& g : grad) g = as_contiguous(g);
  std::vector<Tensor> gradients = empty_gradients(student);
  const Pyramid pyramid(teacher, student, weights, comparison, gradients);
  pyramid.is_double() ? backward<double>(pyramid, eps, grad, gradients)
                      : backward<float>(pyramid, eps, grad, gradients);
  return gradients;
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("distances", TORCH_BOX(&fastad::cpu::distances));
  m.impl("distances_backward", TORCH_BOX(&fastad::cpu::distances_backward));
}
