// Runs one CPU inner loop on fixed data, for an instruction counter. Free of torch.
//
//   driver LOOP LAYOUT DTYPE      e.g. driver distance planar float32
//
// Counting is switched on by the function `measured` (callgrind --toggle-collect=measured).

#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/distance_loops.h"
#include "cpu/smoothing_loops.h"
#include "cpu/upsampling_loops.h"

using namespace fastad::cpu;

namespace {

constexpr int64_t kChannels = 64, kPixels = 512, kWidth = 256, kRadius = 12;

struct Data {
  std::vector<float> t = std::vector<float>(kChannels * kPixels), s = t, scratch_t = t;
  std::vector<float> scratch_s = t, out = t;
  std::vector<float> t_inverse = std::vector<float>(kPixels, 1.0f), s_inverse = t_inverse;
  std::vector<float> distances = t_inverse, projection = t_inverse;
  std::vector<int> i0 = std::vector<int>(kWidth), i1 = i0;
  std::vector<float> w0 = std::vector<float>(kWidth, 0.25f), w1 = std::vector<float>(kWidth, 0.75f);
};

}  // namespace

extern "C" __attribute__((noinline)) void measured(const char* loop, Data& d, Layout layout,
                                                   DType type) {
  const int64_t stride = layout == Layout::planar ? kPixels : kChannels;
  const Staged<float> t{d.t.data(), stride}, s{d.s.data(), stride};
  if (!std::strcmp(loop, "stage")) {
    stage<float>(d.t.data(), type, layout, stride, layout, kChannels, kPixels, d.scratch_t.data(),
                 d.distances.data());
  } else if (!std::strcmp(loop, "inverse_norms")) {
    inverse_norms<float>(kPixels, 1e-12, d.t_inverse.data(), d.s_inverse.data(),
                         d.projection.data(), d.distances.data());
  } else if (!std::strcmp(loop, "distance")) {
    distance<float>(t, s, layout, kChannels, kPixels, d.t_inverse.data(), d.s_inverse.data(),
                    d.distances.data());
  } else if (!std::strcmp(loop, "gradient")) {
    gradient<float>(t, s, layout, kChannels, kPixels, d.t_inverse.data(), d.s_inverse.data(),
                    d.out.data(), type, stride);
  } else if (!std::strcmp(loop, "expand_row")) {
    expand_row<float>(d.t.data(), d.i0.data(), d.i1.data(), d.w0.data(), d.w1.data(), kWidth,
                      d.out.data());
  } else if (!std::strcmp(loop, "join_row")) {
    const Blend<float> level{d.t.data(), d.s.data(), 0.25f, 0.75f, 1.0f};
    const Blend<float> levels[3] = {level, level, level};
    join_row<float>(levels, 3, true, kWidth, d.out.data());
  } else if (!std::strcmp(loop, "maximum")) {
    Maximum<float> greatest(d.t[0]);
    greatest.update(d.t.data(), kWidth);
    d.out[0] = greatest.value();
  } else if (!std::strcmp(loop, "blur")) {
    const float* rows[2 * kRadius + kBlurRows];
    for (int64_t i = 0; i < 2 * kRadius + kBlurRows; ++i) rows[i] = d.t.data() + i * kWidth;
    float* out[kBlurRows];
    for (int64_t b = 0; b < kBlurRows; ++b) out[b] = d.out.data() + b * kWidth;
    blur<float>(rows + kRadius, d.w0.data(), kRadius, kWidth, out);
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  Data data;
  for (size_t i = 0; i < data.t.size(); ++i) {
    data.t[i] = static_cast<float>(i % 7), data.s[i] = static_cast<float>(i % 5);
  }
  for (int x = 0; x < kWidth; ++x) data.i0[x] = x / 4, data.i1[x] = x / 4 + 1;
  const Layout layout = std::strcmp(argv[2], "planar") ? Layout::interleaved : Layout::planar;
  const DType type = !std::strcmp(argv[3], "float32")    ? DType::float32
                     : !std::strcmp(argv[3], "bfloat16") ? DType::bfloat16
                                                         : DType::float16;
  measured(argv[1], data, layout, type);
  std::printf("%g\n", static_cast<double>(data.out[0] + data.distances[0]));
  return 0;
}
