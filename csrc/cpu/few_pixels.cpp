#include "cpu/few_pixels.h"

#include <cstring>

namespace fastad::cpu {
namespace {

int64_t bytes_of(DType type) { return type == DType::float64 ? 8 : type == DType::float32 ? 4 : 2; }

// Calls visit with a value as large as one of `type`.
template <class Visitor>
void by_size(DType type, const Visitor& visit) {
  switch (bytes_of(type)) {
    case 8:
      return visit(uint64_t{});
    case 4:
      return visit(uint32_t{});
    default:
      return visit(uint16_t{});
  }
}

}  // namespace

void gather_pixels(const void* block, DType type, Layout layout, int64_t stride, int64_t channels,
                   const int64_t* places, int64_t count, void* to) {
  by_size(type, [&](auto value) {
    using X = decltype(value);
    const X* const in = static_cast<const X*>(block);
    X* const out = static_cast<X*>(to);
    if (layout == Layout::planar) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t k = 0; k < count; ++k) out[c * count + k] = in[c * stride + places[k]];
      }
    } else {
      for (int64_t k = 0; k < count; ++k) {
        std::memcpy(out + k * channels, in + places[k] * stride, channels * sizeof(X));
      }
    }
  });
}

void scatter_pixels(const void* from, DType type, Layout layout, int64_t stride, int64_t channels,
                    const int64_t* places, int64_t count, void* block) {
  by_size(type, [&](auto value) {
    using X = decltype(value);
    const X* const in = static_cast<const X*>(from);
    X* const out = static_cast<X*>(block);
    if (layout == Layout::planar) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t k = 0; k < count; ++k) out[c * stride + places[k]] = in[c * count + k];
      }
    } else {
      for (int64_t k = 0; k < count; ++k) {
        std::memcpy(out + places[k] * stride, in + k * channels, channels * sizeof(X));
      }
    }
  });
}

void clear_pixels(DType type, Layout layout, int64_t stride, int64_t channels, int64_t pixels,
                  void* block) {
  const bool planar = layout == Layout::planar;
  const int64_t rows = planar ? channels : pixels, size = bytes_of(type);
  const int64_t length = planar ? pixels : channels;
  char* const data = static_cast<char*>(block);
  if (stride == length) {  // the rows join
    std::memset(data, 0, rows * length * size);
    return;
  }
  for (int64_t row = 0; row < rows; ++row)
    std::memset(data + row * stride * size, 0, length * size);
}

}  // namespace fastad::cpu
