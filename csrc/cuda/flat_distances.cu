// Distance of flattened levels, a number an image and level, and its gradient for the student: all
// levels of a pyramid in one sweep over the features each.
//
// A flattened level is one vector with the norms t and s. They are known only when all of it was
// read. With the norms t_p, s_p and the distance d_p of its pixels
//
//     1/2 |t_hat - s_hat|^2 = sum_p 1/2 (t_p / t - s_p / s)^2 + t_p s_p / (t s) d_p
//
// No term cancels, so nearly equal levels keep their relative accuracy. The sweep leaves the three
// numbers of each pixel to a second launch, which joins them.
//
// The gradient takes another sweep, from the last tile to the first: what the first sweep read last
// is still in the L2 cache, 29 MB of 8 images of ResNet-18's at 256x256 in 50 MB of an H200.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/distance_tile.cuh"
#include "cuda/flat_distances.cuh"

namespace fastad::cuda {
namespace {

// A shorter pixel counts as this long when its own distance is computed. Its share in that of the
// level is too small to matter.
constexpr double kShortest = 1e-30;

struct FlatParams {
  FeaturePyramid pyramid;
  void* pixels[kMaxLevels];  // (3, N, H_l, W_l): norms of teacher and student, distance
  void* distances;           // (L, N)
  void* norms;               // (2, L, N): of teacher and student
  void* grad;                // (L, N); not in the forward
  void* loss;                // (L,) where the levels are kept apart, else one number
  bool by_level;
  double coefficients[kMaxLevels];  // of a level's sum in the loss
  int64_t images;
  double eps;
  PixelWeights weights[kMaxLevels];  // the sweep of the forward has no use for them
};

// teacher, student (N, C_l, H_l, W_l) -> pixels (3, N, H_l, W_l).
//
// Bytes: every feature once, 12 a pixel written. ResNet-18 pyramid at batch 64: float32 235 MB and
// 4 MB, 56 us at 4.3 TB/s; bfloat16 28 us.
template <class T, bool kGeneral>
__global__ void __launch_bounds__(kThreads, sizeof(typename T::Acc) > 4 ? 1
                                            : kGeneral                  ? 2
                                                                        : 3)
    compare_pixels_kernel(const __grid_constant__ FlatParams params) {
  using Acc = typename T::Acc;
  visit_tile<T, kGeneral>(params.pyramid, [&](auto& tile, int l) {
    const Norms<Acc> norms = tile.norms(static_cast<Acc>(kShortest), false);
    const Acc distance = tile.distance(norms);
    if (!tile.writes()) return;
    const int64_t pixels = params.pyramid.levels[l].pixels;
    Acc* of_pixel = static_cast<Acc*>(params.pixels[l]) + tile.owned_pixel();
    store(of_pixel, norms.teacher);
    store(of_pixel + pixels, norms.student);
    store(of_pixel + 2 * pixels, distance);
  });
}

// pixels (3, N, H_l, W_l) -> distances (L, N), norms (2, L, N), by a block an image and level.
//
// Bytes: 12 a pixel, and 8 of them again, from the cache. ResNet-18 pyramid at batch 64: 4 MB, 1 us
// at 4.3 TB/s.
template <class Acc>
__global__ void __launch_bounds__(kThreads)
    join_pixels_kernel(const __grid_constant__ FlatParams params) {
  const int l = static_cast<int>(blockIdx.x / params.images);
  const int64_t image = blockIdx.x % params.images;
  const FeatureLevel& level = params.pyramid.levels[l];
  const PixelWeights& weights = params.weights[l];
  const Acc* teacher = static_cast<const Acc*>(params.pixels[l]) + image * level.image_pixels;
  const Acc* student = teacher + level.pixels;
  const Acc* distances = student + level.pixels;
  const auto weight = [&](int64_t pixel) {
    if (weights.data == nullptr) return Acc(1);
    const Acc* of_image = static_cast<const Acc*>(weights.data) + image * weights.image_stride;
    return finite_weight(load(of_image + pixel));
  };
  Acc t_squares = 0, s_squares = 0;
  for (int64_t pixel = threadIdx.x; pixel < level.image_pixels; pixel += kThreads) {
    const Acc t = load(teacher + pixel), s = load(student + pixel), factor = weight(pixel);
    t_squares += factor * t * t;
    s_squares += factor * s * s;
  }
  const Acc t_norm = sqrt(sum_over_block(t_squares)), s_norm = sqrt(sum_over_block(s_squares));
  const Acc eps = static_cast<Acc>(params.eps);
  const Acc t_inverse = 1 / (t_norm < eps ? eps : t_norm);
  const Acc s_inverse = 1 / (s_norm < eps ? eps : s_norm);
  Acc distance = 0;
  for (int64_t pixel = threadIdx.x; pixel < level.image_pixels; pixel += kThreads) {
    // A vector counts as zeros where the sum of its squares is too large.
    const Acc t = t_inverse == 0 ? 0 : load(teacher + pixel) * t_inverse;
    const Acc s = s_inverse == 0 ? 0 : load(student + pixel) * s_inverse;
    const Acc longer = t - s;
    distance += weight(pixel) * (Acc(0.5) * longer * longer + t * s * load(distances + pixel));
  }
  distance = sum_over_block(distance);
  if (threadIdx.x != 0) return;
  const int64_t all = params.pyramid.count * params.images;
  store(static_cast<Acc*>(params.distances) + blockIdx.x, distance);
  store(static_cast<Acc*>(params.norms) + blockIdx.x, t_norm);
  store(static_cast<Acc*>(params.norms) + all + blockIdx.x, s_norm);
}

// grad, distances (L, N), norms (2, L, N), teacher, student -> gradient of the student
// (N, C_l, H_l, W_l).
//
// Bytes: every feature once, the gradient once. ResNet-18 pyramid at batch 64: float32 352 MB,
// 82 us at 4.3 TB/s; bfloat16 41 us. Nothing is summed.
template <class T, bool kGeneral>
__global__ void __launch_bounds__(kThreads, sizeof(typename T::Acc) > 4 ? 1 : 2)
    flat_distances_backward_kernel(const __grid_constant__ FlatParams params) {
  using Acc = typename T::Acc;
  visit_tile<T, kGeneral>(
      params.pyramid,
      [&](auto& tile, int l) {
        const Acc eps = static_cast<Acc>(params.eps);
        Acc t_norm = 0, s_norm = 0, distance = 0, upstream = 0;
        if (tile.owns()) {
          const int64_t all = params.pyramid.count * params.images;
          const int64_t place = l * params.images + tile.owned_image();
          t_norm = load(static_cast<const Acc*>(params.norms) + place);
          s_norm = load(static_cast<const Acc*>(params.norms) + all + place);
          distance = load(static_cast<const Acc*>(params.distances) + place);
          upstream = load(static_cast<const Acc*>(params.grad) + place);
          if constexpr (kGeneral) {
            if (params.weights[l].data != nullptr) {
              const Acc weight = tile.weight(params.weights[l]);
              upstream = weight == 0 ? 0 : weight * upstream;
            }
          }
        }
        tile.write_gradient(tile.share_norms(t_norm, s_norm, eps), distance, upstream, eps);
      },
      kBackwards);
}

// distances (L, N) -> loss, and the gradient (L, N) of it for them, by one block. A mean over
// nothing is 0 * infinity = NaN, as in torch.
template <class Acc>
__global__ void __launch_bounds__(kThreads)
    sum_flat_loss_kernel(const __grid_constant__ FlatParams params) {
  Acc joined = 0;
  for (int l = 0; l < params.pyramid.count; ++l) {
    const Acc coefficient = static_cast<Acc>(params.coefficients[l]);
    Acc sum = 0;
    for (int64_t n = threadIdx.x; n < params.images; n += kThreads) {
      const int64_t place = l * params.images + n;
      sum += load_written(static_cast<const Acc*>(params.distances) + place);
      store(static_cast<Acc*>(params.grad) + place, coefficient);
    }
    const Acc level = coefficient * sum_over_block(sum);
    if (params.by_level && threadIdx.x == 0) store(static_cast<Acc*>(params.loss) + l, level);
    joined += level;
  }
  if (!params.by_level && threadIdx.x == 0) store(static_cast<Acc*>(params.loss), joined);
}

// Writes the gradients of params.pyramid.
void launch_gradients(const FlatParams& params, bool general, cudaStream_t stream) {
  if (params.pyramid.blocks() == 0) return;
  visit_traits(params.pyramid, [&](auto traits) {
    using T = decltype(traits);
    launch(general ? flat_distances_backward_kernel<T, true>
                   : flat_distances_backward_kernel<T, false>,
           params.pyramid.blocks(), kThreads, shared_bytes(params.pyramid), stream, params);
  });
}

std::tuple<Tensor, Tensor> flat_distances(std::vector<Tensor> teacher, std::vector<Tensor> student,
                                          double eps, OptionalTensors spatial_weights,
                                          OptionalTensors channels) {
  check_features(teacher, student, eps);
  const int device = student[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(kCosineFlat, channels, student, dtype, true);
  FlatParams params = {.pyramid = make_pyramid(teacher, student, comparison),
                       .images = student[0].size(0),
                       .eps = eps};
  set_weights(weights, params.weights);
  const int64_t levels = params.pyramid.count;
  Tensor distances = torch::stable::new_empty(student[0], {levels, params.images}, dtype);
  Tensor norms = torch::stable::new_empty(student[0], {2, levels, params.images}, dtype);
  if (params.images == 0) return {distances, norms};
  params.distances = distances.mutable_data_ptr();
  params.norms = norms.mutable_data_ptr();
  int64_t numbers = 0;
  for (int64_t l = 0; l < levels; ++l) numbers += 3 * params.pyramid.levels[l].pixels;
  Tensor scratch = torch::stable::new_empty(student[0], {numbers}, dtype);
  char* pixels = static_cast<char*>(scratch.mutable_data_ptr());
  for (int64_t l = 0; l < levels; ++l) {
    params.pixels[l] = pixels;
    pixels += 3 * params.pyramid.levels[l].pixels * element_size(dtype);
  }
  const cudaStream_t stream = current_stream(device);
  const size_t shared = shared_bytes(params.pyramid);
  visit_traits(params.pyramid, [&](auto traits) {
    using T = decltype(traits);
    const bool general = !comparison.channels.empty();
    launch(general ? compare_pixels_kernel<T, true> : compare_pixels_kernel<T, false>,
           params.pyramid.blocks(), kThreads, shared, stream, params);
    launch(join_pixels_kernel<typename T::Acc>, levels * params.images, kThreads, shared, stream,
           params);
  });
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
  const int device = student[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(kCosineFlat, channels, student, dtype, true);
  grad = as_contiguous(grad), distances = as_contiguous(distances), norms = as_contiguous(norms);
  const std::vector<Tensor> gradients = empty_gradients(student);
  FlatParams params = {.pyramid = make_pyramid(teacher, student, comparison, gradients),
                       .distances = const_cast<void*>(distances.const_data_ptr()),
                       .norms = const_cast<void*>(norms.const_data_ptr()),
                       .grad = const_cast<void*>(grad.const_data_ptr()),
                       .images = student[0].size(0),
                       .eps = eps};
  set_weights(weights, params.weights);
  launch_gradients(params, is_general(weights, comparison), current_stream(device));
  return gradients;
}

}  // namespace

Tensor flat_loss(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student,
                 const std::vector<double>& coefficients, bool by_level, double eps,
                 const OptionalTensors& spatial_weights, const OptionalTensors& channels,
                 const std::vector<Tensor>& gradients) {
  const ScalarType dtype = distance_dtype(teacher, student);
  const std::vector<Tensor> weights = check_spatial_weights(spatial_weights, student, dtype);
  const Comparison comparison = check_comparison(kCosineFlat, channels, student, dtype, true);
  const auto [distances, norms] = flat_distances(teacher, student, eps, spatial_weights, channels);
  FlatParams params = {.pyramid = make_pyramid(teacher, student, comparison, gradients),
                       .distances = distances.mutable_data_ptr(),
                       .norms = norms.mutable_data_ptr(),
                       .by_level = by_level,
                       .images = student[0].size(0),
                       .eps = eps};
  set_weights(weights, params.weights);
  std::copy(coefficients.begin(), coefficients.end(), params.coefficients);
  const int64_t levels = params.pyramid.count;
  Tensor loss = by_level ? torch::stable::new_empty(student[0], {levels}, dtype)
                         : torch::stable::new_empty(student[0], {}, dtype);
  Tensor grad = torch::stable::new_empty(student[0], {levels, params.images}, dtype);
  params.loss = loss.mutable_data_ptr();
  params.grad = grad.mutable_data_ptr();
  const cudaStream_t stream = current_stream(student[0].get_device_index());
  visit_traits(params.pyramid, [&](auto traits) {
    using Acc = typename decltype(traits)::Acc;
    launch(sum_flat_loss_kernel<Acc>, 1, kThreads, shared_bytes(params.pyramid), stream, params);
  });
  const bool both = gradients.size() > student.size();
  if (!gradients.empty()) launch_gradients(params, is_general(weights, comparison) || both, stream);
  return loss;
}

}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("flat_distances", TORCH_BOX(&fastad::cuda::flat_distances));
  m.impl("flat_distances_backward", TORCH_BOX(&fastad::cuda::flat_distances_backward));
}
