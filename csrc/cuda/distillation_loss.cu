// Mean distance of a pyramid and its gradient for the student, in one sweep over the features; and
// the scaling of that gradient by what autograd hands down.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/distance_tile.cuh"
#include "cuda/flat_distances.cuh"

namespace fastad::cuda {
namespace {

struct LossParams {
  FeaturePyramid pyramid;
  double coefficients[kMaxLevels];  // of a level's sum of distances in the loss
  void* partial_sums;               // (blocks,)
  void* loss;                       // (L,) where the levels are kept apart, else one number
  bool by_level;
  double eps;
  // Where the kernel is compiled for options: weights, and in a mean what each of an image's is
  // multiplied with, (L, N), or null.
  PixelWeights weights[kMaxLevels];
  void* scales;
  int64_t images;
};

constexpr int kSumLoads = 8;       // partial sums that a thread loads at a time
constexpr int kScaleVectors = 2;   // of a thread at a time
constexpr int kScaleBlocks = 396;  // at most: 3 for each multiprocessor of an H200

struct ScaleParams {
  void* gradients[kMaxLevels];
  ScalarType dtypes[kMaxLevels];
  int64_t elements[kMaxLevels];
  int count;
  const void* factor;  // grad_loss, of dtype factor_dtype
  ScalarType factor_dtype;
  bool by_level;
};

// The sum of values[begin] to values[end - 1] over a block, in every thread; always in one order.
template <class Acc>
__device__ __forceinline__ Acc sum_of(const Acc* values, int64_t begin, int64_t end) {
  Acc sums[kSumLoads] = {};
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads * kSumLoads) {
#pragma unroll
    for (int k = 0; k < kSumLoads; ++k) {
      if (i + k * kThreads < end) sums[k] += load(values + i + k * kThreads);
    }
  }
  Acc sum = 0;
#pragma unroll
  for (int k = 0; k < kSumLoads; ++k) sum += sums[k];
  return sum_over_block(sum);
}

// weights (N, H_l, W_l) -> scales (L, N): the inverse of the sum over an image, 0 where that is 0,
// by a block an image and level. A block reads 16 KB at most of ResNet-18's levels: 1.4 MB for
// batch 64.
template <class Acc>
__global__ void __launch_bounds__(kThreads)
    sum_weights_kernel(const __grid_constant__ LossParams params) {
  const int l = static_cast<int>(blockIdx.x / params.images);
  const int64_t image = blockIdx.x % params.images;
  const PixelWeights& weights = params.weights[l];
  const Acc* values = static_cast<const Acc*>(weights.data) + image * weights.image_stride;
  const int64_t pixels = params.pyramid.levels[l].image_pixels;
  const Acc sum = sum_of(values, 0, pixels);
  if (threadIdx.x == 0) {
    store(static_cast<Acc*>(params.scales) + blockIdx.x, sum > 0 ? 1 / sum : 0);
  }
}

// teacher, student (N, C_l, H_l, W_l) -> partial sums of distances (blocks,), and the gradient of
// the student where asked for.
//
// Bytes: every feature once, the gradient once: ResNet-18 pyramid at batch 64: float32 352 MB,
// 82 us at 4.3 TB/s; bfloat16 41 us. The teacher's gradient is another third. The tile stays in
// registers from norms to gradient.
template <class T, bool kGeneral>
__global__ void __launch_bounds__(kThreads, sizeof(typename T::Acc) > 4 ? 1 : 2)
    distillation_loss_kernel(const __grid_constant__ LossParams params) {
  using Acc = typename T::Acc;
  Acc sum = 0;
  visit_tile<T, kGeneral>(params.pyramid, [&](auto& tile, int l) {
    const Acc eps = static_cast<Acc>(params.eps);
    const Norms<Acc> norms = tile.norms(eps, params.pyramid.l2);
    const Acc distance = tile.distance(norms);
    Acc upstream = static_cast<Acc>(params.coefficients[l]);
    if constexpr (kGeneral) {
      Acc weight = 1;
      if (params.weights[l].data != nullptr && tile.owns()) {
        weight = tile.weight(params.weights[l]);
        if (params.scales != nullptr) {
          const int64_t place = l * params.images + tile.owned_image();
          weight *= load(static_cast<const Acc*>(params.scales) + place);
        }
      }
      if (tile.writes()) sum = distance * weight;
      upstream *= weight;
    } else {
      if (tile.writes()) sum = distance;
    }
    if (params.pyramid.levels[l].gradient.data != nullptr) {
      tile.write_gradient(norms, distance, upstream, eps);
    }
  });
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) store(static_cast<Acc*>(params.partial_sums) + blockIdx.x, sum);
}

// partial sums (blocks,) -> loss, by one block. A mean over nothing is 0 * infinity = NaN, as in
// torch.
template <class Acc>
__global__ void __launch_bounds__(kThreads)
    sum_loss_kernel(const __grid_constant__ LossParams params) {
  const FeaturePyramid& pyramid = params.pyramid;
  const Acc* partial_sums = static_cast<const Acc*>(params.partial_sums);
  Acc* loss = static_cast<Acc*>(params.loss);
  Acc joined = 0;
  for (int l = 0; l < pyramid.count; ++l) {
    const Acc sum = sum_of(partial_sums, pyramid.first_block[l], pyramid.first_block[l + 1]);
    const Acc level = static_cast<Acc>(params.coefficients[l]) * sum;
    if (params.by_level && threadIdx.x == 0) store(loss + l, level);
    joined += level;
  }
  if (!params.by_level && threadIdx.x == 0) store(loss, joined);
}

// data *= factor, by all blocks. All loads of a thread are issued before the first store.
template <class U>
__device__ __forceinline__ void scale(U* data, int64_t elements, double factor) {
  using Acc = std::conditional_t<std::is_same_v<U, double>, double, float>;
  constexpr int kSize = kVectorSize<U>;
  const auto scaled = [&](U x) {
    return static_cast<U>(static_cast<Acc>(x) * static_cast<Acc>(factor));
  };
  // Allocations are aligned to 16 bytes; views into them need not be.
  const bool aligned = reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0;
  const int64_t vectors = aligned ? elements / kSize : 0, threads = int64_t{gridDim.x} * kThreads;
  const int64_t block = blockIdx.x;
  for (int64_t i = block * kThreads * kScaleVectors + threadIdx.x; i < vectors;
       i += threads * kScaleVectors) {
    uint4* address = reinterpret_cast<uint4*>(data) + i;
    uint4 words[kScaleVectors];  // as they were loaded: unpacked they take more registers
#pragma unroll
    for (int k = 0; k < kScaleVectors; ++k) {
      if (i + k * kThreads < vectors) words[k] = load_written(address + k * kThreads);
    }
#pragma unroll
    for (int k = 0; k < kScaleVectors; ++k) {
      if (i + k * kThreads >= vectors) break;
      Vector<U, kSize> values;
      memcpy(&values, &words[k], sizeof(values));
#pragma unroll
      for (int e = 0; e < kSize; ++e) values.v[e] = scaled(values.v[e]);
      store(reinterpret_cast<Vector<U, kSize>*>(address + k * kThreads), values);
    }
  }
  for (int64_t e = vectors * kSize + block * kThreads + threadIdx.x; e < elements; e += threads) {
    store(data + e, scaled(load_written(data + e)));
  }
}

// gradients *= grad_loss, all levels; nothing is read or written where the factor is 1, which is
// what autograd hands to a loss that nothing was done to. The host cannot know the factor without
// waiting for the device, so the grid is small: that is the time a factor of 1 takes.
//
// Bytes: each gradient once read, once written: 235 MB for the float32 pyramid of ResNet-18 at
// batch 64, 55 us at 4.3 TB/s; none for factor 1.
__global__ void __launch_bounds__(kThreads, 3)
    scale_gradients_kernel(const __grid_constant__ ScaleParams params) {
  for (int l = 0; l < params.count; ++l) {
    const int place = params.by_level ? l : 0;
    double factor;
    if (params.factor_dtype == ScalarType::Double) {
      factor = load(static_cast<const double*>(params.factor) + place);
    } else {
      factor = load(static_cast<const float*>(params.factor) + place);
    }
    if (factor == 1.0) continue;
    visit_dtype(params.dtypes[l], [&](auto x) {
      scale(static_cast<decltype(x)*>(params.gradients[l]), params.elements[l], factor);
    });
  }
}

std::tuple<Tensor, std::vector<Tensor>> distillation_loss(
    std::vector<Tensor> teacher, std::vector<Tensor> student, std::vector<double> level_weights,
    int64_t reduction, double eps, bool gradient, OptionalTensors spatial_weights, int64_t distance,
    OptionalTensors channels, bool teacher_gradient) {
  check_features(teacher, student, eps);
  check_numbers("level_weights", level_weights, student.size());
  check_reduction(reduction);
  const int device = student[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(distance, channels, student, dtype, true);
  const std::vector<Tensor> gradients =
      loss_gradients(teacher, student, comparison, gradient, teacher_gradient);
  if (comparison.flat) {
    std::vector<double> coefficients = level_weights;
    const auto images = static_cast<double>(student[0].size(0));
    for (double& x : coefficients) x = reduction == kSum ? x : x / images;
    return {flat_loss(teacher, student, coefficients, reduction == kNone, eps, spatial_weights,
                      channels, gradients),
            gradients};
  }
  LossParams params = {};
  params.pyramid = make_pyramid(teacher, student, comparison, gradients);
  params.eps = eps;
  params.by_level = reduction == kNone;
  params.images = student[0].size(0);
  set_weights(weights, params.weights);
  for (size_t l = 0; l < student.size(); ++l) {
    // The mean over an image's pixels lies in the scales where there are weights.
    const double positions =
        static_cast<double>(weights.empty() ? params.pyramid.levels[l].pixels : params.images);
    params.coefficients[l] = reduction == kSum ? level_weights[l] : level_weights[l] / positions;
  }

  const int64_t levels = params.pyramid.count;
  Tensor loss = params.by_level ? torch::stable::new_empty(student[0], {levels}, dtype)
                                : torch::stable::new_empty(student[0], {}, dtype);
  params.loss = loss.mutable_data_ptr();
  const int64_t blocks = params.pyramid.blocks();
  Tensor partial_sums = torch::stable::new_empty(student[0], {blocks}, dtype);
  params.partial_sums = partial_sums.mutable_data_ptr();

  const int64_t sums = weights.empty() || reduction == kSum ? 0 : levels * params.images;
  Tensor scales;
  if (sums > 0) {
    scales = torch::stable::new_empty(student[0], {sums}, dtype);
    params.scales = scales.mutable_data_ptr();
  }

  const cudaStream_t stream = current_stream(device);
  const size_t shared = shared_bytes(params.pyramid);
  visit_traits(params.pyramid, [&](auto traits) {
    using T = decltype(traits);
    using Acc = typename T::Acc;
    if (sums > 0) launch(sum_weights_kernel<Acc>, sums, kThreads, shared, stream, params);
    const bool general = is_general(weights, comparison) || teacher_gradient;
    const auto sweep =
        general ? distillation_loss_kernel<T, true> : distillation_loss_kernel<T, false>;
    if (blocks > 0) launch(sweep, blocks, kThreads, shared, stream, params);
    launch(sum_loss_kernel<Acc>, 1, kThreads, shared, stream, params);
  });
  return {loss, gradients};
}

void scale_gradients_(std::vector<Tensor> gradients, Tensor grad_loss) {
  check_scaling(gradients, grad_loss);
  const int device = gradients[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  grad_loss = as_contiguous(grad_loss);
  ScaleParams params = {};
  params.count = static_cast<int>(gradients.size());
  params.factor = grad_loss.const_data_ptr();
  params.factor_dtype = grad_loss.scalar_type();
  params.by_level = grad_loss.dim() > 0;
  int64_t blocks = 0;
  for (int l = 0; l < params.count; ++l) {
    const Tensor& x = gradients[l];
    params.gradients[l] = x.mutable_data_ptr();
    params.dtypes[l] = x.scalar_type();
    params.elements[l] = x.numel();
    const int64_t of_block =
        kThreads * kScaleVectors * kVectorBytes / element_size(params.dtypes[l]);
    blocks = std::max(blocks, (x.numel() + of_block - 1) / of_block);
  }
  if (blocks == 0) return;
  launch(scale_gradients_kernel, std::min<int64_t>(blocks, kScaleBlocks), kThreads, 0,
         current_stream(device), params);
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("distillation_loss", TORCH_BOX(&fastad::cuda::distillation_loss));
  m.impl("scale_gradients_", TORCH_BOX(&fastad::cuda::scale_gradients_));
}
