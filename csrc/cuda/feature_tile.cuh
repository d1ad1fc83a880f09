// A block's tile of one pyramid level: what each of its threads holds of the features.
//
// A tile is neighbouring pixels with all of their channels. The threads of the block form a grid
// of pixel lanes and channel lanes. A thread keeps its part of teacher and student in slots, as it
// was loaded, half precision too:
//
//                         pixel lane 0   pixel lane 1   pixel lane 2
//                       +--------------+--------------+--------------+---
//       channel lane 0  | slots 0 to 3 |              |              |
//                       | of a thread  |              |              |
//                       +--------------+--------------+--------------+---
//       channel lane 1  |              |              |              |
//                       |              |              |              |
//                       +--------------+--------------+--------------+---
//                       |              |              |              |
//
//                  threads count    a slot holds                  the slots of a thread are
//     kPlanar      pixels first     4 or 8 pixels of a channel    neighbouring channels
//     kInterleaved channels first   4 or 8 channels of a pixel    one vector of every lane apart
//     kScalar      either way       1 element, 8 slots            as in the row of that order
//
// Channels beyond the slots form further chunks, which are loaded into the same slots.

#pragma once

#include "cuda/feature_pyramid.cuh"

namespace fastad::cuda {

// `kGeneral`: levels may have a standard, pyramids may be of l2, and the teacher may get a
// gradient. Elsewhere the machine code knows nothing of these.
template <class T, Path kPath, bool kGeneral>
class FeatureTile {
 protected:
  using Scalar = typename T::Scalar;
  using Acc = typename T::Acc;
  static constexpr bool kVectors = kPath != Path::kScalar;
  // A slot holds 4 words as they were loaded, or one number that is converted at once.
  using Stored = std::conditional_t<kVectors, Scalar, Acc>;
  using Word = std::conditional_t<kVectors, unsigned, Acc>;
  static constexpr int kSlots = kVectors ? kVectorSlots : kScalarSlots;
  static constexpr int kWords = kVectors ? 4 : 1;
  static constexpr int kInWord = sizeof(Word) / sizeof(Stored);
  static constexpr int kSize = kWords * kInWord;
  static constexpr int kPixels = kPath == Path::kPlanar ? kSize : 1;  // of a slot
  static constexpr int kChannels = kPath == Path::kInterleaved ? kSize : 1;
  using Slot = Vector<Word, kWords>;

 public:
  __device__ FeatureTile(const FeatureLevel& level, int tile)
      : level_(level),
        tile_(tile),
        tile_pixels_(level.tile_pixels),
        pixel_lanes_log2_(level.pixel_lanes_log2),
        channels_fastest_(kVectors ? kPath == Path::kInterleaved : level.channels_fastest) {
    const int fast_log2 = channels_fastest_ ? kThreadsLog2 - pixel_lanes_log2_ : pixel_lanes_log2_;
    const int fast = thread() & ((1 << fast_log2) - 1), slow = thread() >> fast_log2;
    pixel_lane_ = channels_fastest_ ? slow : fast;
    const int channel_lane = channels_fastest_ ? fast : slow;
    // Where pixels are fastest, a thread's slots are neighbours, which serves the interleaved
    // partner of a planar tensor.
    first_slot_ = channels_fastest_ ? channel_lane : channel_lane * kSlots;
    slot_step_ = channels_fastest_ ? channel_lanes() : 1;
    const int64_t pixel = first_pixel() + pixel_lane_ * kPixels;
    const bool inside = pixel < level.pixels;
    channels_ = read_channels_ = inside ? level.channels : 0;
    image_ = inside ? static_cast<int>(divide(pixel, level.image_pixels)) : 0;
    pixel_ = inside ? static_cast<int>(pixel - image_ * level.image_pixels) : 0;
  }

  // Reads no features of this thread's pixels where all of them have a 0 in `upstream`
  // (N, H_l, W_l): their gradient is 0. All threads of a pixel agree. They count as zero vectors.
  __device__ void skip_zeros(const Acc* upstream) {
    if (channels_ == 0) return;
    const Acc* values = upstream + first_pixel() + pixel_lane_ * kPixels;
    bool any = false;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) any |= load(values + p) != 0;
    if (!any) read_channels_ = 0;
  }

 protected:
  // ---- the grid of threads ----------------------------------------------------------------------

  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  __device__ int channel_lanes() const { return kThreads >> pixel_lanes_log2_; }
  __device__ int64_t first_pixel() const { return static_cast<int64_t>(tile_) * tile_pixels_; }

  // ---- the numbers in the slots -----------------------------------------------------------------

  // Calls visit(t, s, p, i) with the numbers of a word, p the pixel among the thread's own.
  template <class Visit>
  __device__ void visit_word(int slot, int word, const Visit& visit) const {
    Acc t[kInWord], s[kInWord];
    unpack<Stored>(teacher_[slot].v[word], t);
    unpack<Stored>(student_[slot].v[word], s);
    if constexpr (kGeneral) {
      if (level_.standard != nullptr) standardize(slot, word, t);
    }
#pragma unroll
    for (int i = 0; i < kInWord; ++i) visit(t[i], s[i], kPixels > 1 ? word * kInWord + i : 0, i);
  }

  // (t - mean) * factor of the numbers of a word, which are one channel's or neighbouring ones'.
  // The few kilobytes stay in the L1 cache.
  __device__ void standardize(int slot, int word, Acc (&t)[kInWord]) const {
    if (!reads(slot)) return;
    const Acc* mean = static_cast<const Acc*>(level_.standard) + channel(slot);
    const Acc* factor = mean + level_.channels;
    if constexpr (kChannels > 1) {
      using Numbers = Vector<Acc, kInWord>;
      const Numbers m = load(reinterpret_cast<const Numbers*>(mean + word * kInWord));
      const Numbers f = load(reinterpret_cast<const Numbers*>(factor + word * kInWord));
#pragma unroll
      for (int i = 0; i < kInWord; ++i) t[i] = (t[i] - m.v[i]) * f.v[i];
    } else {
      const Acc m = load(mean), f = load(factor);
#pragma unroll
      for (int i = 0; i < kInWord; ++i) t[i] = (t[i] - m) * f;
    }
  }

  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        visit_word(slot, word, [&](Acc t, Acc s, int p, int) { visit(t, s, p); });
      }
    }
  }

  // ---- memory -----------------------------------------------------------------------------------

  // All loads of a chunk are issued before the first is used.
  __device__ void load_chunk(int chunk) {
    if (chunk == resident_) {
      keep_packed(teacher_);
      keep_packed(student_);
      return;
    }
    resident_ = chunk;
    load_slots(level_.teacher, teacher_);
    load_slots(level_.student, student_);
  }

  // Half precision is converted anew in every pass: floats kept from one pass to the next would
  // take twice the registers. This hides from the compiler that the words are the same.
  static __device__ void keep_packed(Slot (&slots)[kSlots]) {
    if constexpr (kInWord > 1) {
#pragma unroll
      for (int i = 0; i < kSlots * kWords; ++i) {
        asm volatile("" : "+r"(slots[i / kWords].v[i % kWords]));
      }
    }
  }

  // The first channel of a slot.
  __device__ int channel(int slot) const {
    const int first = resident_ * kSlots * channel_lanes();
    return (first + first_slot_ + slot * slot_step_) * kChannels;
  }
  __device__ bool holds(int slot) const { return channel(slot) < channels_; }
  __device__ bool reads(int slot) const { return channel(slot) < read_channels_; }

  // Of the thread's first pixel.
  template <class U>
  __device__ U* address(const FeatureMap& map) const {
    return static_cast<U*>(map.data) + image_ * map.image_stride + pixel_ * map.pixel_stride;
  }

  __device__ void load_slots(const FeatureMap& map, Slot (&slots)[kSlots]) {
    if constexpr (kVectors) {
      const Scalar* base = address<const Scalar>(map);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        slots[slot] = {};
        if (!reads(slot)) continue;
        slots[slot] =
            load(reinterpret_cast<const Slot*>(base + channel(slot) * map.channel_stride));
      }
    } else if constexpr (std::is_void_v<Scalar>) {
      visit_dtype(map.dtype, [&](auto x) { load_elements<decltype(x)>(map, slots); });
    } else {
      load_elements<Scalar>(map, slots);
    }
  }

  template <class U>
  __device__ void load_elements(const FeatureMap& map, Slot (&slots)[kSlots]) {
    const U* base = address<const U>(map);
    U loaded[kSlots];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      loaded[slot] = U(0);
      if (reads(slot)) loaded[slot] = load(base + channel(slot) * map.channel_stride);
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) slots[slot].v[0] = static_cast<Acc>(loaded[slot]);
  }

  __device__ void store_slot(const FeatureMap& map, int slot, const Slot& values) const {
    if (!holds(slot)) return;
    const int64_t offset = channel(slot) * map.channel_stride;
    if constexpr (kVectors) {
      store(reinterpret_cast<Slot*>(address<Scalar>(map) + offset), values);
    } else {
      visit_dtype(map.dtype, [&](auto x) {
        using U = decltype(x);
        store(address<U>(map) + offset, static_cast<U>(values.v[0]));
      });
    }
  }

  const FeatureLevel& level_;
  int tile_, tile_pixels_, pixel_lanes_log2_;
  bool channels_fastest_;
  int pixel_lane_;              // of the thread
  int first_slot_, slot_step_;  // places of its slots among those of the pixel
  int image_, pixel_;           // of the thread's first pixel, the latter within its image
  int channels_;                // of that pixel; 0 where the level has no such pixel
  int read_channels_;           // likewise; 0 where their features do not matter
  int resident_ = -1;           // the chunk that the slots hold
  Slot teacher_[kSlots], student_[kSlots];
};

}  // namespace fastad::cuda
