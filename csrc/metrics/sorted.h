// Pixels in the order of their values: what the curves follow from, part by part, when they do not
// fit into memory together.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "metrics/order.h"

namespace fastad::metrics {

// Defect pixels of one value whose regions have `size` pixels each.
struct DefectRow {
  Key<double> key;
  int64_t size, count;
};

inline int64_t count_of(const DefectRow& row) { return row.count; }

// Sorts defect pixels by key, and those of one key by the size of their region: sums in this order
// do not depend on the order of the images.
template <class Item>
void sort_defects(std::vector<Item>& items) {
  sort_by_key(items);
  for (size_t begin = 0, end; begin < items.size(); begin = end) {
    for (end = begin + 1; end < items.size() && items[end].key == items[begin].key;) ++end;
    if (end - begin > 1)
      std::sort(items.begin() + begin, items.begin() + end,
                [](const Item& a, const Item& b) { return a.size < b.size; });
  }
}

// Calls row(key, size, count) for every pair of key and size among sorted defect pixels.
template <class Item, class Row>
void for_each_row(const std::vector<Item>& items, const Row& row) {
  for (size_t begin = 0, end; begin < items.size(); begin = end) {
    int64_t count = 0;
    for (end = begin; end < items.size() && items[end].key == items[begin].key &&
                      items[end].size == items[begin].size;
         ++end)
      count += count_of(items[end]);
    row(items[begin].key, items[begin].size, count);
  }
}

// Sorts finite values; -0 becomes 0.
template <class T>
void sort_values(T* values, int64_t size);

// Counts ascending values into their places among ascending distinct ones: slots[2 i] gets those
// below among[i] (and above among[i - 1]), slots[2 i + 1] those equal to it.
template <class T>
void count_sorted(const double* among, int64_t count, const T* values, int64_t size,
                  int64_t* slots);

}  // namespace fastad::metrics
