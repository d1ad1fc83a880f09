#include "metrics/sorted.h"

namespace fastad::metrics {

template <class T>
void sort_values(T* values, int64_t size) {
  struct Item {
    Key<T> key;
  };
  std::vector<Item> items(size);
  for (int64_t i = 0; i < size; ++i) items[i].key = key_of(values[i]);
  sort_by_key(items);
  for (int64_t i = 0; i < size; ++i) values[i] = value_of<T>(items[i].key);
}

template <class T>
void count_sorted(const double* among, int64_t count, const T* values, int64_t size,
                  int64_t* slots) {
  if (size == 0) return;
  int64_t place = std::lower_bound(among, among + count, double(values[0])) - among;
  for (int64_t i = 0; i < size; ++i) {
    const double value = values[i];
    while (place < count && among[place] < value) ++place;
    ++slots[2 * place + (place < count && among[place] == value)];
  }
}

template void sort_values(float*, int64_t);
template void sort_values(double*, int64_t);
template void count_sorted(const double*, int64_t, const float*, int64_t, int64_t*);
template void count_sorted(const double*, int64_t, const double*, int64_t, int64_t*);

}  // namespace fastad::metrics
