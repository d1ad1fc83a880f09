// The maximum of an image, taken by many warps at once with integer atomics: the same bits
// whatever their order.
//
// Bits of a positive float grow with it as a signed integer. Those of a negative one shrink with
// it as an unsigned integer. The identity, all bits set, is less than every positive in the first
// order and greater than every negative in the second. So a memset starts the reduction, and its
// end needs no decoding. NaN is stored as the greatest positive, which nothing replaces.

#pragma once

#include "cuda/kernel.cuh"

namespace fastad::cuda {

constexpr int kMaximumIdentityByte = 0xff;

// Returns max(a, b). NaN in either operand propagates, as in torch.amax.
template <class Acc>
__device__ __forceinline__ Acc maximum_of(Acc a, Acc b) {
  return b > a || b != b ? b : a;
}

// Sets *address to max(*address, value). NaN in either propagates.
template <class Acc>
__device__ __forceinline__ void atomic_maximum(Acc* address, Acc value) {
  using Unsigned = std::conditional_t<sizeof(Acc) == 4, unsigned, unsigned long long>;
  using Signed = std::make_signed_t<Unsigned>;
  constexpr Signed kNan = static_cast<Signed>(~Unsigned{0} >> 1);
  const Signed bits = value != value ? kNan : bits_as<Signed>(value);
  if (bits >= 0) {
    atomicMax(reinterpret_cast<Signed*>(address), bits);
  } else {
    atomicMin(reinterpret_cast<Unsigned*>(address), static_cast<Unsigned>(bits));
  }
}

}  // namespace fastad::cuda
