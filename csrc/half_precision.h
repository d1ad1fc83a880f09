// Conversions between half precision and float in integer arithmetic, which vectorises on every
// instruction set. IEEE binary16 and bfloat16, round to nearest even, infinities and NaN kept.

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "instruction_set.h"

namespace fastad::cpu {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class A>
FASTAD_INLINE A widen(double x) {
  return static_cast<A>(x);
}
template <class A>
FASTAD_INLINE A widen(float x) {
  return static_cast<A>(x);
}
template <class A>
FASTAD_INLINE A widen(BFloat16 x) {
  return static_cast<A>(std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16));
}
template <class A>
FASTAD_INLINE A widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  // Normal, infinite, NaN: the exponent is moved up far enough to saturate it for infinity, then
  // scaled back. Subnormal: the mantissa of 0.5 plus itself, less 0.5, is exact.
  const float normal = std::bit_cast<float>((magnitude << 13) + 0x70000000u) * 0x1p-112f;
  const float subnormal = std::bit_cast<float>(magnitude | 0x3f000000u) - 0.5f;
  const uint32_t choose = 0u - static_cast<uint32_t>(magnitude < 0x0400u);
  const uint32_t bits =
      (std::bit_cast<uint32_t>(subnormal) & choose) | (std::bit_cast<uint32_t>(normal) & ~choose);
  return static_cast<A>(std::bit_cast<float>(bits | sign));
}

FASTAD_INLINE BFloat16 to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
}

FASTAD_INLINE Half to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Adding a power of two whose last place is the half's last place rounds to nearest even there.
  const uint32_t smallest = 0x38800000u;  // 2^-14, the least normal half
  const uint32_t exponent = std::max(magnitude & 0x7f800000u, smallest);
  const uint32_t base = exponent + (13u << 23);
  const float sum = std::bit_cast<float>(magnitude) + std::bit_cast<float>(base);
  const uint32_t steps = std::bit_cast<uint32_t>(sum) - base;  // in the half's last places
  uint32_t half = steps + ((exponent - smallest) >> 13);
  half = magnitude >= 0x47800000u ? 0x7c00u : half;  // 65536 and more: infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u))};
}

template <class Y, class A>
FASTAD_INLINE Y narrow(A x) {
  if constexpr (std::is_same_v<Y, Half>) {
    return to_half(static_cast<float>(x));
  } else if constexpr (std::is_same_v<Y, BFloat16>) {
    return to_bfloat16(static_cast<float>(x));
  } else {
    return static_cast<Y>(x);
  }
}

}  // namespace fastad::cpu
