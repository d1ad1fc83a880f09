// Features to anomaly map in one op: distances, then upsampling fused with the product. The small
// maps between the two (21 KB an image) never leave the cache.

#include <torch/csrc/stable/library.h>

#include "cpu/aggregate_maps.h"
#include "cpu/distances.h"

namespace fastad::cpu {
namespace {

std::tuple<Tensor, Tensor, std::vector<Tensor>> anomaly_map(
    std::vector<Tensor> teacher, std::vector<Tensor> student, int64_t height, int64_t width,
    bool product, std::vector<double> weights, double eps, OptionalTensors spatial_weights,
    int64_t distance, OptionalTensors channels, bool align_corners,
    std::optional<ScalarType> dtype) {
  check_size(height, width);
  check_numbers("weights", weights, student.size());
  std::vector<Tensor> maps = distances(std::move(teacher), std::move(student), eps,
                                       std::move(spatial_weights), distance, std::move(channels));
  auto [map, maximum] =
      aggregate_maps(maps, height, width, product, std::move(weights), align_corners, dtype, 0);
  return {map, maximum, maps};
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("anomaly_map", TORCH_BOX(&fastad::cpu::anomaly_map));
}
