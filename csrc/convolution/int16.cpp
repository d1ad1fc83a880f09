#include "convolution/int16.h"

namespace fastad::cpu {

bool has_int16() {
#ifdef FASTAD_PANELS
  return has_wide_panels() && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

#ifdef FASTAD_PANELS

constexpr int64_t kAhead = 8192;  // bytes

// Not inline: otherwise g++ 12 does not keep its sums in registers.
FASTAD_VNNI void multiply_int16(const int16_t* x, int64_t stride, int64_t step,
                                const int16_t* filters, int64_t segments, int64_t pairs,
                                const float* scales, const float* rows, int64_t row_stride,
                                bool more, float* m) {
  __m512i sum[kInt16Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kInt16Rows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (int64_t i = 0; i < segments; ++i, x += step) {
    for (int64_t j = 0; j < pairs; ++j, filters += 2 * kPanel) {
      // The processor alone prefetches too late for the filters of the deeper layers.
      _mm_prefetch(reinterpret_cast<const char*>(filters) + kAhead, _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(filters) + kAhead + 64, _MM_HINT_T1);
      const __m512i first = _mm512_loadu_si512(filters);
      const __m512i second = _mm512_loadu_si512(filters + kPanel);
#pragma GCC unroll 8
      for (int r = 0; r < kInt16Rows; ++r) {
        int32_t pair;
        std::memcpy(&pair, x + r * stride + 2 * j, sizeof(pair));
        const __m512i value = _mm512_set1_epi32(pair);
        // In place of _mm512_dpwssd_epi32, for which g++ 12 copies the sums back and forth.
        asm("vpdpwssd %2, %1, %0" : "+v"(sum[r][0]) : "v"(value), "v"(first));
        asm("vpdpwssd %2, %1, %0" : "+v"(sum[r][1]) : "v"(value), "v"(second));
      }
    }
  }
  const __m512 scale[2] = {_mm512_loadu_ps(scales), _mm512_loadu_ps(scales + 16)};
#pragma GCC unroll 8
  for (int r = 0; r < kInt16Rows; ++r) {
    const __m512 row = _mm512_set1_ps(rows[r * row_stride]);
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      float* to = m + r * kPanel + j * 16;
      const __m512 by = _mm512_mul_ps(scale[j], row), product = _mm512_cvtepi32_ps(sum[r][j]);
      _mm512_storeu_ps(to, more ? _mm512_fmadd_ps(product, by, _mm512_loadu_ps(to))
                                : _mm512_mul_ps(product, by));
    }
  }
}

#endif

}  // namespace fastad::cpu
