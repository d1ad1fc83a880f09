// Features to anomaly map in one op and two launches: the distances of all levels, then their
// upsampling with product or sum and maximum. The first also starts the reduction of the second,
// so that nothing has to be cleared in between.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/aggregate_maps.cuh"
#include "cuda/distances.cuh"

namespace fastad::cuda {
namespace {

std::tuple<Tensor, Tensor, std::vector<Tensor>> anomaly_map(
    std::vector<Tensor> teacher, std::vector<Tensor> student, int64_t height, int64_t width,
    bool product, std::vector<double> weights, double eps, OptionalTensors spatial_weights) {
  STD_TORCH_CHECK(!spatial_weights.has_value(), "spatial_weights have no CUDA kernel yet");
  check_features(teacher, student, eps);
  check_size(height, width);
  check_numbers("weights", weights, student.size());
  const torch::stable::accelerator::DeviceGuard guard(student[0].get_device_index());
  const ScalarType dtype = distance_dtype(teacher, student);
  const int64_t images = student[0].size(0);
  Tensor map = torch::stable::new_empty(student[0], {images, height, width}, dtype);
  Tensor maximum = torch::stable::new_empty(student[0], {images}, dtype);
  std::vector<Tensor> maps = compute_distances(teacher, student, eps, &maximum);
  aggregate_into(maps, product, weights, map, maximum);
  return {map, maximum, maps};
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("anomaly_map", TORCH_BOX(&fastad::cuda::anomaly_map));
}
