// Level maps upsampled bilinearly and joined by product or weighted sum, with the maximum of every
// image.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "cuda/aggregate_maps.cuh"
#include "cuda/maximum.cuh"
#include "cuda/smoothing.cuh"

namespace fastad::cuda {
namespace {

constexpr int kBlock = 128;  // threads
constexpr int kColumns = 4;  // output pixels of a thread in a row
constexpr int kStripWidth = kWarp * kColumns;

// Rows of a warp's strip: few where each of them inlines kColumns powers.
template <bool kPowers>
constexpr int kStripRows = kPowers ? 2 : 4;

// The source row that starts at `begin`, blended along x for a thread's columns. A source image has
// at most 2^30 pixels: 32-bit offsets take half the instructions of pointers.
template <class Acc>
__device__ __forceinline__ void blend_row(const Acc* source, int begin,
                                          const BilinearIndex<Acc> (&columns)[kColumns],
                                          Acc (&out)[kColumns]) {
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const BilinearIndex<Acc>& x = columns[i];
    out[i] = x.w0 * load(source + (begin + x.i0)) + x.w1 * load(source + (begin + x.i1));
  }
}

// maps (N, H_l, W_l) -> map (N, H, W), maximum (N,).
//
// A warp computes a strip of 4 rows x 128 columns of one image and walks down its rows, level by
// level: source rows are blended along x once and kept while the output rows between them are
// blended along y, so that upsampling by 4 takes 1.5 loads a pixel instead of 4. No shared memory,
// no barrier. Bytes: 256x256 maps at batch 64: 16.8 MB written, 1.4 MB read (ResNet-18 pyramid),
// 4.2 us at 4.3 TB/s. In half precision, Y, 8.4 MB are written, 2.3 us.
template <class Acc, bool kPowers, class Y>
__global__ void __launch_bounds__(kBlock, sizeof(Acc) > 4 || kPowers ? 2 : 5)
    aggregate_maps_kernel(const __grid_constant__ MapsParams params) {
  constexpr int kRows = kStripRows<kPowers>;
  const int strips_across = (params.width - 1) / kStripWidth + 1;
  const int64_t strips = int64_t{strips_across} * ((params.height - 1) / kRows + 1);
  const int64_t strip = int64_t{kBlock / kWarp} * blockIdx.x + threadIdx.x / kWarp;
  const int64_t image = divide(strip, strips);
  if (image >= params.images) return;
  const int in_image = static_cast<int>(strip - image * strips);
  const int strip_row = in_image / strips_across;
  const int y0 = strip_row * kRows, x0 = (in_image - strip_row * strips_across) * kStripWidth;
  const int lane = threadIdx.x % kWarp;
  // Neighbouring columns where they can be stored as vectors, else coalesced ones.
  const bool vectors = params.width % kColumns == 0;
  const int first = x0 + (vectors ? lane * kColumns : lane), step = vectors ? 1 : kWarp;

  Acc result[kRows][kColumns];
#pragma unroll
  for (int i = 0; i < kRows * kColumns; ++i) {
    result[i / kColumns][i % kColumns] = params.product ? Acc(1) : Acc(0);
  }
  for (int l = 0; l < params.count; ++l) {
    const MapLevel& level = params.levels[l];
    const Acc* source = static_cast<const Acc*>(level.data) + image * level.height * level.width;
    // Hides where the pointer comes from: every load would add up 64-bit offsets from level.data.
    asm("" : "+l"(source));
    const Acc weight = static_cast<Acc>(level.weight);
    const Acc x_scale = static_cast<Acc>(level.x_scale), y_scale = static_cast<Acc>(level.y_scale);
    const Acc centre = static_cast<Acc>(params.centre);
    BilinearIndex<Acc> columns[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int column = min(first + i * step, params.width - 1);
      columns[i] = bilinear_index<Acc>(column, x_scale, centre, level.width);
    }
    int top_row = -1, bottom_row = -1;
    Acc top[kColumns], bottom[kColumns];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = min(y0 + r, params.height - 1);
      const auto y = bilinear_index<Acc>(row, y_scale, centre, level.height);
      if (y.i0 == bottom_row) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) top[i] = bottom[i];
      } else if (y.i0 != top_row) {
        blend_row(source, y.i0 * level.width, columns, top);
      }
      if (y.i1 != bottom_row) {
        blend_row(source, y.i1 * level.width, columns, bottom);
      }
      top_row = y.i0;
      bottom_row = y.i1;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        Acc up = y.w0 * top[i] + y.w1 * bottom[i];
        if (!params.product) {
          result[r][i] += weight * up;
        } else {
          if (kPowers && weight != Acc(1)) up = pow(up, weight);
          result[r][i] *= up;
        }
      }
    }
  }

  Acc maximum = -static_cast<Acc>(INFINITY);
  Y* out = static_cast<Y*>(params.map) + image * params.image_stride;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (y0 + r >= params.height) break;
    Y* row = out + int64_t{y0 + r} * params.width;
    if (vectors && first < params.width) {
      constexpr int kSize = sizeof(Y) > 4 ? kVectorSize<Y> : kColumns;
#pragma unroll
      for (int i = 0; i < kColumns; i += kSize) {
        Vector<Y, kSize> values;
#pragma unroll
        for (int k = 0; k < kSize; ++k) values.v[k] = static_cast<Y>(result[r][i + k]);
        store(reinterpret_cast<Vector<Y, kSize>*>(row + first + i), values);
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (first + i * step >= params.width) continue;
      if (!vectors) store(row + first + i * step, static_cast<Y>(result[r][i]));
      maximum = maximum_of(maximum, result[r][i]);
    }
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    maximum = maximum_of(maximum, __shfl_xor_sync(0xffffffffu, maximum, offset));
  }
  if (lane == 0 && params.maximum != nullptr)
    atomic_maximum(static_cast<Acc*>(params.maximum) + image, maximum);
}

template <class Acc, bool kPowers, class Y>
void launch_aggregate_maps(const MapsParams& params, cudaStream_t stream) {
  const int64_t strips_across = (params.width - 1) / kStripWidth + 1;
  const int64_t strips_down = (params.height - 1) / kStripRows<kPowers> + 1;
  const int64_t strips = params.images * strips_across * strips_down;
  const int64_t blocks = (strips - 1) / (kBlock / kWarp) + 1;
  launch(aggregate_maps_kernel<Acc, kPowers, Y>, blocks, kBlock, 0, stream, params);
}

}  // namespace

namespace {

// `dtype`: of the level maps.
void run(const MapsParams& params, ScalarType dtype, const Tensor& map) {
  if (params.images == 0) return;
  const cudaStream_t stream = current_stream(map.get_device_index());
  visit_map_types(dtype, map.scalar_type(), [&](auto x, auto y) {
    using Acc = decltype(x);
    using Y = decltype(y);
    has_powers(params) ? launch_aggregate_maps<Acc, true, Y>(params, stream)
                       : launch_aggregate_maps<Acc, false, Y>(params, stream);
  });
}

}  // namespace

void aggregate_into(const std::vector<Tensor>& maps, bool product,
                    const std::vector<double>& weights, bool align_corners, double smoothing,
                    const Tensor& map, const Tensor& maximum) {
  MapsParams params = make_params(maps, map.size(1), map.size(2), product, weights, align_corners);
  if (smoothing > 0) {
    const Tensor joined = torch::stable::empty_like(map);
    params.map = joined.mutable_data_ptr();
    run(params, maps[0].scalar_type(), joined);
    smooth(joined, map, &maximum, smoothing);
    return;
  }
  params.map = map.mutable_data_ptr();
  params.maximum = maximum.mutable_data_ptr();
  run(params, maps[0].scalar_type(), map);
}

namespace {

std::tuple<Tensor, Tensor> aggregate_maps(std::vector<Tensor> maps, int64_t height, int64_t width,
                                          bool product, std::vector<double> weights,
                                          bool align_corners, std::optional<ScalarType> dtype,
                                          double smoothing) {
  check_maps(maps, weights);
  check_size(height, width);
  check_smoothing(smoothing, dtype.has_value());
  const int device = maps[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t images = maps[0].size(0);
  Tensor map = torch::stable::new_empty(maps[0], {images, height, width},
                                        check_map_dtype(dtype, maps[0].scalar_type()));
  Tensor maximum = torch::stable::new_empty(maps[0], {images});
  if (images > 0) {
    const size_t bytes = images * element_size(maximum.scalar_type());
    STD_CUDA_CHECK(cudaMemsetAsync(maximum.mutable_data_ptr(), kMaximumIdentityByte, bytes,
                                   current_stream(device)));
  }
  aggregate_into(maps, product, weights, align_corners, smoothing, map, maximum);
  return {map, maximum};
}

// A launch a level.
Tensor stack_maps(std::vector<Tensor> maps, int64_t height, int64_t width, bool align_corners,
                  std::optional<ScalarType> dtype) {
  check_maps(maps, std::vector<double>(maps.size(), 1.0));
  check_size(height, width);
  const torch::stable::accelerator::DeviceGuard guard(maps[0].get_device_index());
  const int64_t images = maps[0].size(0), count = static_cast<int64_t>(maps.size());
  Tensor stack = torch::stable::new_empty(maps[0], {images, count, height, width},
                                          check_map_dtype(dtype, maps[0].scalar_type()));
  char* data = static_cast<char*>(stack.mutable_data_ptr());
  for (const Tensor& map : maps) {
    MapsParams params = make_params({map}, height, width, false, {1.0}, align_corners);
    params.map = data;
    params.image_stride = count * height * width;
    run(params, map.scalar_type(), stack);
    data += height * width * element_size(stack.scalar_type());
  }
  return stack;
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) {
  m.impl("aggregate_maps", TORCH_BOX(&fastad::cuda::aggregate_maps));
  m.impl("stack_maps", TORCH_BOX(&fastad::cuda::stack_maps));
}
