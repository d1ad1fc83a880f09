// Sorting all pixels is not needed. Between two values of defect pixels only normal pixels change
// sides, and no score depends on their order there: AUROC, average precision and F1 count them, and
// the overlap, constant in between, is integrated over their number. So the defect pixels, a few
// per cent, are sorted, and every normal pixel is counted into its place among them.
//
// The floor is one reading of masks and maps, 5 bytes a pixel of float32. Here they are read twice,
// 10 bytes: first for what is not finite, the regions and the defect pixels, then to count the
// normal ones. A defect pixel costs 56 bytes of sorting on top (order.h), a normal pixel between
// the defects' values two look-ups in tables that fit the cache. (A radix sort of all pixels by
// 11-bit digits would move 40 bytes a pixel and hold 16.)

#include "metrics/curve.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "metrics/order.h"
#include "metrics/parallel.h"
#include "metrics/regions.h"
#include "metrics/sorted.h"

namespace fastad::metrics {
namespace {

template <class T>
struct Defect {
  Key<T> key;
  uint32_t size;  // of its region
};

template <class T>
int64_t count_of(const Defect<T>&) {
  return 1;
}

template <class T>
struct Defects {
  std::vector<Defect<T>> pixels;
  int64_t regions = 0;
  int64_t not_finite = 0;
};

template <class T>
Defects<T> find_defects(const Image<T>& image) {
  Defects<T> result;
  const int64_t size = image.height * image.width;
  result.not_finite = count_not_finite(image.map, size);
  const Regions regions = find_regions(image.mask, image.height, image.width);
  int64_t marked = 0;
  for (const int64_t pixels : regions.sizes) marked += pixels;
  result.pixels.reserve(marked);
  for (const Run& run : regions.runs) {
    const T* row = image.map + run.row * image.width;
    const auto region = static_cast<uint32_t>(regions.sizes[run.region]);
    for (int64_t x = run.begin; x < run.end; ++x) result.pixels.push_back({key_of(row[x]), region});
  }
  result.regions = static_cast<int64_t>(regions.sizes.size());
  return result;
}

// Counts values into their places among distinct sorted keys: slot 2 i is below keys[i] (and above
// keys[i - 1]), slot 2 i + 1 is keys[i] itself.
template <class T>
class Places {
 public:
  explicit Places(std::vector<Key<T>> keys) : keys_(std::move(keys)) {
    const Key<T> range = keys_.back() - keys_.front();
    group_shift_ = std::max(0, static_cast<int>(std::bit_width(range)) - 12);
    const size_t count = (range >> group_shift_) + 1;
    groups_.reserve(count);
    starts_.reserve(4 * keys_.size() + count + 1);
    size_t key = 0;
    for (size_t group = 0; group < count; ++group) {
      size_t end = key;
      while (end < keys_.size() && distance(keys_[end]) >> group_shift_ == group) ++end;
      const int bits = std::min<int>(std::bit_width(2 * (end - key)), group_shift_);
      const int shift = group_shift_ - bits;
      groups_.push_back({static_cast<uint32_t>(starts_.size()), shift});
      for (size_t cell = 0; cell >> bits == 0; ++cell) {
        starts_.push_back(static_cast<uint32_t>(key));
        const Key<T> next =
            (static_cast<Key<T>>(group) << group_shift_) + (static_cast<Key<T>>(cell + 1) << shift);
        while (key < end && distance(keys_[key]) < next) ++key;
      }
    }
    starts_.push_back(static_cast<uint32_t>(keys_.size()));
  }

  size_t slots() const { return 2 * keys_.size() + 1; }

  // Block by block, and in loops of their own, so that many look-ups wait for memory together.
  void count(const Image<T>& image, bool marked, uint32_t* slots) const {
    const Key<T> lowest = keys_.front(), highest = keys_.back();
    const int64_t size = image.height * image.width;
    Key<T> among[block];  // the keys that lie among the defects'
    uint32_t cells[block];
    int64_t normal = 0, inside = 0, above = 0;
    for (int64_t begin = 0; begin < size; begin += block) {
      const int64_t end = std::min(begin + block, size);
      int64_t found = 0;
      for (int64_t i = begin; i < end; ++i) {
        const Key<T> key = key_of(image.map[i]);
        const bool counts = !(marked && image.mask[i]);
        among[found] = key;
        found += counts & (key >= lowest) & (key <= highest);
        above += counts & (key > highest);
        normal += counts;
      }
      inside += found;
      for (int64_t i = 0; i < found; ++i) cells[i] = cell_of(among[i]);
      for (int64_t i = 0; i < found; ++i) {
        const size_t place = find(among[i], cells[i]);
        ++slots[2 * place + (keys_[place] == among[i])];
      }
    }
    slots[0] += static_cast<uint32_t>(normal - inside - above);
    slots[2 * keys_.size()] += static_cast<uint32_t>(above);
  }

 private:
  static constexpr int64_t block = 256;

  Key<T> distance(Key<T> key) const { return key - keys_.front(); }

  uint32_t cell_of(Key<T> key) const {
    const Group group = groups_[distance(key) >> group_shift_];
    const Key<T> inside = distance(key) & ((Key<T>(1) << group_shift_) - 1);
    return group.first + static_cast<uint32_t>(inside >> group.shift);
  }

  // The first of the keys that is at least `key`, which lies between the lowest and the highest.
  size_t find(Key<T> key, uint32_t cell) const {
    size_t place = starts_[cell];
    place += keys_[place] < key;  // no branch: it would be unpredictable
    place += keys_[place] < key;
    if (keys_[place] < key) [[unlikely]]
      place = std::lower_bound(keys_.begin() + place, keys_.begin() + starts_[cell + 1], key) -
              keys_.begin();
    return place;
  }

  struct Group {
    uint32_t first;  // cell
    int shift;
  };

  // At most 2^12 groups of keys by their leading bits, each cut into cells of equal width, two to
  // four for each of its keys. So a cell holds about half a key, however values spread.
  std::vector<Key<T>> keys_;
  std::vector<Group> groups_;
  std::vector<uint32_t> starts_;  // the first key in or after each cell
  int group_shift_;
};

template <class T>
std::vector<Defects<T>> find_all_defects(const std::vector<Image<T>>& images, int threads) {
  const auto count = static_cast<int64_t>(images.size());
  int64_t pixels = 0, not_finite = 0;
  for (const Image<T>& image : images) pixels += image.height * image.width;
  if (pixels >> 32) throw std::length_error("maps must have less than 2^32 pixels together");
  std::vector<Defects<T>> defects(images.size());
  parallel_for(count, threads, [&](int64_t i, int) { defects[i] = find_defects(images[i]); });
  for (const Defects<T>& found : defects) not_finite += found.not_finite;
  if (not_finite > 0)
    throw std::invalid_argument("maps must be finite, but " + std::to_string(not_finite) + " of " +
                                std::to_string(pixels) + " values are NaN or inf");
  return defects;
}

}  // namespace

template <class T>
Curve pixel_curve(const std::vector<Image<T>>& images, bool normal_images, int threads) {
  const auto count = static_cast<int64_t>(images.size());
  std::vector<Defects<T>> defects = find_all_defects(images, threads);
  Curve curve;
  std::vector<int64_t> counted;  // images whose normal pixels count
  std::vector<bool> marked(images.size());
  std::vector<Defect<T>> pixels;
  for (int64_t i = 0; i < count; ++i) {
    marked[i] = defects[i].regions > 0;
    if (!marked[i] || !normal_images) {
      counted.push_back(i);
      curve.normal +=
          images[i].height * images[i].width - static_cast<int64_t>(defects[i].pixels.size());
    }
    pixels.insert(pixels.end(), defects[i].pixels.begin(), defects[i].pixels.end());
    curve.regions += defects[i].regions;
    defects[i] = {};
  }
  if (pixels.empty()) return curve;

  sort_defects(pixels);
  size_t distinct = 1;
  for (size_t i = 1; i < pixels.size(); ++i) distinct += pixels[i].key != pixels[i - 1].key;
  std::vector<Key<T>> keys;
  keys.reserve(distinct);
  curve.defects.reserve(distinct);
  curve.overlap.reserve(distinct);
  for_each_row(pixels, [&](Key<T> key, int64_t size, int64_t pixels_of_size) {
    if (keys.empty() || keys.back() != key) {
      keys.push_back(key);
      curve.defects.push_back(0);
      curve.overlap.push_back(0.0);
    }
    curve.defects.back() += pixels_of_size;
    curve.overlap.back() += static_cast<double>(pixels_of_size) / static_cast<double>(size);
  });
  pixels = {};
  curve.values.reserve(distinct);
  for (const Key<T> key : keys) curve.values.push_back(value_of<T>(key));

  const Places<T> places(std::move(keys));
  // Each thread counts for itself; the sum does not depend on who counted what.
  std::vector<std::vector<uint32_t>> slots(std::max(threads, 1));
  parallel_for(static_cast<int64_t>(counted.size()), threads, [&](int64_t i, int thread) {
    slots[thread].resize(places.slots());
    places.count(images[counted[i]], marked[counted[i]], slots[thread].data());
  });
  for (std::vector<double>* column : {&curve.values, &curve.overlap})
    std::reverse(column->begin(), column->end());
  std::reverse(curve.defects.begin(), curve.defects.end());
  curve.normal_above.reserve(distinct);
  curve.normal_equal.reserve(distinct);
  int64_t above = 0;
  const auto take = [&](size_t slot) {
    int64_t sum = 0;
    for (const std::vector<uint32_t>& own : slots)
      if (!own.empty()) sum += own[slot];
    return sum;
  };
  for (size_t i = curve.values.size(); i-- > 0;) {
    above += take(2 * i + 2);
    curve.normal_above.push_back(above);
    curve.normal_equal.push_back(take(2 * i + 1));
    above += curve.normal_equal.back();
  }
  return curve;
}

template Curve pixel_curve(const std::vector<Image<float>>&, bool, int);
template Curve pixel_curve(const std::vector<Image<double>>&, bool, int);

}  // namespace fastad::metrics
