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
    for (int64_t n = begin; n < end; ++n) {
      const auto& found = highest(values + n * pixels, pixels, count, room);
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        sum += static_cast<double>(found[i].value);
        place[n * count + i] = found[i].place;
      }
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
