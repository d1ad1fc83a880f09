// The gradients of level maps that were upsampled and joined by product or weighted sum.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/aggregate_maps.cuh"
#include "cuda/smoothing.cuh"

namespace fastad::cuda {
namespace {

constexpr int kBlock = 128;  // threads, and output columns at a time
constexpr int kRows = 4;     // output rows of a block

struct MapsBackwardParams {
  MapsParams maps;
  void* row_sums[kMaxLevels];           // (N, H, W_l): what the first launch leaves for the second
  int64_t first_block[kMaxLevels + 1];  // of a level, in the second launch
};

// A level's values of a block in shared memory. One column in 32 is left out, so that columns 4, 8
// or 16 apart lie in different banks.
template <class Acc>
using Values = Acc[kRows][kBlock + kBlock / kWarp];
__device__ __forceinline__ int place_of(int column) { return column + column / kWarp; }

// Output pixels [begin, end) of an axis hold all that read a source pixel.
struct Reach {
  int begin, end;
};
template <class Acc>
__device__ __forceinline__ Reach reach_of(int source, Acc scale, Acc centre, int out) {
  // Their source coordinates lie between source - 1 and source + 1; one pixel more for rounding. A
  // scale of 0, where all read one source pixel, makes infinities, and NaN, which is 0 here.
  const Acc low = (static_cast<Acc>(source - 1) + centre) / scale - centre - Acc(1);
  const Acc high = (static_cast<Acc>(source + 1) + centre) / scale - centre + Acc(2);
  const auto bounded = [&](Acc x) {
    return x > Acc(0) ? (x < static_cast<Acc>(out) ? static_cast<int>(x) : out) : 0;
  };
  return {bounded(low), bounded(high)};
}

// Weight with which an output pixel reads source pixel i.
template <class Acc>
__device__ __forceinline__ Acc weight_of(int i, const BilinearIndex<Acc>& index) {
  return (index.i0 == i ? index.w0 : Acc(0)) + (index.i1 == i ? index.w1 : Acc(0));
}

// A level upsampled at column x of the block's rows. Blended source rows are kept while output
// rows lie between them.
template <class Acc>
__device__ __forceinline__ void upsample(const MapLevel& level, int64_t image, int y0, int height,
                                         int x, Acc centre, Values<Acc>& values, int place) {
  const Acc* source = static_cast<const Acc*>(level.data) + image * level.height * level.width;
  const auto u = bilinear_index<Acc>(x, static_cast<Acc>(level.x_scale), centre, level.width);
  const auto blended = [&](int row) {
    const Acc* begin = source + int64_t{row} * level.width;
    return u.w0 * load(begin + u.i0) + u.w1 * load(begin + u.i1);
  };
  const Acc y_scale = static_cast<Acc>(level.y_scale);
  int top_row = -1, bottom_row = -1;
  Acc top = 0, bottom = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const auto v = bilinear_index<Acc>(min(y0 + r, height - 1), y_scale, centre, level.height);
    if (v.i0 == bottom_row) {
      top = bottom;
    } else if (v.i0 != top_row) {
      top = blended(v.i0);
    }
    if (v.i1 != bottom_row) bottom = blended(v.i1);
    top_row = v.i0;
    bottom_row = v.i1;
    values[r][place] = v.w0 * top + v.w1 * bottom;
  }
}

// From the levels' upsampled values at one pixel to grad * d(joined) / d(upsampled), in place. The
// product of the other levels is that of those before times that of those after: no division.
template <class Acc, bool kPowers>
__device__ __forceinline__ void hand_down(const MapsParams& params, Acc grad, Values<Acc>* values,
                                          int r, int place) {
  if (!params.product) {
    for (int l = 0; l < params.count; ++l) {
      values[l][r][place] = grad * static_cast<Acc>(params.levels[l].weight);
    }
    return;
  }
  Acc factors[kMaxLevels] = {}, results[kMaxLevels] = {};  // unrolled, they are registers
  Acc before = grad, after = 1;
#pragma unroll
  for (int l = 0; l < kMaxLevels; ++l) {
    if (l >= params.count) break;
    factors[l] = values[l][r][place];
    results[l] = before;
    if constexpr (kPowers) {
      const Acc weight = static_cast<Acc>(params.levels[l].weight), value = factors[l];
      if (weight != Acc(1)) {
        factors[l] = pow(value, weight);
        results[l] *= weight == Acc(0) ? Acc(0) : weight * pow(value, weight - Acc(1));
      }
    }
    before *= factors[l];
  }
#pragma unroll
  for (int l = kMaxLevels - 1; l >= 0; --l) {
    if (l >= params.count) continue;
    values[l][r][place] = results[l] * after;
    after *= factors[l];
  }
}

// The gradients of a level, summed along x: columns [x0, x1) of the block's rows. `item` is the
// thread's turn among the source columns of all levels. A column that the last columns of the
// block reached, too, has a sum already.
template <class Acc>
__device__ __forceinline__ void sum_along_x(const MapLevel& level, const Values<Acc>& values,
                                            const MapsParams& params, int y0, int x0, int x1,
                                            Acc* row_sums, int& item) {
  const Acc scale = static_cast<Acc>(level.x_scale), centre = static_cast<Acc>(params.centre);
  const auto index_of = [&](int x) { return bilinear_index<Acc>(x, scale, centre, level.width); };
  const int begin = x0 == 0 ? 0 : index_of(x0).i0;
  const int summed = x0 == 0 ? 0 : index_of(x0 - 1).i1 + 1;
  const int end = x1 == params.width ? level.width : max(index_of(x1 - 1).i1 + 1, index_of(x1).i0);
  for (; item < end - begin; item += kBlock) {
    const int i = begin + item;
    const Reach reach = reach_of<Acc>(i, scale, centre, params.width);
    Acc sums[kRows] = {};
    for (int x = max(reach.begin, x0); x < min(reach.end, x1); ++x) {
      const auto index = index_of(x);
      if (index.i0 != i && index.i1 != i) continue;
      const Acc weight = weight_of(i, index);
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] += weight * values[r][place_of(x - x0)];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (y0 + r >= params.height) break;
      Acc* sum = row_sums + int64_t{y0 + r} * level.width + i;
      store(sum, i < summed ? load_written(sum) + sums[r] : sums[r]);
    }
  }
  item -= end - begin;
}

// grad (N, H, W), maps (N, H_l, W_l) -> row_sums (N, H, W_l).
//
// The transpose of upsampling, along x. A block owns 4 output rows of one image and walks over
// them 128 columns at a time: every thread computes what its 4 pixels hand down to all levels,
// once, and leaves it in shared memory; then threads take source columns, of whichever level, and
// gather. No atomics: every run adds in the same order. Bytes: 256x256 at batch 64: 16.8 MB of
// gradient and 1.4 MB of maps read, 7.3 MB written, 6 us at 4.3 TB/s (ResNet-18 pyramid).
// A gradient in half precision, Y, is half of its bytes.
template <class Acc, bool kPowers, class Y>
__global__ void __launch_bounds__(kBlock, sizeof(Acc) > 4 || kPowers ? 4 : 8)
    backward_along_x_kernel(const __grid_constant__ MapsBackwardParams all_params) {
  Values<Acc>* values = &shared_memory<Values<Acc>>();  // one a level
  const MapsParams& params = all_params.maps;
  const int64_t bands = (params.height - 1) / kRows + 1;
  const int64_t block = blockIdx.x, image = divide(block, bands);
  const int y0 = static_cast<int>(block - image * bands) * kRows;
  const Y* grad = static_cast<const Y*>(params.map) + image * params.image_stride;
  const Acc centre = static_cast<Acc>(params.centre);
  const int thread = threadIdx.x, place = place_of(thread);

  for (int x0 = 0; x0 < params.width; x0 += kBlock) {
    const int x1 = min(x0 + kBlock, params.width), x = x0 + thread;
    if (x < x1) {
      for (int l = 0; params.product && l < params.count; ++l) {
        upsample<Acc>(params.levels[l], image, y0, params.height, x, centre, values[l], place);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t y = min(y0 + r, params.height - 1);
        const Acc upstream = static_cast<Acc>(load(grad + y * params.width + x));
        hand_down<Acc, kPowers>(params, upstream, values, r, place);
      }
    }
    __syncthreads();
    int item = thread;
    for (int l = 0; l < params.count; ++l) {
      const MapLevel& level = params.levels[l];
      Acc* row_sums =
          static_cast<Acc*>(all_params.row_sums[l]) + image * params.height * level.width;
      sum_along_x<Acc>(level, values[l], params, y0, x0, x1, row_sums, item);
    }
    __syncthreads();
  }
}

// row_sums (N, H, W_l) -> gradients (N, H_l, W_l): the transpose of upsampling, along y. A thread
// gathers one source pixel. Bytes: 7.3 MB read twice, from the L2 cache where it holds them, and
// 1.4 MB written: 2 us at 4.3 TB/s.
template <class Acc>
__global__ void __launch_bounds__(kBlock)
    backward_along_y_kernel(const __grid_constant__ MapsBackwardParams all_params) {
  const MapsParams& params = all_params.maps;
  const int64_t block = blockIdx.x;
  int l = 0;
  while (l + 1 < params.count && block >= all_params.first_block[l + 1]) ++l;
  const MapLevel& level = params.levels[l];
  const int64_t pixel = (block - all_params.first_block[l]) * kBlock + threadIdx.x;
  const int64_t source_row = divide(pixel, level.width);  // counted over all images
  const int64_t image = divide(source_row, level.height);
  if (image >= params.images) return;
  const int row = static_cast<int>(source_row - image * level.height);
  const int64_t column = pixel - source_row * level.width;
  const Acc* row_sums = static_cast<const Acc*>(all_params.row_sums[l]) +
                        image * params.height * level.width + column;
  const Acc scale = static_cast<Acc>(level.y_scale), centre = static_cast<Acc>(params.centre);
  const Reach reach = reach_of<Acc>(row, scale, centre, params.height);
  Acc sum = 0;
  for (int y = reach.begin; y < reach.end; ++y) {
    const auto index = bilinear_index<Acc>(y, scale, centre, level.height);
    if (index.i0 != row && index.i1 != row) continue;
    sum += weight_of(row, index) * load(row_sums + int64_t{y} * level.width);
  }
  store(static_cast<Acc*>(level.gradient) + pixel, sum);
}

template <class Acc, bool kPowers, class Y>
void launch_aggregate_maps_backward(const MapsBackwardParams& params, cudaStream_t stream) {
  const MapsParams& maps = params.maps;
  const int64_t bands = (maps.height - 1) / kRows + 1;
  launch(backward_along_x_kernel<Acc, kPowers, Y>, maps.images * bands, kBlock,
         maps.count * sizeof(Values<Acc>), stream, params);
  launch(backward_along_y_kernel<Acc>, params.first_block[maps.count], kBlock, 0, stream, params);
}

// The gradients of `maps`; `params` has all but what lies in `gradients` and in scratch memory.
// `upstream`: the dtype of the gradient that is handed down.
std::vector<Tensor> gradients_of(const std::vector<Tensor>& maps, ScalarType upstream,
                                 const MapsParams& maps_params) {
  MapsBackwardParams params = {.maps = maps_params};
  const int64_t images = params.maps.images, height = params.maps.height;
  const ScalarType dtype = maps[0].scalar_type();
  std::vector<Tensor> gradients;
  int64_t widths = 0;
  for (size_t l = 0; l < maps.size(); ++l) {
    MapLevel& level = params.maps.levels[l];
    gradients.push_back(torch::stable::empty_like(maps[l]));
    level.gradient = gradients[l].mutable_data_ptr();
    const int64_t pixels = images * level.height * level.width;
    params.first_block[l + 1] = params.first_block[l] + (pixels + kBlock - 1) / kBlock;
    widths += level.width;
  }
  if (images == 0) return gradients;
  Tensor scratch = torch::stable::new_empty(maps[0], {images * height * widths});
  char* row_sums = static_cast<char*>(scratch.mutable_data_ptr());
  for (size_t l = 0; l < maps.size(); ++l) {
    params.row_sums[l] = row_sums;
    row_sums += images * height * params.maps.levels[l].width * element_size(dtype);
  }
  const cudaStream_t stream = current_stream(maps[0].get_device_index());
  visit_map_types(dtype, upstream, [&](auto x, auto y) {
    using Acc = decltype(x);
    using Y = decltype(y);
    has_powers(params.maps) ? launch_aggregate_maps_backward<Acc, true, Y>(params, stream)
                            : launch_aggregate_maps_backward<Acc, false, Y>(params, stream);
  });
  return gradients;
}

std::vector<Tensor> aggregate_maps_backward(Tensor grad, std::vector<Tensor> maps, bool product,
                                            std::vector<double> weights, bool align_corners,
                                            double smoothing) {
  check_maps(maps, weights);
  check_map_gradient(grad, maps);
  check_smoothing(smoothing, grad.scalar_type() != maps[0].scalar_type());
  const torch::stable::accelerator::DeviceGuard guard(maps[0].get_device_index());
  grad = as_contiguous(grad);
  if (smoothing > 0) {
    const Tensor joined_grad = torch::stable::empty_like(grad);
    unsmooth(grad, joined_grad, smoothing);
    grad = joined_grad;
  }
  MapsParams params =
      make_params(maps, grad.size(1), grad.size(2), product, weights, align_corners);
  params.map = const_cast<void*>(grad.const_data_ptr());
  return gradients_of(maps, grad.scalar_type(), params);
}

// Two launches a level.
std::vector<Tensor> stack_maps_backward(Tensor grad, std::vector<Tensor> maps, bool align_corners) {
  check_maps(maps, std::vector<double>(maps.size(), 1.0));
  check_stack_gradient(grad, maps);
  const torch::stable::accelerator::DeviceGuard guard(maps[0].get_device_index());
  grad = as_contiguous(grad);
  const int64_t height = grad.size(2), width = grad.size(3);
  std::vector<Tensor> gradients;
  const char* data = static_cast<const char*>(grad.const_data_ptr());
  for (const Tensor& map : maps) {
    MapsParams params = make_params({map}, height, width, false, {1.0}, align_corners);
    params.map = const_cast<char*>(data);
    params.image_stride = grad.size(1) * height * width;
    gradients.push_back(gradients_of({map}, grad.scalar_type(), params)[0]);
    data += height * width * element_size(grad.scalar_type());
  }
  return gradients;
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("aggregate_maps_backward", TORCH_BOX(&fastad::cuda::aggregate_maps_backward));
  m.impl("stack_maps_backward", TORCH_BOX(&fastad::cuda::stack_maps_backward));
}
