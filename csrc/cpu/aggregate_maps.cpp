// Bilinear upsampling of every level fused with the product or sum of the levels and the maximum of
// each image.
//
// Work: per output pixel and level 2 multiply-adds and the join, on expanded rows
// (cpu/upsampling_loops.h). Bytes: the maps (21 KB an image for ResNet-18 at 256x256) in, one map
// (262 KB) out. The upsampled levels are never written.

#include "cpu/aggregate_maps.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/upsampling_loops.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

// Source index and weight of every output pixel along one axis.
template <class A>
struct Axis {
  std::vector<int> i0, i1;
  std::vector<A> w0, w1;

  Axis(int64_t in, int64_t out) : i0(out), i1(out), w0(out), w1(out) {
    const A scale = bilinear_scale<A>(static_cast<int>(in), static_cast<int>(out));
    for (int64_t i = 0; i < out; ++i) {
      const auto index = bilinear_index<A>(static_cast<int>(i), scale, static_cast<int>(in));
      i0[i] = index.i0, i1[i] = index.i1, w0[i] = index.w0, w1[i] = index.w1;
    }
  }
};

template <class A>
struct MapLevel {
  A* data;  // (N, height, width)
  int64_t height, width;
  A weight;
  Axis<A> rows, columns;
};

template <class A>
std::vector<MapLevel<A>> map_levels(const std::vector<Tensor>& maps, int64_t height, int64_t width,
                                    const std::vector<double>& weights) {
  std::vector<MapLevel<A>> levels;
  for (size_t i = 0; i < maps.size(); ++i) {
    const int64_t h = maps[i].size(1), w = maps[i].size(2);
    levels.push_back({static_cast<A*>(maps[i].data_ptr()), h, w, static_cast<A>(weights[i]),
                      Axis<A>(h, height), Axis<A>(w, width)});
  }
  return levels;
}

// The two expanded source rows that output rows of a level blend. Output rows come from top to
// bottom, so each source row is expanded once.
template <class A>
class ExpandedRows {
 public:
  ExpandedRows(const MapLevel<A>& level, int64_t width)
      : level_(&level), width_(width), buffer_(2 * width) {}

  void start(int64_t image) {
    map_ = level_->data + image * level_->height * level_->width;
    above_ = below_ = -1;
  }

  void move_to(int64_t y) {
    const int i0 = level_->rows.i0[y], i1 = level_->rows.i1[y];
    if (i0 != above_ && i0 == below_) {
      flip_ = !flip_;
      std::swap(above_, below_);
    }
    if (i0 != above_) expand(i0, row(0)), above_ = i0;
    // At the far edge both are the same row.
    if (i1 != below_) i1 == i0 ? (void)std::copy_n(row(0), width_, row(1)) : expand(i1, row(1));
    below_ = i1;
  }

  A* above() { return row(0); }
  A* below() { return row(1); }

 private:
  A* row(int which) { return buffer_.data() + ((which == 1) != flip_ ? width_ : 0); }
  void expand(int source, A* out) {
    const auto& columns = level_->columns;
    expand_row<A>(map_ + source * level_->width, columns.i0.data(), columns.i1.data(),
                  columns.w0.data(), columns.w1.data(), width_, out);
  }

  const MapLevel<A>* level_;
  int64_t width_;
  std::vector<A> buffer_;
  const A* map_ = nullptr;
  int above_ = -1, below_ = -1;
  bool flip_ = false;
};

template <class A>
Blend<A> blend_at(const MapLevel<A>& level, ExpandedRows<A>& rows, int64_t y) {
  return {rows.above(), rows.below(), level.rows.w0[y], level.rows.w1[y], level.weight};
}

// ---- forward ------------------------------------------------------------------------------------

template <class A>
void forward(const std::vector<MapLevel<A>>& levels, int64_t images, int64_t height, int64_t width,
             bool product, A* map, A* maximum) {
  // A thread may begin or end within an image: it stores its maximum after its last row there.
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  std::vector<A> maxima(images * height, kLowest);
  const int64_t grain = std::max<int64_t>(1, 8192 / width);
  parallel_for(0, images * height, grain, [&](int64_t begin, int64_t end) {
    std::vector<ExpandedRows<A>> rows;
    std::vector<Blend<A>> blends(levels.size());
    Maximum<A> greatest(kLowest);
    for (const auto& level : levels) rows.emplace_back(level, width);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t y = row % height;
      for (size_t i = 0; i < levels.size(); ++i) {
        if (row == begin || y == 0) rows[i].start(row / height);
        rows[i].move_to(y);
        blends[i] = blend_at<A>(levels[i], rows[i], y);
      }
      join_row<A>(blends.data(), blends.size(), product, width, map + row * width);
      greatest.update(map + row * width, width);
      if (y + 1 == height || row + 1 == end) {
        maxima[row] = greatest.value();
        greatest = Maximum<A>(kLowest);
      }
    }
  });
  for (int64_t n = 0; n < images; ++n) {
    Maximum<A> greatest(kLowest);
    greatest.update(maxima.data() + n * height, height);
    maximum[n] = greatest.value();
  }
}

// ---- backward -----------------------------------------------------------------------------------

// One task an image and level: the gradient of a level needs the product of the others, which is
// computed again rather than divided out (a distance may be zero).
template <class A>
void backward(const std::vector<MapLevel<A>>& levels, const std::vector<Tensor>& out,
              int64_t images, int64_t height, int64_t width, bool product, const A* grad) {
  const int64_t count = static_cast<int64_t>(levels.size());
  parallel_for(0, images * count, 1, [&](int64_t begin, int64_t end) {
    std::vector<ExpandedRows<A>> rows;
    for (const auto& level : levels) rows.emplace_back(level, width);
    std::vector<A> others(width), above_grad(width), below_grad(width);
    std::vector<Blend<A>> blends;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / count, own = task % count;
      const MapLevel<A>& level = levels[own];
      A* level_grad = static_cast<A*>(out[own].data_ptr()) + image * level.height * level.width;
      std::fill_n(level_grad, level.height * level.width, A(0));
      for (auto& expanded : rows) expanded.start(image);
      // The gradients of the two expanded rows gather over the output rows between them, and go
      // down to the source row when the output leaves it behind.
      const auto flush = [&](int source, std::vector<A>& expanded_grad) {
        expand_row_backward<A>(expanded_grad.data(), level.columns.i0.data(),
                               level.columns.i1.data(), level.columns.w0.data(),
                               level.columns.w1.data(), width, level_grad + source * level.width);
        std::fill(expanded_grad.begin(), expanded_grad.end(), A(0));
      };
      std::fill(above_grad.begin(), above_grad.end(), A(0));
      std::fill(below_grad.begin(), below_grad.end(), A(0));
      int above = level.rows.i0[0], below = level.rows.i1[0];
      for (int64_t y = 0; y < height; ++y) {
        if (level.rows.i0[y] != above) {
          flush(above, above_grad);
          if (level.rows.i0[y] == below) {
            above_grad.swap(below_grad);
          } else {
            flush(below, below_grad);
          }
          above = level.rows.i0[y];
        }
        below = level.rows.i1[y];
        blends.clear();
        for (int64_t i = 0; i < count; ++i) {
          if (!product && i != own) continue;
          rows[i].move_to(y);
          if (i != own) blends.push_back(blend_at<A>(levels[i], rows[i], y));
        }
        if (product) join_row<A>(blends.data(), blends.size(), true, width, others.data());
        join_row_backward<A>(grad + (image * height + y) * width, product ? others.data() : nullptr,
                             blend_at<A>(level, rows[own], y), width, above_grad.data(),
                             below_grad.data());
      }
      flush(above, above_grad);
      flush(below, below_grad);
    }
  });
}

// ---- ops ----------------------------------------------------------------------------------------

template <class A>
void aggregate_as(const std::vector<Tensor>& maps, const std::vector<double>& weights,
                  int64_t height, int64_t width, bool product, const Tensor& map,
                  const Tensor& maximum) {
  forward<A>(map_levels<A>(maps, height, width, weights), maps[0].size(0), height, width, product,
             static_cast<A*>(map.data_ptr()), static_cast<A*>(maximum.data_ptr()));
}

template <class A>
void aggregate_backward_as(const Tensor& grad, const std::vector<Tensor>& maps, bool product,
                           const std::vector<double>& weights, const std::vector<Tensor>& out) {
  const int64_t height = grad.size(1), width = grad.size(2);
  backward<A>(map_levels<A>(maps, height, width, weights), out, grad.size(0), height, width,
              product, static_cast<const A*>(grad.data_ptr()));
}

std::vector<Tensor> aggregate_maps_backward(Tensor grad, std::vector<Tensor> maps, bool product,
                                            std::vector<double> weights) {
  check_maps(maps, weights);
  check_map_gradient(grad, maps);
  grad = as_contiguous(grad);
  std::vector<Tensor> out;
  for (const Tensor& map : maps) out.push_back(torch::stable::empty_like(map));
  maps[0].scalar_type() == ScalarType::Double
      ? aggregate_backward_as<double>(grad, maps, product, weights, out)
      : aggregate_backward_as<float>(grad, maps, product, weights, out);
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor> aggregate_maps(std::vector<Tensor> maps, int64_t height, int64_t width,
                                          bool product, std::vector<double> weights) {
  check_maps(maps, weights);
  check_size(height, width);
  const int64_t images = maps[0].size(0);
  Tensor map = torch::stable::new_empty(maps[0], {images, height, width});
  Tensor maximum = torch::stable::new_empty(maps[0], {images});
  maps[0].scalar_type() == ScalarType::Double
      ? aggregate_as<double>(maps, weights, height, width, product, map, maximum)
      : aggregate_as<float>(maps, weights, height, width, product, map, maximum);
  return {map, maximum};
}

}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("aggregate_maps", TORCH_BOX(&fastad::cpu::aggregate_maps));
  m.impl("aggregate_maps_backward", TORCH_BOX(&fastad::cpu::aggregate_maps_backward));
}
