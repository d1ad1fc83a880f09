// The gradients of level maps that were upsampled and joined by product or weighted sum.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/aggregate_maps.cuh"
#include "cuda/launch.cuh"

namespace fastad::cuda {
namespace {

constexpr int kBlock = 128;  // threads

struct MapsBackwardParams {
  MapsParams maps;
  int64_t first_row[kMaxLevels + 1];  // source rows of all images in the levels before
};

// Output pixels [begin, end) of an axis hold all that read source pixels first .. last.
struct Reach {
  int begin, end;
};
template <class Acc>
__device__ __forceinline__ Reach reach_of(int first, int last, Acc scale, int out) {
  // Their source coordinates lie between first - 1 and last + 1; one pixel more for rounding.
  const Acc low = (static_cast<Acc>(first) - Acc(0.5)) / scale - Acc(1.5);
  const Acc high = (static_cast<Acc>(last) + Acc(1.5)) / scale + Acc(1.5);
  return {low > Acc(0) ? static_cast<int>(low) : 0,
          high < static_cast<Acc>(out) ? static_cast<int>(high) : out};
}

// Weight with which an output pixel reads source pixel i.
template <class Acc>
__device__ __forceinline__ Acc weight_of(int i, const BilinearIndex<Acc>& index) {
  return (index.i0 == i ? index.w0 : Acc(0)) + (index.i1 == i ? index.w1 : Acc(0));
}

template <class Acc>
__device__ __forceinline__ Acc upsampled(const MapsParams& params, const MapLevel& level,
                                         int64_t image, int y, int x) {
  const auto u =
      bilinear_index<Acc>(x, bilinear_scale<Acc>(level.width, params.width), level.width);
  const auto v =
      bilinear_index<Acc>(y, bilinear_scale<Acc>(level.height, params.height), level.height);
  const Acc* source = static_cast<const Acc*>(level.data) + image * level.height * level.width;
  const Acc* top = source + int64_t{v.i0} * level.width;
  const Acc* bottom = source + int64_t{v.i1} * level.width;
  return v.w0 * (u.w0 * load(top + u.i0) + u.w1 * load(top + u.i1)) +
         v.w1 * (u.w0 * load(bottom + u.i0) + u.w1 * load(bottom + u.i1));
}

// What an output pixel hands down to level `target`: grad * d(joined) / d(upsampled target).
template <class Acc>
__device__ __forceinline__ Acc upstream_at(const MapsParams& params, int target, int64_t image,
                                           int y, int x) {
  const int64_t pixel = (image * params.height + y) * params.width + x;
  Acc result = load(static_cast<const Acc*>(params.map) + pixel);
  const Acc own_weight = static_cast<Acc>(params.levels[target].weight);
  if (!params.product) return result * own_weight;
  if (own_weight == Acc(0)) return 0;  // even where the value is 0 and its power infinite
  for (int l = 0; l < params.count; ++l) {
    const MapLevel& level = params.levels[l];
    const Acc weight = static_cast<Acc>(level.weight);
    if (l == target && weight == Acc(1)) continue;
    Acc factor = upsampled<Acc>(params, level, image, y, x);
    const Acc exponent = l == target ? weight - Acc(1) : weight;
    if (exponent != Acc(1)) factor = pow(factor, exponent);
    if (l == target) factor *= weight;
    result *= factor;
  }
  return result;
}

// grad (N, H, W), maps (N, H_l, W_l) -> gradients (N, H_l, W_l).
//
// A block owns one row of source pixels of one level and gathers, so that no atomics are needed
// and every run adds in the same order. For 128 output columns at a time its threads walk down the
// output rows that read the source row and add what these hand down, times their weight along y;
// then every source pixel of the row adds its columns, times their weight along x. The product of
// the other levels is computed anew, without division. Bytes: 256x256 at batch 64: the gradient
// twice for each level through the L2 cache, from memory 17 MB and the maps, 5 us at 4.3 TB/s; the
// time goes into the arithmetic.
template <class Acc>
__global__ void __launch_bounds__(kBlock, sizeof(Acc) > 4 ? 2 : 8)
    aggregate_maps_backward_kernel(const __grid_constant__ MapsBackwardParams all_params) {
  Acc(&column_sums)[kBlock] = shared_memory<Acc[kBlock]>();
  const MapsParams& params = all_params.maps;
  const int64_t block = blockIdx.x;
  int l = 0;
  while (l + 1 < params.count && block >= all_params.first_row[l + 1]) ++l;
  const MapLevel& level = params.levels[l];
  const int64_t source_row = block - all_params.first_row[l];
  const int64_t image = divide(source_row, level.height);
  const int row = static_cast<int>(source_row - image * level.height);
  const Acc x_scale = bilinear_scale<Acc>(level.width, params.width);
  const Acc y_scale = bilinear_scale<Acc>(level.height, params.height);
  const Reach rows = reach_of<Acc>(row, row, y_scale, params.height);
  const int thread = threadIdx.x;

  for (int i0 = 0; i0 < level.width; i0 += kBlock) {
    const int last = min(i0 + kBlock, level.width) - 1, i = i0 + thread;
    const Reach columns = reach_of<Acc>(i0, last, x_scale, params.width);
    Reach own = {0, 0};
    if (i <= last) own = reach_of<Acc>(i, i, x_scale, params.width);
    Acc sum = 0;
    for (int x0 = columns.begin; x0 < columns.end; x0 += kBlock) {
      const int x = x0 + thread;
      Acc column = 0;
      for (int y = rows.begin; y < rows.end && x < columns.end; ++y) {
        const auto index = bilinear_index<Acc>(y, y_scale, level.height);
        if (index.i0 != row && index.i1 != row) continue;
        column += weight_of(row, index) * upstream_at<Acc>(params, l, image, y, x);
      }
      column_sums[thread] = column;
      __syncthreads();
      for (int c = max(own.begin, x0); c < min(own.end, min(x0 + kBlock, columns.end)); ++c) {
        const auto index = bilinear_index<Acc>(c, x_scale, level.width);
        if (index.i0 != i && index.i1 != i) continue;
        sum += weight_of(i, index) * column_sums[c - x0];
      }
      __syncthreads();
    }
    if (i <= last) {
      store(static_cast<Acc*>(level.gradient) + source_row * level.width + i, sum);
    }
  }
}

template <class Acc>
void launch_aggregate_maps_backward(const MapsBackwardParams& params, cudaStream_t stream) {
  launch(aggregate_maps_backward_kernel<Acc>, params.first_row[params.maps.count], kBlock,
         kBlock * sizeof(Acc), stream, params);
}

std::vector<Tensor> aggregate_maps_backward(Tensor grad, std::vector<Tensor> maps, bool product,
                                            std::vector<double> weights) {
  check_maps(maps, weights);
  check_map_gradient(grad, maps);
  const int device = maps[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  grad = as_contiguous(grad);
  MapsBackwardParams params = {};
  params.maps = make_params(maps, grad.size(1), grad.size(2), product, weights);
  params.maps.map = const_cast<void*>(grad.const_data_ptr());
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < maps.size(); ++l) {
    MapLevel& level = params.maps.levels[l];
    gradients.push_back(torch::stable::empty_like(maps[l]));
    level.gradient = gradients[l].mutable_data_ptr();
    params.first_row[l + 1] = params.first_row[l] + params.maps.images * level.height;
  }
  if (params.maps.images == 0) return gradients;
  const cudaStream_t stream = current_stream(device);
  visit_map_type(grad.scalar_type(),
                 [&](auto x) { launch_aggregate_maps_backward<decltype(x)>(params, stream); });
  return gradients;
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("aggregate_maps_backward", TORCH_BOX(&fastad::cuda::aggregate_maps_backward));
}
