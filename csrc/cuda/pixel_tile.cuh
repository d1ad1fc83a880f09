// A block's tile of one pyramid level: norms, distances and the student's gradient of its pixels.
//
// With n_t = max(|t|, eps), n_s likewise and w = t * (n_s / n_t) - s, the difference of the
// normalised vectors is u = s_hat - t_hat = -w / n_s. One fused multiply-add gives w with a single
// rounding, so nearly equal vectors keep their relative accuracy. The steps are
//   norms:     sums of squares over channels
//   distance:  d = 1/2 sum u^2 = 1/2 (sum w^2) / n_s^2
//   gradient:  g (u - s_hat (s_hat . u)) / n_s, where s_hat . u = d + (|s_hat|^2 - |t_hat|^2) / 2
// where what follows from a pixel's sums is computed by the thread that owns the pixel and told to
// those that share it.

#pragma once

#include "cuda/pixel_team.cuh"
#include "cuda/thread_features.cuh"

namespace fastad::cuda {

template <class Acc>
struct Norms {
  Acc teacher, student;                          // |t|, |s|
  Acc teacher_denominator, student_denominator;  // max(., eps)
  Acc student_inverse;                           // 1 / student_denominator
};

// Comparisons are written so that NaN stays NaN.
template <class Acc>
__device__ __forceinline__ Norms<Acc> make_norms(const Acc (&squares)[2], Acc eps) {
  const Acc t = sqrt(squares[0]), s = sqrt(squares[1]);
  const Acc student_denominator = s < eps ? eps : s;
  return {t, s, t < eps ? eps : t, student_denominator, Acc(1) / student_denominator};
}

template <class T, Path kPath>
class PixelTile {
  using Acc = typename T::Acc;
  using Features = ThreadFeatures<T, kPath>;
  static constexpr int kPixels = Features::kPixels;  // of a thread

 public:
  __device__ PixelTile(const FeatureLevel& level, int tile)
      : level_(level),
        tile_(tile),
        team_(level, Features::channels_fastest(level)),
        features_(level, first_pixel() + team_.pixel_lane() * kPixels, team_.channel_lane(),
                  team_.channel_lanes()) {}

  // The pixel, counted over the level, whose norms and distance this thread gets, if any; one
  // of its owners is to write its results.
  __device__ bool owns() const { return team_.owns() && owned_pixel() < level_.pixels; }
  __device__ bool writes() const { return team_.writes() && owns(); }
  __device__ int64_t owned_pixel() const { return first_pixel() + team_.owned_pixel(); }

  // Norms of the owned pixel; afterwards every thread knows the factors of its own pixels.
  __device__ Norms<Acc> norms(Acc eps) {
    Acc squares[2][kPixels] = {};
    for (int chunk = 0; chunk < level_.chunks; ++chunk) {
      features_.load_chunk(chunk);
      features_.for_each([&](Acc t, Acc s, int p) {
        squares[0][p] += t * t;
        squares[1][p] += s * s;
      });
    }
    Acc total[2] = {};
    team_.sum(squares, total);
    const Norms<Acc> n = make_norms(total, eps);
    team_.template tell<kRatio>({n.student_denominator / n.teacher_denominator});
    return n;
  }

  // Distance of the owned pixel. The chunks are walked backwards: the last one is still here.
  __device__ Acc distance(const Norms<Acc>& n) {
    Acc squares[1][kPixels] = {};
    for (int chunk = level_.chunks - 1; chunk >= 0; --chunk) {
      features_.load_chunk(chunk);
      features_.for_each([&](Acc t, Acc s, int p) {
        const Acc w = difference(t, s, p);
        squares[0][p] += w * w;
      });
    }
    Acc total[1] = {};
    team_.sum(squares, total);
    // One factor after the other: the square of the inverse may overflow.
    return Acc(0.5) * total[0] * n.student_inverse * n.student_inverse;
  }

  // Writes the gradient of all pixels; `upstream` is g of the owned pixel.
  __device__ void write_gradient(const Norms<Acc>& n, Acc distance, Acc upstream, Acc eps) {
    const Acc inverse = n.student_inverse;
    const Acc t_hat = n.teacher / n.teacher_denominator, s_hat = n.student * inverse;
    // A clamped norm is a constant: there is no part along s_hat to take off.
    const Acc along = n.student < eps ? 0 : distance + Acc(0.5) * (s_hat * s_hat - t_hat * t_hat);
    const Acc across = -upstream * inverse;
    team_.template tell<kOfDifference>({across * inverse, across * along * inverse});
    for (int chunk = 0; chunk < level_.chunks; ++chunk) {
      features_.load_chunk(chunk);
      features_.write_gradient([&](Acc t, Acc s, int p) {
        return fma(difference(t, s, p), team_.template told<kOfDifference>(p),
                   s * team_.template told<kOfStudent>(p));
      });
    }
  }

 private:
  // What a pixel's threads are told.
  enum { kRatio, kOfDifference, kOfStudent };

  // w, the difference of the normalised vectors times the student's norm
  __device__ Acc difference(Acc t, Acc s, int p) const {
    return fma(t, team_.template told<kRatio>(p), -s);
  }

  __device__ int64_t first_pixel() const {
    return static_cast<int64_t>(tile_) * level_.tile_pixels;
  }

  const FeatureLevel& level_;
  int tile_;
  PixelTeam<Acc, kPixels> team_;
  Features features_;
};

// Calls visit(tile) with the tile of this block. The three kinds of tile are separate code.
template <class T, class Visit>
__device__ __forceinline__ void visit_tile(const FeatureLevel& level, int tile,
                                           const Visit& visit) {
  if constexpr (!std::is_void_v<typename T::Scalar>) {
    if (level.path == Path::kPlanar) {
      PixelTile<T, Path::kPlanar> pixels(level, tile);
      return visit(pixels);
    }
    if (level.path == Path::kInterleaved) {
      PixelTile<T, Path::kInterleaved> pixels(level, tile);
      return visit(pixels);
    }
  }
  PixelTile<T, Path::kScalar> pixels(level, tile);
  visit(pixels);
}

}  // namespace fastad::cuda
