// The maximum of an image, taken by many warps at once with integer atomics: the same bits
// whatever their order.
//
// Bits of a positive float grow with it as a signed integer, those of a negative one shrink with
// it as an unsigned integer. The identity, all bits set, is less than every positive in the first
// order and greater than every negative in the second, so that a memset starts the reduction and
// nothing has to be decoded at its end. NaN is stored as the greatest positive: it stays.

#pragma once

#include <cuda_runtime.h>

#include <cstring>

namespace fastad::cuda {

constexpr int kMaximumIdentityByte = 0xff;

template <class Acc>
struct MaximumWord;
template <>
struct MaximumWord<float> {
  using Signed = int;
  using Unsigned = unsigned int;
  static constexpr Signed kNan = 0x7fffffff;
};
template <>
struct MaximumWord<double> {
  using Signed = long long;
  using Unsigned = unsigned long long;
  static constexpr Signed kNan = 0x7fffffffffffffffLL;
};

// NaN wins, as in torch.amax.
template <class Acc>
__device__ __forceinline__ Acc maximum_of(Acc a, Acc b) {
  return b > a || b != b ? b : a;
}

template <class Acc>
__device__ __forceinline__ void atomic_maximum(Acc* address, Acc value) {
  using Signed = typename MaximumWord<Acc>::Signed;
  using Unsigned = typename MaximumWord<Acc>::Unsigned;
  Signed bits;
  memcpy(&bits, &value, sizeof(bits));
  if (value != value) bits = MaximumWord<Acc>::kNan;
  if (bits >= 0) {
    atomicMax(reinterpret_cast<Signed*>(address), bits);
  } else {
    atomicMin(reinterpret_cast<Unsigned*>(address), static_cast<Unsigned>(bits));
  }
}

}  // namespace fastad::cuda
