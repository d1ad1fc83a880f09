// Features of a few pixels among many: copied to where they lie side by side, and back.
//
// A block lies as in distance_loops.h; `places` are pixels of it. Side by side they have the
// block's layout, and no gaps.

#pragma once

#include "cpu/distance_loops.h"

namespace fastad::cpu {

// to(c, k) = block(c, places[k])
void gather_pixels(const void* block, DType type, Layout layout, int64_t stride, int64_t channels,
                   const int64_t* places, int64_t count, void* to);

// block(c, places[k]) = from(c, k)
void scatter_pixels(const void* from, DType type, Layout layout, int64_t stride, int64_t channels,
                    const int64_t* places, int64_t count, void* block);

// Sets all pixels of a block to 0.
void clear_pixels(DType type, Layout layout, int64_t stride, int64_t channels, int64_t pixels,
                  void* block);

}  // namespace fastad::cpu
