// The mean of the highest pixels of each image of a map, and where these are.
//
// Bytes: the map once, from the cache where it has just been made: 2 MB of 8 images of 256x256.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "checks.h"
#include "cpu/highest.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

template <class A>
void find(const Tensor& map, int64_t count, const Tensor& scores, const Tensor& places) {
  const int64_t pixels = map.size(1) * map.size(2);
  const A* const values = static_cast<const A*>(map.data_ptr());
  A* const score = static_cast<A*>(scores.data_ptr());
  int64_t* const place = static_cast<int64_t*>(places.data_ptr());
  parallel_for(0, map.size(0), 1, [&](int64_t begin, int64_t end) {
    thread_local HighestRoom<A> room;
    thread_local std::vector<int64_t> equals;  // places of those equal to the lowest
    for (int64_t n = begin; n < end; ++n) {
      const A* const image = values + n * pixels;
      int64_t* const found = place + n * count;
      const A lowest = highest(image, pixels, count, room);
      // Above it are fewer than `count`, the first of its equals are the rest.
      int64_t above = 0, equal = 0;
      double sum = 0;
      equals.resize(count);
      for_each_from(image, pixels, lowest, room, [&](int64_t i) {
        const bool is_nan = std::isnan(image[i]);
        if (image[i] > lowest || (is_nan && !std::isnan(lowest))) {
          found[above++] = i;
          sum += static_cast<double>(image[i]);
        } else if (equal < count && is_nan == std::isnan(lowest)) {
          equals[equal++] = i;
        }
      });
      std::copy_n(equals.begin(), count - above, found + above);
      if (count > above) sum += static_cast<double>(count - above) * static_cast<double>(lowest);
      score[n] = static_cast<A>(sum / static_cast<double>(count));
    }
  });
}

std::tuple<Tensor, Tensor> top_share(Tensor map, int64_t count) {
  check_maps({map}, {1.0});
  STD_TORCH_CHECK(count >= 1 && count <= map.size(1) * map.size(2),
                  "count must be from 1 to the number of pixels, not ", count);
  const int64_t images = map.size(0);
  const Tensor scores = torch::stable::new_empty(map, {images});
  const Tensor places = torch::stable::new_empty(map, {images, count}, ScalarType::Long);
  map.scalar_type() == ScalarType::Double ? find<double>(map, count, scores, places)
                                          : find<float>(map, count, scores, places);
  return {scores, places};
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("top_share", TORCH_BOX(&fastad::cpu::top_share));
}
