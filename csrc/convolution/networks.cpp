// Residual networks of one kind over the same images, a whole network at a time: each thread
// computes its own networks and images from the first convolution to the last, all in 16-bit
// integers (convolution/int16.h), and does not wait for the others in between. What lies between
// the convolutions is in memory of its own, at 256x256 and up to 128 channels mostly in its caches.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "convolution/channels_last.h"
#include "convolution/convolve_int16.h"
#include "convolution/stem.h"
#include "convolution/winograd.h"
#include "parallel.h"

namespace fastad::cpu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kFields = 7;      // of a step: side, stride, relu, from, added, to, filters
constexpr int64_t kKept = 1 << 25;  // floats of a thread's memory that are kept from call to call

// An image's features.
struct Features {
  int64_t height = 0, width = 0, channels = 0;

  int64_t size() const { return height * width * channels; }
  bool operator==(const Features&) const = default;
};

// A convolution after the stem. `from`, `added` and `to` are places: a slot in the thread's memory,
// none (-1), or a result (-2 - index).
struct Step {
  int64_t side, stride;  // side is 0 for Winograd's 3x3
  bool relu;
  int64_t from, added, to, filters;
  Features x, y;
  const int16_t* weight;
  const float* bias;
  int64_t weight_size;  // of one group

  bool winograd() const { return side == 0; }
  int64_t panels() const { return (filters + kPanel - 1) / kPanel; }
};

// What is computed of every image.
struct Plan {
  std::vector<Step> steps;
  std::vector<Features> results;
  std::vector<int64_t> room;  // of each slot, in floats
};

#ifdef FASTAD_PANELS

void run(const Plan& plan, Stem stem, int64_t group, float* memory,
         const std::vector<float*>& results) {
  std::vector<float*> slots;
  for (const int64_t room : plan.room) {
    slots.push_back(memory);
    memory += room;
  }
  const auto at = [&](int64_t place) {
    return place == -1 ? nullptr : place >= 0 ? slots[place] : results[-2 - place];
  };
  stem.y = slots[0];
  compute_stem(stem, 0, 0, stem.last_row());
  for (const Step& step : plan.steps) {
    const Features &x = step.x, &y = step.y;
    const int16_t* weight = step.weight + group * step.weight_size;
    const float* bias = step.bias + group * step.panels() * kPanel;
    if (step.winograd()) {
      const Convolution3x3 all{1,          x.height,       x.width,     x.channels,
                               y.channels, at(step.from),  nullptr,     weight,
                               bias,       at(step.added), at(step.to), step.relu};
      for (int64_t first = 0; first < all.tiles(); first += kBlock)
        convolve_tiles_int16(all, first, std::min(kBlock, all.tiles() - first), 0, step.panels());
    } else {
      const Int16Convolution all{x.height,   x.width,        x.channels,  y.height,      y.width,
                                 y.channels, step.side,      step.stride, at(step.from), weight,
                                 bias,       at(step.added), at(step.to), step.relu};
      for (int64_t strip = 0; strip < all.strips(); ++strip)
        convolve_strip(all, 0, strip, 0, step.panels());
    }
  }
}

#endif

// Reads the steps, and follows the features' sizes through them.
Plan plan_of(const Stem& stem, const std::vector<Tensor>& weights,
             const std::vector<Tensor>& biases, const std::vector<int64_t>& steps, int64_t groups) {
  Plan plan;
  STD_TORCH_CHECK(!weights.empty() && weights.size() == biases.size() &&
                      static_cast<int64_t>(steps.size()) ==
                          kFields * (static_cast<int64_t>(weights.size()) - 1),
                  "there must be as many biases as weights, and ", kFields,
                  " numbers for each after the first; got ", weights.size(), ", ", biases.size(),
                  " and ", steps.size());
  std::vector<Features> slots{{stem.pooled_rows(), stem.pooled_columns(), stem.filters}};
  plan.room = {(slots[0].size() + 15) / 16 * 16};
  for (size_t i = 1; i < weights.size(); ++i) {
    const int64_t* field = &steps[(i - 1) * kFields];
    const Tensor &weight = weights[i], &bias = biases[i];
    Step step{field[0], field[1], field[2] != 0, field[3], field[4], field[5], field[6],
              {},       {},       nullptr,       nullptr,  0};
    const auto known = [&](int64_t place) {
      return place >= 0 ? place < static_cast<int64_t>(slots.size())
                        : place <= -2 && -2 - place < static_cast<int64_t>(plan.results.size());
    };
    const auto shape = [&](int64_t place) {
      return place >= 0 ? slots[place] : plan.results[-2 - place];
    };
    STD_TORCH_CHECK((step.side == 0 || step.side == 1 || step.side == 3) && step.stride >= 1 &&
                        step.stride <= (step.side > 0 ? kMostStride : 1) && step.filters > 0 &&
                        step.filters <= kMostFilters,
                    "step ", i, " must be a 1x1 or 3x3 convolution");
    STD_TORCH_CHECK(known(step.from) && (step.added == -1 || known(step.added)) &&
                        step.to != step.from && step.to != -1,
                    "step ", i, " must compute from places that are there, into another");
    const Features x = step.x = shape(step.from);
    step.y = {(x.height + step.stride - 1) / step.stride, (x.width + step.stride - 1) / step.stride,
              step.filters};
    step.weight_size =
        step.panels() * (step.winograd() ? kPoints * slab_size(x.channels)
                                         : slab_size(step.side * step.side * x.channels));
    STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Short && weight.is_contiguous() &&
                        weight.dim() > 0 && weight.size(0) == groups &&
                        weight.numel() == groups * step.weight_size && x.channels % 32 == 0 &&
                        (!step.winograd() || step.filters % kPanel == 0),
                    "weight ", i, " must be of ", groups, " groups and fit its step");
    STD_TORCH_CHECK(bias.scalar_type() == ScalarType::Float && bias.is_contiguous() &&
                        bias.numel() == groups * step.panels() * kPanel,
                    "bias ", i, " must be (G, K) of G groups, float32 and contiguous");
    STD_TORCH_CHECK(step.added == -1 || shape(step.added) == step.y, "what step ", i,
                    " adds must be shaped like its result");
    step.weight = static_cast<const int16_t*>(weight.data_ptr());
    step.bias = static_cast<const float*>(bias.data_ptr());
    auto& places = step.to >= 0 ? slots : plan.results;
    const int64_t index = step.to >= 0 ? step.to : -2 - step.to;
    const auto count = static_cast<int64_t>(places.size());
    STD_TORCH_CHECK(step.to >= 0 ? index <= count : index == count, "step ", i,
                    " must leave no place out, and no result be computed twice");
    if (index == count) places.emplace_back();
    places[index] = step.y;
    if (step.to >= 0) {
      plan.room.resize(places.size());
      plan.room[index] = std::max(plan.room[index], (step.y.size() + 15) / 16 * 16);
    }
    plan.steps.push_back(step);
  }
  return plan;
}

// images (N, 3, H, W) float32, channels_last. weights and biases, of as many groups: of the stem,
// then of each step. -> the results, (groups * N, K, h, w), channels_last.
std::vector<Tensor> residual_networks(Tensor images, std::vector<Tensor> weights,
                                      std::vector<Tensor> biases, std::vector<int64_t> steps,
                                      int64_t padding) {
  STD_TORCH_CHECK(images.dim() == 4 && images.size(1) == 3 &&
                      images.scalar_type() == ScalarType::Float && is_channels_last(images),
                  "images must be (N, 3, H, W), float32 and channels_last");
  STD_TORCH_CHECK(has_int16(), "this processor has no AVX-512 VNNI");
  STD_TORCH_CHECK(!weights.empty() && !biases.empty() && weights[0].dim() == 5 &&
                      weights[0].scalar_type() == ScalarType::Short && weights[0].is_contiguous() &&
                      weights[0].size(2) == kStemValues &&
                      weights[0].size(3) == kStemChannels + 2 && weights[0].size(4) == kPanel,
                  "the first weight must be of groups from pack_stem, in 16-bit integers");
  STD_TORCH_CHECK(padding == 0 || padding == 1, "padding must be 0 or 1; got ", padding);
  const int64_t groups = weights[0].size(0), filters = weights[0].size(1) * kPanel;
  groups_of(weights[0], 1, biases[0], filters, 0);
  const int64_t n = images.size(0), h = images.size(2), w = images.size(3);
  const Stem stem{h,
                  w,
                  padding,
                  filters,
                  static_cast<const float*>(images.data_ptr()),
                  nullptr,
                  static_cast<const int16_t*>(weights[0].data_ptr()),
                  static_cast<const float*>(biases[0].data_ptr()),
                  nullptr,
                  nullptr};
  STD_TORCH_CHECK(stem.fits(), "images are too small: ", h, "x", w);
  const Plan plan = plan_of(stem, weights, biases, steps, groups);
  std::vector<Tensor> results;
  for (const Features& one : plan.results)
    results.push_back(as_nchw(
        torch::stable::new_empty(images, {groups * n, one.height, one.width, one.channels})));
#ifdef FASTAD_PANELS
  int64_t room = 0;
  for (const int64_t size : plan.room) room += size;
  parallel_for(0, groups * n, 1, [&](int64_t first, int64_t last) {
    // Of very large images it is given back.
    std::unique_ptr<float[]> own(room > kKept ? new float[room] : nullptr);
    float* memory = own != nullptr ? own.get() : scratch<1>(room);
    for (int64_t task = first; task < last; ++task) {
      const int64_t group = task / n;
      Stem one = stem;
      one.images += task % n * h * w * 3;
      one.int16 += group * weights[0].numel() / groups;
      one.bias += group * filters;
      std::vector<float*> to;
      for (size_t i = 0; i < results.size(); ++i)
        to.push_back(static_cast<float*>(results[i].data_ptr()) + task * plan.results[i].size());
      run(plan, one, group, memory, to);
    }
  });
#endif
  return results;
}

}  // namespace
}  // namespace fastad::cpu

STABLE_TORCH_LIBRARY_IMPL(fastad, CPU, m) {
  m.impl("residual_networks", TORCH_BOX(&fastad::cpu::residual_networks));
}
