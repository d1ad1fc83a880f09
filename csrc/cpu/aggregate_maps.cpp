// Bilinear upsampling of every level fused with the product or sum of the levels and the maximum of
// each image.
//
// Work: per output pixel and level 2 multiply-adds and the join, on expanded rows
// (cpu/upsampling_loops.h). Bytes: the maps (21 KB an image for ResNet-18 at 256x256) in, one map
// (262 KB) out, in half precision half of that. The upsampled levels are never written, nor is a
// map before it is smoothed (cpu/smoothing.h).

#include "cpu/aggregate_maps.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

#include "cpu/smoothing.h"
#include "cpu/upsampling_loops.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

// Source index and weight of every output pixel along one axis.
template <class A>
struct Axis {
  std::vector<int> i0, i1;
  std::vector<A> w0, w1;

  Axis(int64_t in, int64_t out, bool align_corners) : i0(out), i1(out), w0(out), w1(out) {
    const A scale = bilinear_scale<A>(static_cast<int>(in), static_cast<int>(out), align_corners);
    const A centre = bilinear_centre<A>(align_corners);
    for (int64_t i = 0; i < out; ++i) {
      const auto index =
          bilinear_index<A>(static_cast<int>(i), scale, centre, static_cast<int>(in));
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
                                    const std::vector<double>& weights, bool align_corners) {
  std::vector<MapLevel<A>> levels;
  for (size_t i = 0; i < maps.size(); ++i) {
    const int64_t h = maps[i].size(1), w = maps[i].size(2);
    levels.push_back({static_cast<A*>(maps[i].data_ptr()), h, w, static_cast<A>(weights[i]),
                      Axis<A>(h, height, align_corners), Axis<A>(w, width, align_corners)});
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

// The maps of the images, or their gradients, lie `image_stride` apart.
template <class Y>
struct Maps {
  Y* data;
  int64_t image_stride;
  int64_t images, height, width;

  Y* row(int64_t image, int64_t y) const { return data + image * image_stride + y * width; }
};

template <class A>
Maps<const A> as_const(const Maps<A>& maps) {
  return {maps.data, maps.image_stride, maps.images, maps.height, maps.width};
}

// Rows of a joined map, from top to bottom.
template <class A>
class JoinedRows {
 public:
  JoinedRows(const std::vector<MapLevel<A>>& levels, bool product, int64_t width)
      : levels_(&levels), product_(product), width_(width), blends_(levels.size()) {
    for (const auto& level : levels) rows_.emplace_back(level, width);
  }

  void start(int64_t image) {
    for (auto& rows : rows_) rows.start(image);
  }

  void join(int64_t y, A* out) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].move_to(y);
      blends_[i] = blend_at<A>((*levels_)[i], rows_[i], y);
    }
    join_row<A>(blends_.data(), blends_.size(), product_, width_, out);
  }

 private:
  const std::vector<MapLevel<A>>* levels_;
  bool product_;
  int64_t width_;
  std::vector<ExpandedRows<A>> rows_;
  std::vector<Blend<A>> blends_;
};

// The part of an image in a stretch of rows that are counted over all images.
struct Part {
  int64_t image, begin, end;

  Part(int64_t row, int64_t last, int64_t height)
      : image(row / height), begin(row % height), end(std::min(height, begin + last - row)) {}
};

// Rows of a stretch: a thread makes `radius` more above and below.
int64_t grain_of(int64_t width, int64_t radius = 0) {
  return std::max<int64_t>({1, 8192 / width, 4 * radius});
}

// `sigma`: of the Gaussian over the map; 0 for none. `maximum` may be null. A map of another type,
// Y, is rounded row by row, and not smoothed.
template <class A, class Y>
void forward(const std::vector<MapLevel<A>>& levels, bool product, double sigma, const Maps<Y>& map,
             A* maximum) {
  constexpr bool kRounded = !std::is_same_v<A, Y>;
  const int64_t images = map.images, height = map.height, width = map.width;
  // A thread may begin or end within an image: it stores its maximum after its last row there.
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  std::vector<A> maxima(images * height, kLowest);
  const int64_t grain = grain_of(width, sigma > 0 ? gaussian_radius(sigma) : 0);
  parallel_for(0, images * height, grain, [&](int64_t begin, int64_t end) {
    JoinedRows<A> joined(levels, product, width);
    std::vector<A> exact(kRounded ? width : 0);
    std::optional<Smoothing<A>> smoothing;
    if (sigma > 0) smoothing.emplace(sigma, height, width, false);
    for (int64_t row = begin; row < end;) {
      const Part part(row, end, height);
      const auto place = [&](int64_t y) { return map.row(part.image, y); };
      const auto join = [&](int64_t y, A* out) { joined.join(y, out); };
      Maximum<A> greatest(kLowest);
      joined.start(part.image);
      if constexpr (!kRounded) {
        if (smoothing) smoothing->run(part.begin, part.end, join, place);
      }
      for (int64_t y = part.begin; y < part.end; ++y) {
        A* out = exact.data();
        if constexpr (!kRounded) out = place(y);
        if (!smoothing) join(y, out);
        if constexpr (kRounded) narrow_row(out, width, place(y));
        if (maximum != nullptr) greatest.update(out, width);
      }
      row += part.end - part.begin;
      maxima[row - 1] = greatest.value();
    }
  });
  for (int64_t n = 0; n < (maximum == nullptr ? 0 : images); ++n) {
    Maximum<A> greatest(kLowest);
    greatest.update(maxima.data() + n * height, height);
    maximum[n] = greatest.value();
  }
}

// ---- backward -----------------------------------------------------------------------------------

// One task an image and level: the gradient of a level needs the product of the others, which is
// computed again rather than divided out (a distance may be zero).
template <class A, class Y>
void backward(const std::vector<MapLevel<A>>& levels, const std::vector<Tensor>& out, bool product,
              const Maps<const Y>& grad) {
  constexpr bool kRounded = !std::is_same_v<A, Y>;
  const int64_t images = grad.images, height = grad.height, width = grad.width;
  const int64_t count = static_cast<int64_t>(levels.size());
  parallel_for(0, images * count, 1, [&](int64_t begin, int64_t end) {
    std::vector<ExpandedRows<A>> rows;
    for (const auto& level : levels) rows.emplace_back(level, width);
    std::vector<A> others(width), above_grad(width), below_grad(width);
    std::vector<A> widened(kRounded ? width : 0);
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
        const A* upstream = widened.data();
        if constexpr (kRounded) {
          widen_row(grad.row(image, y), width, widened.data());
        } else {
          upstream = grad.row(image, y);
        }
        join_row_backward<A>(upstream, product ? others.data() : nullptr,
                             blend_at<A>(level, rows[own], y), width, above_grad.data(),
                             below_grad.data());
      }
      flush(above, above_grad);
      flush(below, below_grad);
    }
  });
}

// The gradient of a map before it was smoothed, from that after.
template <class A>
void unsmooth(const Maps<const A>& grad, double sigma, const Maps<A>& out) {
  const int64_t height = grad.height, width = grad.width;
  const int64_t grain = grain_of(width, gaussian_radius(sigma));
  parallel_for(0, grad.images * height, grain, [&](int64_t begin, int64_t end) {
    Smoothing<A> smoothing(sigma, height, width, true);
    for (int64_t row = begin; row < end;) {
      const Part part(row, end, height);
      smoothing.run(
          part.begin, part.end,
          [&](int64_t y, A* to) { std::copy_n(grad.row(part.image, y), width, to); },
          [&](int64_t y) { return out.row(part.image, y); });
      row += part.end - part.begin;
    }
  });
}

// ---- ops ----------------------------------------------------------------------------------------

// Calls visit(A{}) with the C++ type of maps.
template <class Visit>
void by_map_type(const Tensor& map, const Visit& visit) {
  map.scalar_type() == ScalarType::Double ? visit(double{}) : visit(float{});
}

// Calls visit(A{}, Y{}) with the C++ types of maps and of what they are joined to.
template <class Visit>
void by_types(const Tensor& map, const Tensor& joined, const Visit& visit) {
  by_map_type(map, [&](auto x) {
    switch (joined.scalar_type()) {
      case ScalarType::Half:
        return visit(x, Half{});
      case ScalarType::BFloat16:
        return visit(x, BFloat16{});
      default:
        return visit(x, x);
    }
  });
}

std::vector<Tensor> aggregate_maps_backward(Tensor grad, std::vector<Tensor> maps, bool product,
                                            std::vector<double> weights, bool align_corners,
                                            double smoothing) {
  check_maps(maps, weights);
  check_map_gradient(grad, maps);
  check_smoothing(smoothing, grad.scalar_type() != maps[0].scalar_type());
  grad = as_contiguous(grad);
  std::vector<Tensor> out;
  for (const Tensor& map : maps) out.push_back(torch::stable::empty_like(map));
  const int64_t images = grad.size(0), height = grad.size(1), width = grad.size(2);
  by_types(maps[0], grad, [&](auto x, auto y) {
    using A = decltype(x);
    using Y = decltype(y);
    const auto image = [&](const Tensor& map) {
      return Maps<Y>{static_cast<Y*>(map.data_ptr()), height * width, images, height, width};
    };
    Tensor joined_grad = grad;
    if constexpr (std::is_same_v<A, Y>) {
      if (smoothing > 0) {
        joined_grad = torch::stable::empty_like(grad);
        unsmooth<A>(as_const(image(grad)), smoothing, image(joined_grad));
      }
    }
    backward<A, Y>(map_levels<A>(maps, height, width, weights, align_corners), out, product,
                   as_const(image(joined_grad)));
  });
  return out;
}

Tensor stack_maps(std::vector<Tensor> maps, int64_t height, int64_t width, bool align_corners,
                  std::optional<ScalarType> dtype) {
  check_maps(maps, std::vector<double>(maps.size(), 1.0));
  check_size(height, width);
  const int64_t images = maps[0].size(0), count = static_cast<int64_t>(maps.size());
  const int64_t pixels = height * width;
  Tensor stack = torch::stable::new_empty(maps[0], {images, count, height, width},
                                          check_map_dtype(dtype, maps[0].scalar_type()));
  by_types(maps[0], stack, [&](auto x, auto y) {
    using A = decltype(x);
    using Y = decltype(y);
    for (int64_t l = 0; l < count; ++l) {
      forward<A, Y>(
          map_levels<A>({maps[l]}, height, width, {1.0}, align_corners), true, 0,
          {static_cast<Y*>(stack.data_ptr()) + l * pixels, count * pixels, images, height, width},
          nullptr);
    }
  });
  return stack;
}

std::vector<Tensor> stack_maps_backward(Tensor grad, std::vector<Tensor> maps, bool align_corners) {
  check_maps(maps, std::vector<double>(maps.size(), 1.0));
  check_stack_gradient(grad, maps);
  grad = as_contiguous(grad);
  const int64_t images = grad.size(0), count = grad.size(1), height = grad.size(2);
  const int64_t width = grad.size(3), pixels = height * width;
  std::vector<Tensor> out;
  for (const Tensor& map : maps) out.push_back(torch::stable::empty_like(map));
  by_types(maps[0], grad, [&](auto x, auto y) {
    using A = decltype(x);
    using Y = decltype(y);
    for (int64_t l = 0; l < count; ++l) {
      backward<A, Y>(map_levels<A>({maps[l]}, height, width, {1.0}, align_corners), {out[l]}, false,
                     {static_cast<const Y*>(grad.data_ptr()) + l * pixels, count * pixels, images,
                      height, width});
    }
  });
  return out;
}

}  // namespace

std::tuple<Tensor, Tensor> aggregate_maps(std::vector<Tensor> maps, int64_t height, int64_t width,
                                          bool product, std::vector<double> weights,
                                          bool align_corners, std::optional<ScalarType> dtype,
                                          double smoothing) {
  check_maps(maps, weights);
  check_size(height, width);
  check_smoothing(smoothing, dtype.has_value());
  const int64_t images = maps[0].size(0);
  Tensor map = torch::stable::new_empty(maps[0], {images, height, width},
                                        check_map_dtype(dtype, maps[0].scalar_type()));
  Tensor maximum = torch::stable::new_empty(maps[0], {images});
  by_types(maps[0], map, [&](auto x, auto y) {
    using A = decltype(x);
    using Y = decltype(y);
    forward<A, Y>(map_levels<A>(maps, height, width, weights, align_corners), product, smoothing,
                  {static_cast<Y*>(map.data_ptr()), height * width, images, height, width},
                  static_cast<A*>(maximum.data_ptr()));
  });
  return {map, maximum};
}

}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("aggregate_maps", TORCH_BOX(&fastad::cpu::aggregate_maps));
  m.impl("aggregate_maps_backward", TORCH_BOX(&fastad::cpu::aggregate_maps_backward));
  m.impl("stack_maps", TORCH_BOX(&fastad::cpu::stack_maps));
  m.impl("stack_maps_backward", TORCH_BOX(&fastad::cpu::stack_maps_backward));
}
