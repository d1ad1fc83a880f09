// Norms, distances and the student's gradient of the pixels of a tile.
//
// A pixel's channels are summed by shuffles within a warp. Where its channel lanes lie in several
// warps, the thread that owns the pixel adds the warps' sums through shared memory, always in one
// order. Where they lie in one warp, all of them own it.
//
// With n_t = max(|t|, eps), n_s likewise and w = t * (n_s / n_t) - s, the difference of the
// normalised vectors is u = s_hat - t_hat = -w / n_s. One fused multiply-add gives w with a single
// rounding, so nearly equal vectors keep their relative accuracy. The steps are
//   norms:     sums of squares over channels
//   distance:  d = 1/2 sum u^2 = 1/2 (sum w^2) / n_s^2
//   gradient:  g (u - s_hat (s_hat . u)) / n_s, where s_hat . u = d + (|s_hat|^2 - |t_hat|^2) / 2
// The teacher's gradient is the same with the roles exchanged, where w becomes -w * n_t / n_s.
//
// The distance of vectors as they are, the mean of w^2 over C channels, is that of vectors whose
// norms are both constants, the root of C / 2: no sums for norms, and none of the gradient is along
// s_hat. Of a flattened level, which is one vector, the norms are those of all its pixels, the same
// for each: the gradient is that of the formula above, with d the distance of the level.

#pragma once

#include "cuda/feature_tile.cuh"
#include "cuda/pixel_weights.cuh"

namespace fastad::cuda {

// What the owner of a pixel computes for all threads of the pixel.
enum Factor {
  kRatio,         // n_s / n_t
  kOfDifference,  // of w in the gradient
  kOfStudent,     // of s in the gradient
  // In the teacher's gradient.
  kOfDifferenceInTeacher,
  kOfTeacher,
  kFactors,
};

template <class Acc>
struct TileMemory {
  alignas(16) Acc partial[2][kThreads / kWarp][kTilePixels];  // a warp's part of a pixel's sums
  alignas(16) Acc factors[kFactors][kTilePixels];
};

inline size_t shared_bytes(const FeaturePyramid& pyramid) {
  return pyramid.is_double ? sizeof(TileMemory<double>) : sizeof(TileMemory<float>);
}

// The sum over a block, in every thread; always in one order.
template <class Acc>
__device__ __forceinline__ Acc sum_over_block(Acc value) {
  TileMemory<Acc>& memory = shared_memory<TileMemory<Acc>>();
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) memory.partial[0][0][threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) value += memory.partial[0][0][warp];
  return value;
}

template <class Acc>
struct Norms {
  Acc teacher, student;                          // |t|, |s|
  Acc teacher_denominator, student_denominator;  // max(., eps)
  Acc student_inverse;                           // 1 / student_denominator
};

template <class T, Path kPath, bool kGeneral>
class DistanceTile : public FeatureTile<T, kPath, kGeneral> {
  using Base = FeatureTile<T, kPath, kGeneral>;
  using Acc = typename T::Acc;
  using Base::channel_lanes;
  using Base::channels_fastest_;
  using Base::first_pixel;
  using Base::first_slot_;
  using Base::for_each;
  using Base::kInWord;
  using Base::kPixels;
  using Base::kSlots;
  using Base::kWords;
  using Base::level_;
  using Base::load_chunk;
  using Base::pixel_lane_;
  using Base::pixel_lanes_log2_;
  using Base::store_slot;
  using Base::thread;
  using Base::tile_pixels_;
  using Base::visit_word;
  using typename Base::Slot;
  using typename Base::Stored;
  using typename Base::Word;

 public:
  using Base::Base;

  // Whether this thread has the norms and the distance of a pixel, and whether it is the one owner
  // that writes them.
  __device__ bool owns() const { return gets_sums() && owned_pixel() < level_.pixels; }
  __device__ bool writes() const { return owns() && (!in_warp() || first_slot_ == 0); }

  // The owned pixel, counted over the level.
  __device__ int64_t owned_pixel() const {
    if (in_warp()) return first_pixel() + pixel_lane_;
    if (kPixels == 1) return first_pixel() + thread();
    const int lane = thread() & ((1 << pixel_lanes_log2_) - 1);
    return first_pixel() + lane * kPixels + (thread() >> pixel_lanes_log2_);
  }

  // Its image.
  __device__ int64_t owned_image() const { return divide(owned_pixel(), level_.image_pixels); }

  // Its weight. Values cannot be refused here: what is negative or not finite becomes NaN.
  __device__ Acc weight(const PixelWeights& weights) const {
    const int64_t image = owned_image(), pixel = owned_pixel() - image * level_.image_pixels;
    return finite_weight(
        load(static_cast<const Acc*>(weights.data) + image * weights.image_stride + pixel));
  }

  // Norms of the owned pixel. NaN propagates through the comparisons.
  __device__ Norms<Acc> norms(Acc eps, bool l2) {
    if constexpr (kGeneral) {
      if (l2) {
        share<kRatio>({Acc(1)});
        // Both clamped, whatever they are: 0 is less than eps.
        const Acc constant = sqrt(static_cast<Acc>(level_.channels) / 2);
        return {.teacher = 0,
                .student = 0,
                .teacher_denominator = constant,
                .student_denominator = constant,
                .student_inverse = 1 / constant};
      }
    }
    Acc squares[2][kPixels] = {}, total[2] = {};
    for (int chunk = 0; chunk < level_.chunks; ++chunk) {
      load_chunk(chunk);
      for_each([&](Acc t, Acc s, int p) {
        squares[0][p] += t * t;
        squares[1][p] += s * s;
      });
    }
    sum_over_channels(squares, total);
    return share_norms(sqrt(total[0]), sqrt(total[1]), eps);
  }

  // The norms that this pixel's vectors are divided by, given by its owner. In place of `norms`.
  __device__ Norms<Acc> share_norms(Acc t, Acc s, Acc eps) {
    const Acc teacher_denominator = t < eps ? eps : t, student_denominator = s < eps ? eps : s;
    share<kRatio>({student_denominator / teacher_denominator});
    return {.teacher = t,
            .student = s,
            .teacher_denominator = teacher_denominator,
            .student_denominator = student_denominator,
            .student_inverse = Acc(1) / student_denominator};
  }

  // Distance of the owned pixel. Chunks come in reverse order: the last one is still in the slots.
  __device__ Acc distance(const Norms<Acc>& n) {
    Acc squares[1][kPixels] = {}, total[1] = {};
    for (int chunk = level_.chunks - 1; chunk >= 0; --chunk) {
      load_chunk(chunk);
      for_each([&](Acc t, Acc s, int p) {
        const Acc w = difference(t, s, p);
        squares[0][p] += w * w;
      });
    }
    sum_over_channels(squares, total);
    // One factor after the other: the square of the inverse may overflow.
    return Acc(0.5) * total[0] * n.student_inverse * n.student_inverse;
  }

  // Writes the gradient of all pixels; `upstream` is g of the owned pixel.
  __device__ void write_gradient(const Norms<Acc>& n, Acc distance, Acc upstream, Acc eps) {
    const Acc inverse = n.student_inverse;
    const Acc t_hat = n.teacher / n.teacher_denominator, s_hat = n.student * inverse;
    // A clamped norm is a constant: the gradient keeps its part along s_hat.
    const Acc along = n.student < eps ? 0 : distance + Acc(0.5) * (s_hat * s_hat - t_hat * t_hat);
    const Acc across = -upstream * inverse;
    share<kOfDifference>({across * inverse, across * along * inverse});
    write_sum<kOfDifference, kOfStudent>(level_.gradient, [](Acc, Acc s) { return s; });
    if constexpr (kGeneral) {
      if (level_.teacher_gradient.data == nullptr) return;
      const Acc t_inverse = 1 / n.teacher_denominator;
      const Acc t_along =
          n.teacher < eps ? 0 : distance + Acc(0.5) * (t_hat * t_hat - s_hat * s_hat);
      const Acc t_across = -upstream * t_inverse;
      share<kOfDifferenceInTeacher>({-t_across * inverse, t_across * t_along * t_inverse});
      write_sum<kOfDifferenceInTeacher, kOfTeacher>(level_.teacher_gradient,
                                                    [](Acc t, Acc) { return t; });
    }
  }

 private:
  // ---- who owns what ----------------------------------------------------------------------------

  // Whether the channel lanes of a pixel lie in one warp.
  __device__ bool in_warp() const { return channels_fastest_ && channel_lanes() <= kWarp; }
  __device__ bool gets_sums() const { return in_warp() || thread() < tile_pixels_; }
  // Pixel p of this thread in shared memory: neighbouring lanes lie in neighbouring banks.
  __device__ int place(int p) const { return (p << pixel_lanes_log2_) + pixel_lane_; }

  // ---- sums and factors -------------------------------------------------------------------------

  // Sums over the channels of every pixel; `total` is that of the owned pixel.
  template <int kSums>
  __device__ void sum_over_channels(Acc (&sums)[kSums][kPixels], Acc (&total)[kSums]) {
    const int begin = channels_fastest_ ? 1 : 1 << pixel_lanes_log2_;
    const int end = channels_fastest_ ? min(channel_lanes(), kWarp) : kWarp;
    for (int offset = begin; offset < end; offset *= 2) {
#pragma unroll
      for (int i = 0; i < kSums * kPixels; ++i) {
        Acc& sum = sums[i / kPixels][i % kPixels];
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
    }
    if (in_warp()) {
#pragma unroll
      for (int k = 0; k < kSums; ++k) total[k] = sums[k][0];
      return;
    }
    TileMemory<Acc>& memory = shared_memory<TileMemory<Acc>>();
    // Warps that share a pixel, a power of two.
    const int warps = channels_fastest_ ? max(channel_lanes() / kWarp, 1) : kThreads / kWarp;
    if (thread() % kWarp < begin) {
      const int warp = (thread() / kWarp) & (warps - 1);
#pragma unroll
      for (int i = 0; i < kSums * kPixels; ++i) {
        memory.partial[i / kPixels][warp][place(i % kPixels)] = sums[i / kPixels][i % kPixels];
      }
    }
    __syncthreads();
    if (!gets_sums()) return;
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
#pragma unroll kPath == Path::kPlanar ? kThreads / kWarp : 4
      for (int warp = 0; warp < warps; ++warp) total[k] += memory.partial[k][warp][thread()];
    }
  }

  // Gives the owned pixel's factors, from `kFirst` on, to all threads of the pixel. Calls of
  // sum_over_channels and share alternate: the barrier of each protects what the other reads.
  template <int kFirst, int kCount>
  __device__ void share(const Acc (&values)[kCount]) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (in_warp()) {
        factors_[kFirst + k] = values[k];
      } else if (gets_sums()) {
        shared_memory<TileMemory<Acc>>().factors[kFirst + k][thread()] = values[k];
      }
    }
    if (!in_warp()) __syncthreads();
  }

  // Of this thread's pixel p. Read where it is used: registers are for features.
  template <Factor kFactor>
  __device__ Acc factor(int p) const {
    if (in_warp()) return factors_[kFactor];
    return shared_memory<TileMemory<Acc>>().factors[kFactor][place(p)];
  }

  // w, the difference of the normalised vectors times the student's norm
  __device__ Acc difference(Acc t, Acc s, int p) const { return fma(t, factor<kRatio>(p), -s); }

  // ---- the gradient -----------------------------------------------------------------------------

  // Writes w * its factor + own(t, s) * its factor, for all pixels.
  template <Factor kFirst, Factor kSecond, class Own>
  __device__ void write_sum(const FeatureMap& map, const Own& own) {
    for (int chunk = 0; chunk < level_.chunks; ++chunk) {
      load_chunk(chunk);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        Slot gradient;
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
          Acc values[kInWord];
          visit_word(slot, word, [&](Acc t, Acc s, int p, int i) {
            values[i] = fma(difference(t, s, p), factor<kFirst>(p), own(t, s) * factor<kSecond>(p));
          });
          gradient.v[word] = pack<Word, Stored>(values);
        }
        store_slot(map, slot, gradient);
      }
    }
  }

  Acc factors_[kFactors];  // where no other warp has to know
};

// The order of a second sweep: it finds in the cache what the first read last.
constexpr bool kBackwards = true;

// Calls visit(tile, l) with this block's tile, of level l. The kinds of tile are separate code.
template <class T, bool kGeneral, class Visit>
__device__ __forceinline__ void visit_tile(const FeaturePyramid& pyramid, const Visit& visit,
                                           bool backwards = false) {
  const int block = backwards ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
  int l = 0;
  while (l + 1 < pyramid.count && block >= pyramid.first_block[l + 1]) ++l;
  const auto visit_as = [&]<Path kPath>() {
    DistanceTile<T, kPath, kGeneral> tile(pyramid.levels[l], block - pyramid.first_block[l]);
    visit(tile, l);
  };
  const Path path = pyramid.levels[l].path;
  if constexpr (!std::is_void_v<typename T::Scalar>) {
    if (path == Path::kPlanar) return visit_as.template operator()<Path::kPlanar>();
    if (path == Path::kInterleaved) return visit_as.template operator()<Path::kInterleaved>();
  }
  visit_as.template operator()<Path::kScalar>();
}

}  // namespace fastad::cuda
