// Of many numbers the one that so many are not below. NaN is above all others.
//
// Work: of the numbers one pass. A sample of them gives a bound, and those that reach it are put
// aside, mostly two or three times as many as are asked for. Their lowest is found by halving the
// range of floats 30 times or so, each time with a count of those above, which waits for nothing.
// Where there is no bound to be had, all numbers are counted as often.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "instruction_set.h"

namespace fastad::cpu {

// Memory of a thread, kept from call to call.
template <class A>
struct HighestRoom {
  std::vector<A> sample, kept;
  std::vector<int32_t> groups;
};

template <class A>
using Bits = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// Floats as integers of the same order, and back.
template <class A>
Bits<A> ordered(A value) {
  const auto bits = std::bit_cast<Bits<A>>(value);
  return bits < 0 ? bits ^ std::numeric_limits<Bits<A>>::max() : bits;
}
template <class A>
A from_ordered(Bits<A> bits) {
  return std::bit_cast<A>(bits < 0 ? bits ^ std::numeric_limits<Bits<A>>::max() : bits);
}

// How many of the values are not below `bound`.
template <class A>
FASTAD_INLINE int64_t count_from(const A* values, int64_t size, A bound) {
  constexpr int64_t kMost = 1 << 20;  // that an integer as wide as A counts
  int64_t count = 0;
  for (int64_t first = 0; first < size; first += kMost) {
    const int64_t end = size - first < kMost ? size : first + kMost;
    Bits<A> part = 0;
    for (int64_t i = first; i < end; ++i) part += values[i] < bound ? 0 : 1;
    count += part;
  }
  return count;
}

template <class A>
FASTAD_INLINE int64_t count_nan(const A* values, int64_t size) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; ++i) count += values[i] == values[i] ? 0 : 1;
  return count;
}

// A group is every 64th of 1024 values. Compilers make vectors of a loop over 64 groups, but not of
// one over 16 neighbours.
constexpr int64_t kGroups = 64, kStretch = 1024;

// Writes the first places of the groups that have a value not below `bound`: how many. `size` is a
// multiple of kStretch.
template <class A>
FASTAD_INLINE int64_t groups_from(const A* values, int64_t size, A bound, int32_t* found) {
  int64_t count = 0;
  for (int64_t first = 0; first < size; first += kStretch) {
    Bits<A> reached[kGroups] = {};
    for (int64_t i = first; i < first + kStretch; i += kGroups) {
      for (int64_t j = 0; j < kGroups; ++j) reached[j] |= values[i + j] < bound ? 0 : 1;
    }
    for (int64_t j = 0; j < kGroups; ++j) {
      found[count] = static_cast<int32_t>(first + j);
      count += reached[j];
    }
  }
  return count;
}

// Calls visit(place) for all values that are not below `bound`, always in one order.
template <class A, class Visit>
void for_each_from(const A* values, int64_t size, A bound, HighestRoom<A>& room,
                   const Visit& visit) {
  constexpr int64_t kPart = int64_t{1} << 20;
  for (int64_t first = 0; first < size; first += kPart) {
    const int64_t count = std::min(size - first, kPart), whole = count / kStretch * kStretch;
    room.groups.resize(whole / kStretch * kGroups + 1);
    const int64_t found =
        dispatch<groups_from<A>>(values + first, whole, bound, room.groups.data());
    for (int64_t g = 0; g < found; ++g) {
      const int64_t place = first + room.groups[g];
      for (int64_t i = place; i < place + kStretch; i += kGroups) {
        if (!(values[i] < bound)) visit(i);
      }
    }
    for (int64_t i = first + whole; i < first + count; ++i) {
      if (!(values[i] < bound)) visit(i);
    }
  }
}

// The `rank`-th highest, from 1 on, of values of which so many at least are not below `bound`.
template <class A>
A highest_from(const A* values, int64_t size, int64_t rank, A bound) {
  if (dispatch<count_nan<A>>(values, size) >= rank) return std::numeric_limits<A>::quiet_NaN();
  using Unsigned = std::make_unsigned_t<Bits<A>>;
  Bits<A> low = ordered(bound), high = ordered(std::numeric_limits<A>::infinity());
  while (low < high) {
    const Unsigned apart = static_cast<Unsigned>(high) - static_cast<Unsigned>(low);
    const auto middle = static_cast<Bits<A>>(static_cast<Unsigned>(low) + apart / 2 + apart % 2);
    if (dispatch<count_from<A>>(values, size, from_ordered<A>(middle)) >= rank) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return from_ordered<A>(low);
}

// The `rank`-th highest of the values, from 1 on.
template <class A>
A highest(const A* values, int64_t size, int64_t rank, HighestRoom<A>& room) {
  constexpr int64_t kMany = 4096, kFew = 8, kSamples = 1024;
  constexpr A kLowest = -std::numeric_limits<A>::infinity();
  if (size < kMany || rank > size / kFew) return highest_from(values, size, rank, kLowest);
  const int64_t step = size / kSamples | 1;  // odd, so as not to run along a column
  room.sample.clear();
  for (int64_t i = 0; i < size; i += step) room.sample.push_back(values[i]);
  const auto samples = static_cast<int64_t>(room.sample.size());
  const double expected = static_cast<double>(rank) / static_cast<double>(step);
  const auto safe = static_cast<int64_t>(expected + 4 * std::sqrt(expected) + 2);
  const A bound = highest_from(room.sample.data(), samples, std::min(safe, samples), kLowest);
  room.kept.clear();
  for_each_from(values, size, bound, room, [&](int64_t i) { room.kept.push_back(values[i]); });
  const auto kept = static_cast<int64_t>(room.kept.size());
  if (kept < rank) return highest_from(values, size, rank, kLowest);
  return highest_from(room.kept.data(), kept, rank, std::isnan(bound) ? kLowest : bound);
}

}  // namespace fastad::cpu
