// Bilinear upsampling along one axis: which two source pixels an output pixel reads, with which
// weights, and which output pixels a source pixel reaches. PyTorch's rule: pixels are areas, or
// with `align_corners` points, the outermost of which coincide. Plain C++ that host and device
// share.

#pragma once

#if defined(__CUDACC__)
#define FASTAD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FASTAD_HOST_DEVICE inline
#endif

namespace fastad {

// An output pixel is w0 * source[i0] + w1 * source[i1]. i0 == i1 at the far edge, and where an axis
// keeps its length: there 0 * source[i1] would be no 0 where the source is infinite.
template <class T>
struct BilinearIndex {
  int i0, i1;
  T w0, w1;
};

// Source pixels per output pixel: what bilinear_index takes as `scale`.
template <class T>
FASTAD_HOST_DEVICE T bilinear_scale(int in, int out, bool align_corners) {
  if (!align_corners) return static_cast<T>(in) / static_cast<T>(out);
  return out > 1 ? static_cast<T>(in - 1) / static_cast<T>(out - 1) : T(0);
}

// Where a pixel lies on its axis, beyond its index: what bilinear_index takes as `centre`.
template <class T>
FASTAD_HOST_DEVICE T bilinear_centre(bool align_corners) {
  return align_corners ? T(0) : T(0.5);
}

template <class T>
FASTAD_HOST_DEVICE BilinearIndex<T> bilinear_index(int dst, T scale, T centre, int in) {
  T src = scale * (static_cast<T>(dst) + centre) - centre;
  src = src > T(0) ? src : T(0);
  int i0 = static_cast<int>(src);
  i0 = i0 < in - 1 ? i0 : in - 1;
  T w1 = src - static_cast<T>(i0);
  w1 = w1 < T(1) ? w1 : T(1);
  return {i0, i0 + (i0 < in - 1 && scale != T(1)), T(1) - w1, w1};
}

}  // namespace fastad
