// Mean distance of a pyramid and its gradient for the student, in one sweep.
//
// Bytes: teacher and student are read once, the gradient is written once. Two sweeps would read
// both twice, and eager PyTorch reads and writes normalised copies besides. Levels as one vector
// each: flat_distances.cpp.

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "cpu/distances.h"

namespace fastad::cpu {
namespace {

// Of weights (N, H_l, W_l) the inverse of their sum over each image, 0 where that is 0.
template <class A>
std::vector<double> inverse_sums(const Tensor& weights) {
  std::vector<double> inverses;
  const int64_t pixels = weights.size(1) * weights.size(2);
  for (int64_t n = 0; n < weights.size(0); ++n) {
    if (n > 0 && weights.stride(0) == 0) {
      inverses.push_back(inverses[0]);
      continue;
    }
    const A* image = static_cast<const A*>(weights.data_ptr()) + n * weights.stride(0);
    double sum = 0;
    for (int64_t p = 0; p < pixels; ++p) sum += static_cast<double>(image[p]);
    inverses.push_back(sum > 0 ? 1 / sum : 0);
  }
  return inverses;
}

// The sum of the distances of each level, of which coefficients[level] times is its share in the
// loss. `scales` (L, N), where there are any, are factors of an image's. `gradients`: none, or the
// student's, or those and the teacher's.
template <class A>
std::vector<double> sum_distances(const Pyramid& pyramid, const std::vector<double>& coefficients,
                                  const std::vector<std::vector<double>>& scales, double eps,
                                  const std::vector<Tensor>& gradients) {
  const std::vector<Features> out(gradients.begin(), gradients.end());
  std::vector<double> partial_sums(pyramid.tasks());
  const size_t count = pyramid.levels().size();
  pyramid.for_each_block<A>(eps, [&](const Place& place, const Block<A>& block) {
    double sum = 0, coefficient = coefficients[place.level];
    const A* const weights = pyramid.weights<A>(place);
    if (weights == nullptr) {
      for (int64_t p = 0; p < block.pixels; ++p) sum += static_cast<double>(block.distances[p]);
    } else {
      const double scale = scales.empty() ? 1 : scales[place.level][place.image];
      for (int64_t p = 0; p < block.pixels; ++p) {
        sum += static_cast<double>(block.distances[p]) * static_cast<double>(weights[p]);
      }
      sum *= scale;
      coefficient *= scale;
    }
    partial_sums[place.task] = sum;
    if (out.empty()) return;
    std::fill_n(block.distances, block.pixels, static_cast<A>(coefficient));
    if (weights != nullptr) {
      for (int64_t p = 0; p < block.pixels; ++p) block.distances[p] *= weights[p];
    }
    for (size_t i = place.level; i < out.size(); i += count) {
      const Features& x = out[i];
      write_gradient(pyramid.levels()[place.level], block, x.at(place.image, place.pixel), x.type,
                     x.row_stride(), i >= count);
    }
  });
  // In the order of the blocks, whichever thread did them.
  std::vector<double> sums(count);
  for (size_t i = 0; i < count; ++i) {
    const int64_t end = i + 1 < count ? pyramid.levels()[i + 1].first_task : pyramid.tasks();
    for (int64_t task = pyramid.levels()[i].first_task; task < end; ++task) {
      sums[i] += partial_sums[task];
    }
  }
  return sums;
}

template <class A>
void store(const Tensor& out, const std::vector<double>& values) {
  std::copy(values.begin(), values.end(), static_cast<A*>(out.data_ptr()));
}

std::tuple<Tensor, std::vector<Tensor>> distillation_loss(
    std::vector<Tensor> teacher, std::vector<Tensor> student, std::vector<double> level_weights,
    int64_t reduction, double eps, bool gradient, OptionalTensors spatial_weights, int64_t distance,
    OptionalTensors channels, bool teacher_gradient) {
  check_features(teacher, student, eps);
  check_numbers("level_weights", level_weights, student.size());
  check_reduction(reduction);
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = weights_of(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(distance, channels, student, dtype, true);
  const std::vector<Tensor> gradients =
      loss_gradients(teacher, student, comparison, gradient, teacher_gradient);
  const Pyramid pyramid(teacher, student, weights, comparison, gradients);
  const auto& levels = pyramid.levels();
  std::vector<std::vector<double>> scales;
  std::vector<double> coefficients;
  for (size_t i = 0; i < levels.size(); ++i) {
    // The mean over an image's pixels lies in the scales where there are weights.
    const bool of_pixels = weights.empty() && !comparison.flat;
    const int64_t pixels = of_pixels ? levels[i].student.pixels : 1;
    const double positions = static_cast<double>(levels[i].student.images * pixels);
    coefficients.push_back(reduction == kSum ? level_weights[i] : level_weights[i] / positions);
  }
  if (reduction != kSum && !comparison.flat) {
    for (const Tensor& w : weights) {
      scales.push_back(pyramid.is_double() ? inverse_sums<double>(w) : inverse_sums<float>(w));
    }
  }
  std::vector<double> losses;
  if (comparison.flat) {
    losses = sum_flat_distances(pyramid, coefficients, eps, gradients);
  } else {
    losses = pyramid.is_double()
                 ? sum_distances<double>(pyramid, coefficients, scales, eps, gradients)
                 : sum_distances<float>(pyramid, coefficients, scales, eps, gradients);
  }
  for (size_t i = 0; i < levels.size(); ++i) {
    const bool empty = levels[i].student.images == 0;  // a mean over nothing is NaN, as in torch
    losses[i] = empty && reduction != kSum ? std::numeric_limits<double>::quiet_NaN()
                                           : losses[i] * coefficients[i];
  }
  Tensor loss;
  if (reduction == kNone) {
    loss = torch::stable::new_empty(student[0], {static_cast<int64_t>(losses.size())}, dtype);
  } else {
    double sum = 0;
    for (const double value : losses) sum += value;
    losses = {sum};
    loss = torch::stable::new_empty(student[0], {}, dtype);
  }
  pyramid.is_double() ? store<double>(loss, losses) : store<float>(loss, losses);
  return {loss, gradients};
}

void scale_gradients_(std::vector<Tensor> gradients, Tensor grad_loss) {
  check_scaling(gradients, grad_loss);
  grad_loss = as_contiguous(grad_loss);
  const bool is_double = grad_loss.scalar_type() == ScalarType::Double;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const int64_t index = grad_loss.dim() == 0 ? 0 : static_cast<int64_t>(i);
    const double factor = is_double ? static_cast<const double*>(grad_loss.data_ptr())[index]
                                    : static_cast<const float*>(grad_loss.data_ptr())[index];
    if (factor == 1.0) continue;
    char* const data = static_cast<char*>(gradients[i].data_ptr());
    const DType type = dtype_of(gradients[i]);
    const int64_t count = gradients[i].numel();
    constexpr int64_t kChunk = 16384;
    torch::stable::parallel_for(
        0, (count + kChunk - 1) / kChunk, 4, [&](int64_t begin, int64_t end) {
          const int64_t first = begin * kChunk, last = std::min(end * kChunk, count);
          scale(data + first * size_of(type), type, last - first, factor);
        });
  }
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("distillation_loss", TORCH_BOX(&fastad::cpu::distillation_loss));
  m.impl("scale_gradients_", TORCH_BOX(&fastad::cpu::scale_gradients_));
}
