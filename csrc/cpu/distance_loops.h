// The CPU inner loops: what happens to one block of pixels. Free of torch, so that an instruction
// counter can run them alone.
//
// A block is `pixels` consecutive pixels of one image with all `channels`. It is small enough to
// stay in the L2 cache, so memory is read once although the loops read the block two or three
// times: norms first, then differences of normalised values (no 1 - dot, which would cancel for
// nearly equal vectors), then the gradient.
//
// A block lies in memory either planar, element (c, p) at c * stride + p, or interleaved
// (channels_last), at p * stride + c.

#pragma once

#include <cstdint>

namespace fastad::cpu {

enum class DType : uint8_t { float64, float32, float16, bfloat16 };
enum class Layout : uint8_t { planar, interleaved };

// A block's values in the accumulation type A (float or double), where they lie, and how.
template <class A>
struct Staged {
  const A* data;
  int64_t stride;
  // Mean and factor of each channel, (2, channels): the value is that of (x - mean) * factor. Only
  // a teacher has it, null for none. It is applied in every pass: a copy would take memory and
  // time.
  const A* standard = nullptr;
};

// Reads a block of `type` laid out as `from`; square_sums[p] becomes the sum over c of x(c, p)^2.
// Values come out laid out as `to`: in place where type and layout are already right, in `scratch`
// (channels * pixels) otherwise.
template <class A>
Staged<A> stage(const void* x, DType type, Layout from, int64_t stride, Layout to, int64_t channels,
                int64_t pixels, A* scratch, A* square_sums);

// square_sums[p] becomes the sum of the squares of a block that has a standard.
template <class A>
void standard_squares(Staged<A> t, Layout layout, int64_t channels, int64_t pixels, A* square_sums);

// Square sums of teacher and student become 1 / max(norm, eps). projection[p] becomes
// (|s_hat|^2 - |t_hat|^2) / 2, which is zero where no norm is clamped, and -1 where the student's
// is: there the gradient has no part through the norm. t_projection likewise with the roles
// exchanged.
template <class A>
void inverse_norms(int64_t pixels, double eps, A* t, A* s, A* projection, A* t_projection);

// distances[p] = 1/2 sum_c (t(c, p) * t_inverse[p] - s(c, p) * s_inverse[p])^2
template <class A>
void distance(Staged<A> t, Staged<A> s, Layout layout, int64_t channels, int64_t pixels,
              const A* t_inverse, const A* s_inverse, A* distances);

// out(c, p) = s(c, p) * s_scale[p] - t(c, p) * t_scale[p], the gradient for the student's block, in
// its own type and layout.
template <class A>
void gradient(Staged<A> t, Staged<A> s, Layout layout, int64_t channels, int64_t pixels,
              const A* t_scale, const A* s_scale, void* out, DType type, int64_t out_stride);

// x[i] *= factor
void scale(void* x, DType type, int64_t count, double factor);

}  // namespace fastad::cpu
