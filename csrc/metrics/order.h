// Floating-point values as unsigned integers in the same order, and a stable sort by them.

#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastad::metrics {

template <class T>
using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// The bits of a value, turned so that they grow with it; -0 and 0 are the same.
template <class T>
inline Key<T> key_of(T value) {
  constexpr int last = 8 * sizeof(T) - 1;
  const auto bits = std::bit_cast<Key<T>>(value + T(0));
  const Key<T> negative = -(bits >> last);  // all ones, or zero
  return bits ^ (negative | Key<T>(1) << last);
}

template <class T>
inline T value_of(Key<T> key) {
  constexpr int last = 8 * sizeof(T) - 1;
  return std::bit_cast<T>(key >> last ? key ^ Key<T>(1) << last : ~key);
}

// How many of `size` values are NaN or infinite: their exponent is all ones.
template <class T>
inline int64_t count_not_finite(const T* values, int64_t size) {
  constexpr Key<T> exponent =
      sizeof(T) == 4 ? Key<T>(0x7f800000) : static_cast<Key<T>>(0x7ff0000000000000);
  int64_t count = 0;
  for (int64_t i = 0; i < size; ++i)
    count += (std::bit_cast<Key<T>>(values[i]) & exponent) == exponent;
  return count;
}

// Sorts by `key`, least significant digit first. Items of equal keys keep their order. For items of
// 8 bytes (float32) one pass counts all digits, and three passes read and write the items: 56 bytes
// of traffic an item, whatever the values. A digit that all items share costs no pass.
template <class Item>
void sort_by_key(std::vector<Item>& items) {
  using K = decltype(Item::key);
  constexpr int bits = 11, digits = (8 * sizeof(K) + bits - 1) / bits;
  constexpr size_t buckets = size_t(1) << bits;
  std::vector<std::array<size_t, buckets>> counts(digits);
  const auto digit = [](const Item& item, int d) { return (item.key >> (bits * d)) % buckets; };
  for (const Item& item : items)
    for (int d = 0; d < digits; ++d) ++counts[d][digit(item, d)];
  std::vector<Item> sorted(items.size());
  for (int d = 0; d < digits; ++d) {
    if (items.empty() || counts[d][digit(items[0], d)] == items.size()) continue;
    size_t place = 0;
    for (size_t& count : counts[d]) place += std::exchange(count, place);
    for (const Item& item : items) sorted[counts[d][digit(item, d)]++] = item;
    items.swap(sorted);
  }
}

}  // namespace fastad::metrics
