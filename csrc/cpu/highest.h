// The highest of many numbers and their places. NaN is above all others.
//
// Work: the numbers are read once. A sample of them gives a bound below the highest, and the few
// that reach it are put aside and ordered. Where the sample was of too high ones, all are ordered.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "instruction_set.h"

namespace fastad::cpu {

template <class A>
struct Placed {
  A value;
  int64_t place;
};

template <class A>
bool is_above(A a, A b) {
  return a > b || (std::isnan(a) && !std::isnan(b));
}

// Memory of a thread, kept from call to call.
template <class A>
struct HighestRoom {
  std::vector<Placed<A>> kept;
  std::vector<A> sample;
  std::vector<int32_t> groups;
};

constexpr int64_t kGroup = 16;

// Writes which groups of kGroup values have one that is not below `bound`: how many.
template <class A>
FASTAD_INLINE int64_t groups_from(const A* values, int64_t groups, A bound, int32_t* found) {
  int64_t count = 0;
  for (int64_t g = 0; g < groups; ++g) {
    int reached = 0;
    for (int64_t k = 0; k < kGroup; ++k) reached |= !(values[g * kGroup + k] < bound);
    found[count] = static_cast<int32_t>(g);
    count += reached;
  }
  return count;
}

// A number that about `count` of the values, or somewhat more, are not below.
template <class A>
A bound_below(const A* values, int64_t size, int64_t count, std::vector<A>& sample) {
  constexpr int64_t kSamples = 1024;
  const int64_t step = size / kSamples | 1;  // odd, so as not to run along a column
  sample.clear();
  for (int64_t i = 0; i < size; i += step) sample.push_back(values[i]);
  const auto samples = static_cast<double>(sample.size());
  const double expected = samples * static_cast<double>(count) / static_cast<double>(size);
  const auto rank = static_cast<int64_t>(expected + 4 * std::sqrt(expected) + 2);
  const auto place = sample.begin() + std::min<int64_t>(rank, sample.size() - 1);
  std::nth_element(sample.begin(), place, sample.end(), is_above<A>);
  return *place;
}

// What comes first are the `count` highest of the values, 1 <= count <= size. The last of these is
// the lowest of them. All others that are equal to it follow, somewhere among more.
template <class A>
const std::vector<Placed<A>>& highest(const A* values, int64_t size, int64_t count,
                                      HighestRoom<A>& room) {
  constexpr int64_t kMany = 4096, kFew = 8;
  std::vector<Placed<A>>& kept = room.kept;
  kept.clear();
  if (size >= kMany && count <= size / kFew) {
    const A bound = bound_below(values, size, count, room.sample);
    const auto keep = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (!(values[i] < bound)) kept.push_back({values[i], i});
      }
    };
    const int64_t groups = size / kGroup;
    room.groups.resize(groups);
    const int64_t found = dispatch<groups_from<A>>(values, groups, bound, room.groups.data());
    for (int64_t k = 0; k < found; ++k) {
      keep(room.groups[k] * kGroup, (room.groups[k] + 1) * kGroup);
    }
    keep(groups * kGroup, size);
  }
  if (static_cast<int64_t>(kept.size()) < count) {
    kept.clear();
    for (int64_t i = 0; i < size; ++i) kept.push_back({values[i], i});
  }
  std::nth_element(
      kept.begin(), kept.begin() + (count - 1), kept.end(),
      [](const Placed<A>& a, const Placed<A>& b) { return is_above(a.value, b.value); });
  return kept;
}

}  // namespace fastad::cpu
