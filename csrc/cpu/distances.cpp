// Distance of normalised features per pixel, and its gradient for the student.
//
// Weights multiply the distances of a block while it is in the cache.
//
// Work: per element 2 squares, 1 difference, 1 square, all in cache after one read. Bytes: teacher
// and student once (3.67 MB an image for the float32 pyramid of ResNet-18 at 256x256), 21 KB out;
// the floor is what one sum over the same bytes takes. Weights add
// the 21 KB that are written, or once for all images.

#include "cpu/distances.h"

#include <torch/csrc/stable/library.h>

#include <limits>

#include "instruction_set.h"

namespace fastad::cpu {
namespace {

template <class A>
void forward(const Pyramid& pyramid, double eps, std::vector<Tensor>& out) {
  pyramid.for_each_block<A>(eps, [&](const Block<A>& block) {
    const int64_t pixels = pyramid.levels()[block.level].student.pixels;
    A* map = static_cast<A*>(out[block.level].data_ptr()) + block.image * pixels + block.pixel;
    if (block.weights == nullptr) {
      std::copy_n(block.distances, block.pixels, map);
    } else {
      for (int64_t p = 0; p < block.pixels; ++p) map[p] = block.distances[p] * block.weights[p];
    }
  });
}

template <class A>
void backward(const Pyramid& pyramid, double eps, const std::vector<Tensor>& grad,
              const std::vector<Tensor>& gradients) {
  const std::vector<Features> out(gradients.begin(), gradients.end());
  pyramid.for_each_block<A>(eps, [&](const Block<A>& block) {
    const int64_t pixels = pyramid.levels()[block.level].student.pixels;
    const A* upstream =
        static_cast<const A*>(grad[block.level].data_ptr()) + block.image * pixels + block.pixel;
    std::copy_n(upstream, block.pixels, block.distances);
    if (block.weights != nullptr) {
      // 0 also where the gradient of a map, as of its square root at 0, is infinite.
      for (int64_t p = 0; p < block.pixels; ++p) {
        const A weight = block.weights[p];
        block.distances[p] = weight == A(0) ? A(0) : weight * block.distances[p];
      }
    }
    write_gradient(pyramid, block, out[block.level]);
  });
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
                              OptionalTensors spatial_weights) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  const Pyramid pyramid(teacher, student, weights);
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
                                       OptionalTensors spatial_weights) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  check_distance_gradients(grad, student, dtype);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  for (Tensor& g : grad) g = as_contiguous(g);
  std::vector<Tensor> gradients = empty_gradients(student);
  const Pyramid pyramid(teacher, student, weights, gradients);
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
