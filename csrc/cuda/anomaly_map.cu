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
    bool product, std::vector<double> weights, double eps, OptionalTensors spatial_weights,
    int64_t distance, OptionalTensors channels, bool align_corners,
    std::optional<ScalarType> map_dtype) {
  check_features(teacher, student, eps);
  check_size(height, width);
  check_numbers("weights", weights, student.size());
  const torch::stable::accelerator::DeviceGuard guard(student[0].get_device_index());
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> pixel_weights = check_spatial_weights(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(distance, channels, student, dtype);
  const int64_t images = student[0].size(0);
  Tensor map = torch::stable::new_empty(student[0], {images, height, width},
                                        check_map_dtype(map_dtype, dtype));
  Tensor maximum = torch::stable::new_empty(student[0], {images}, dtype);
  std::vector<Tensor> maps =
      compute_distances(teacher, student, eps, pixel_weights, comparison, &maximum);
  aggregate_into(maps, product, weights, align_corners, 0, map, maximum);
  return {map, maximum, maps};
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("anomaly_map", TORCH_BOX(&fastad::cuda::anomaly_map));
}
