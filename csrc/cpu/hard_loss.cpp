// The loss of the hard distances of each level, those at or above a quantile of the batch, and its
// gradient, which is 0 at most places.
//
// Bytes: the distances once, the gradient once, 0.3 MB together for 8 images of 256x256.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstring>
#include <limits>
#include <tuple>

#include "checks.h"
#include "cpu/highest.h"

namespace fastad::cpu {
namespace {

// A level's distances of weights above 0, and their places.
template <class A>
struct Weighted {
  std::vector<A> values, weights;
  std::vector<int64_t> places;

  Weighted(const A* maps, const Tensor& of, int64_t images, int64_t pixels) {
    for (int64_t n = 0; n < images; ++n) {
      const A* const image = static_cast<const A*>(of.data_ptr()) + n * of.stride(0);
      for (int64_t p = 0; p < pixels; ++p) {
        STD_TORCH_CHECK(image[p] >= A(0) && image[p] <= std::numeric_limits<A>::max(),
                        "spatial_weights must be finite and at least 0");
        if (image[p] == A(0)) continue;
        values.push_back(maps[n * pixels + p]);
        weights.push_back(image[p]);
        places.push_back(n * pixels + p);
      }
    }
  }
};

// The loss of a level's maps (N, H_l, W_l), the mean or the sum of its hard distances. `gradient`
// becomes that of `factor` times it. `weights`: none for 1.
template <class A>
double level_loss(const Tensor& maps, const Tensor* weights, double hard, bool mean, double factor,
                  const Tensor& gradient) {
  const A* values = static_cast<const A*>(maps.data_ptr());
  A* const out = static_cast<A*>(gradient.data_ptr());
  int64_t size = maps.numel();
  if (size == 0) return mean ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  std::memset(out, 0, size * sizeof(A));
  std::optional<Weighted<A>> chosen;
  if (weights != nullptr) {
    chosen.emplace(values, *weights, maps.size(0), maps.size(1) * maps.size(2));
    values = chosen->values.data();
    size = static_cast<int64_t>(chosen->values.size());
    if (size == 0) return 0;
  }
  // Of M distances in ascending order the quantile has the index ceil(hard * (M - 1)).
  const auto index = static_cast<int64_t>(std::ceil(hard * static_cast<double>(size - 1)));
  thread_local HighestRoom<A> room;
  const A quantile = highest(values, size, size - index, room);
  double sum = 0, share = 0;
  std::vector<int64_t> places;
  for_each_from(values, size, quantile, room, [&](int64_t i) {
    const double weight = chosen.has_value() ? static_cast<double>(chosen->weights[i]) : 1.0;
    sum += weight * static_cast<double>(values[i]);
    share += weight;
    places.push_back(i);
  });
  if (!mean) share = 1;
  factor /= share;
  for (const int64_t i : places) {
    if (chosen.has_value()) {
      out[chosen->places[i]] = static_cast<A>(factor * static_cast<double>(chosen->weights[i]));
    } else {
      out[i] = static_cast<A>(factor);
    }
  }
  return sum / share;
}

std::tuple<Tensor, std::vector<Tensor>> hard_loss(std::vector<Tensor> maps,
                                                  std::vector<double> level_weights, double hard,
                                                  int64_t reduction,
                                                  OptionalTensors spatial_weights) {
  check_maps(maps, level_weights);
  check_reduction(reduction);
  STD_TORCH_CHECK(hard >= 0 && hard < 1, "hard must be at least 0 and below 1, not ", hard);
  const ScalarType dtype = maps[0].scalar_type();
  const std::vector<Tensor> weights = check_weights_of_maps(spatial_weights, maps);
  std::vector<double> losses;
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < maps.size(); ++i) {
    gradients.push_back(torch::stable::empty_like(maps[i]));
    const Tensor* const of = weights.empty() ? nullptr : &weights[i];
    const auto level = dtype == ScalarType::Double ? level_loss<double> : level_loss<float>;
    losses.push_back(level_weights[i] *
                     level(maps[i], of, hard, reduction != kSum, level_weights[i], gradients[i]));
  }
  if (reduction != kNone) {
    double sum = 0;
    for (const double loss : losses) sum += loss;
    losses = {sum};
  }
  const auto count = static_cast<int64_t>(losses.size());
  const Tensor loss = reduction == kNone ? torch::stable::new_empty(maps[0], {count})
                                         : torch::stable::new_empty(maps[0], {});
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == ScalarType::Double) {
      static_cast<double*>(loss.data_ptr())[i] = losses[i];
    } else {
      static_cast<float*>(loss.data_ptr())[i] = static_cast<float>(losses[i]);
    }
  }
  return {loss, gradients};
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("hard_loss", TORCH_BOX(&fastad::cpu::hard_loss));
}
