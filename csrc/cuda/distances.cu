// Distance of normalised features per pixel, and its gradient for the student: all levels of a
// pyramid in one launch.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/distance_tile.cuh"
#include "cuda/distances.cuh"
#include "cuda/maximum.cuh"

namespace fastad::cuda {
namespace {

struct DistancesParams {
  FeaturePyramid pyramid;
  void* maps[kMaxLevels];  // (N, H_l, W_l): distances, or their gradients in the backward
  void* maximum;           // (N,), to be set to the identity of maximum.cuh; may be null
  int64_t images;
  double eps;
  PixelWeights weights[kMaxLevels];  // where the kernel is compiled for them
};

// teacher, student (N, C_l, H_l, W_l) -> maps (N, H_l, W_l).
//
// Bytes: every feature once, 4 a pixel written. ResNet-18 pyramid at batch 64: float32 235 MB and
// 1.4 MB, 55 us at 4.3 TB/s; bfloat16 27 us. A thread has 8 vectors of 16 bytes in flight, a
// multiprocessor about 96 KiB at 3 blocks, some four times what latency times bandwidth asks for.
// Weights add 4 bytes a pixel, or as much as one image has. They, a standard of the channels and l2
// are one template's argument: without any the machine code is as if they did not exist.
template <class T, bool kGeneral>
__global__ void __launch_bounds__(kThreads, sizeof(typename T::Acc) > 4 ? 1
                                            : kGeneral                  ? 2
                                                                        : 3)
    distances_kernel(const __grid_constant__ DistancesParams params) {
  using Acc = typename T::Acc;
  if (params.maximum != nullptr) {
    const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t n = int64_t{kThreads} * blockIdx.x + threadIdx.x; n < params.images;
         n += threads) {
      Acc identity;
      memset(&identity, kMaximumIdentityByte, sizeof(Acc));
      store(static_cast<Acc*>(params.maximum) + n, identity);
    }
  }
  visit_tile<T, kGeneral>(params.pyramid, [&](auto& tile, int l) {
    const Norms<Acc> norms = tile.norms(static_cast<Acc>(params.eps), params.pyramid.l2);
    const Acc distance = tile.distance(norms);
    if (!tile.writes()) return;
    Acc result = distance;
    if constexpr (kGeneral) {
      if (params.weights[l].data != nullptr) result *= tile.weight(params.weights[l]);
    }
    store(static_cast<Acc*>(params.maps[l]) + tile.owned_pixel(), result);
  });
}

// maps (N, H_l, W_l), teacher, student -> gradient of the student (N, C_l, H_l, W_l).
//
// Bytes: every feature once, the gradient once. ResNet-18 pyramid at batch 64: float32 352 MB,
// 82 us at 4.3 TB/s; bfloat16 41 us. The tile stays in registers from norms to gradient. Of few
// pixels, as hard mining and scores have them, the gradient is written and little is read: of the
// hardest 1 % scattered over a planar float32 level 8 % of its sectors, each of which holds 8
// pixels.
template <class T, bool kGeneral>
__global__ void __launch_bounds__(kThreads, sizeof(typename T::Acc) > 4 ? 1 : 2)
    distances_backward_kernel(const __grid_constant__ DistancesParams params) {
  using Acc = typename T::Acc;
  visit_tile<T, kGeneral>(params.pyramid, [&](auto& tile, int l) {
    const Acc eps = static_cast<Acc>(params.eps);
    tile.skip_zeros(static_cast<const Acc*>(params.maps[l]));
    const Norms<Acc> norms = tile.norms(eps, params.pyramid.l2);
    const Acc distance = tile.distance(norms);
    Acc upstream = 0;
    if (tile.owns()) {
      upstream = load(static_cast<const Acc*>(params.maps[l]) + tile.owned_pixel());
      if constexpr (kGeneral) {
        if (params.weights[l].data != nullptr) {
          // 0 also where the gradient of a map, as of its square root at 0, is infinite.
          const Acc weight = tile.weight(params.weights[l]);
          upstream = weight == 0 ? 0 : weight * upstream;
        }
      }
    }
    tile.write_gradient(norms, distance, upstream, eps);
  });
}

}  // namespace

std::vector<Tensor> compute_distances(const std::vector<Tensor>& teacher,
                                      const std::vector<Tensor>& student, double eps,
                                      const std::vector<Tensor>& weights,
                                      const Comparison& comparison, const Tensor* maximum) {
  DistancesParams params = {.pyramid = make_pyramid(teacher, student, comparison),
                            .maximum = maximum == nullptr ? nullptr : maximum->mutable_data_ptr(),
                            .images = student[0].size(0),
                            .eps = eps};
  set_weights(weights, params.weights);
  std::vector<Tensor> maps;
  for (const Tensor& s : student) {
    maps.push_back(torch::stable::new_empty(s, {s.size(0), s.size(2), s.size(3)},
                                            params.pyramid.result_dtype()));
    params.maps[maps.size() - 1] = maps.back().mutable_data_ptr();
  }
  if (params.pyramid.blocks() == 0) return maps;
  const cudaStream_t stream = current_stream(student[0].get_device_index());
  visit_traits(params.pyramid, [&](auto traits) {
    using T = decltype(traits);
    const bool general = is_general(weights, comparison);
    launch(general ? distances_kernel<T, true> : distances_kernel<T, false>,
           params.pyramid.blocks(), kThreads, shared_bytes(params.pyramid), stream, params);
  });
  return maps;
}

namespace {

std::vector<Tensor> distances(std::vector<Tensor> teacher, std::vector<Tensor> student, double eps,
                              OptionalTensors spatial_weights, int64_t distance,
                              OptionalTensors channels) {
  check_features(teacher, student, eps);
  const torch::stable::accelerator::DeviceGuard guard(student[0].get_device_index());
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(distance, channels, student, dtype);
  return compute_distances(teacher, student, eps, weights, comparison, nullptr);
}

std::vector<Tensor> distances_backward(std::vector<Tensor> grad, std::vector<Tensor> teacher,
                                       std::vector<Tensor> student, double eps,
                                       OptionalTensors spatial_weights, int64_t distance,
                                       OptionalTensors channels) {
  check_features(teacher, student, eps);
  const ScalarType dtype = distance_dtype(teacher, student);
  check_distance_gradients(grad, student, dtype);
  const torch::stable::accelerator::DeviceGuard guard(student[0].get_device_index());
  const std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  const std::vector<Tensor> gradients = empty_gradients(student);
  const Comparison comparison = check_comparison(distance, channels, student, dtype);
  DistancesParams params = {.pyramid = make_pyramid(teacher, student, comparison, gradients),
                            .eps = eps};
  set_weights(weights, params.weights);
  for (size_t l = 0; l < grad.size(); ++l) {
    grad[l] = as_contiguous(grad[l]);
    params.maps[l] = const_cast<void*>(grad[l].const_data_ptr());
  }
  if (params.pyramid.blocks() == 0) return gradients;
  const cudaStream_t stream = current_stream(student[0].get_device_index());
  visit_traits(params.pyramid, [&](auto traits) {
    using T = decltype(traits);
    const bool general = is_general(weights, comparison);
    launch(general ? distances_backward_kernel<T, true> : distances_backward_kernel<T, false>,
           params.pyramid.blocks(), kThreads, shared_bytes(params.pyramid), stream, params);
  });
  return gradients;
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("distances", TORCH_BOX(&fastad::cuda::distances));
  m.impl("distances_backward", TORCH_BOX(&fastad::cuda::distances_backward));
}
