// What one thread holds of a tile: a few channels of its pixels, of teacher and student, read once
// and kept as they were loaded.

#pragma once

#include "cuda/memory.cuh"
#include "cuda/packing.cuh"

namespace fastad::cuda {

template <class T, Path kPath>
class ThreadFeatures {
  using Scalar = typename T::Scalar;
  using Acc = typename T::Acc;
  static constexpr bool kVectors = kPath != Path::kScalar;
  static constexpr int kSlots = kVectors ? kVectorSlots : kScalarSlots;
  // A slot holds 4 words as they were loaded, or one number that is converted at once.
  using Word = std::conditional_t<kVectors, unsigned, Acc>;
  static constexpr int kWords = kVectors ? 4 : 1;
  static constexpr int kInWord = kVectors ? kPerWord<Scalar> : 1;
  static constexpr int kSize = kWords * kInWord;
  static constexpr int kChannels = kPath == Path::kInterleaved ? kSize : 1;
  using Slot = Vector<Word, kWords>;

 public:
  static constexpr int kPixels = kPath == Path::kPlanar ? kSize : 1;

  // The thread's first pixel, counted over the level, and its place among the threads that share
  // its pixels.
  __device__ ThreadFeatures(const FeatureLevel& level, int64_t pixel, int channel_lane,
                            int channel_lanes)
      : level_(level), channel_lane_(channel_lane), channel_lanes_(channel_lanes) {
    inside_ = pixel < level.pixels;
    image_ = inside_ ? static_cast<int>(divide(pixel, level.image_pixels)) : 0;
    pixel_ = inside_ ? static_cast<int>(pixel - image_ * level.image_pixels) : 0;
  }

  static __device__ bool channels_fastest(const FeatureLevel& level) {
    return kPath == Path::kInterleaved || (kPath == Path::kScalar && level.channels_fastest);
  }

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

  // visit(t, s, p): every number of the chunk, p the pixel among the thread's own.
  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        Acc t[kInWord], s[kInWord];
        numbers(teacher_[slot].v[word], t);
        numbers(student_[slot].v[word], s);
#pragma unroll
        for (int i = 0; i < kInWord; ++i) visit(t[i], s[i], own_pixel(word, i));
      }
    }
  }

  // Writes value(t, s, p) for every number of the chunk as the gradient of s.
  template <class Value>
  __device__ void write_gradient(const Value& value) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      Slot out;
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        Acc t[kInWord], s[kInWord], gradient[kInWord];
        numbers(teacher_[slot].v[word], t);
        numbers(student_[slot].v[word], s);
#pragma unroll
        for (int i = 0; i < kInWord; ++i) gradient[i] = value(t[i], s[i], own_pixel(word, i));
        if constexpr (kVectors) {
          out.v[word] = pack<Scalar>(gradient);
        } else {
          out.v[word] = gradient[0];
        }
      }
      store_slot(slot, out);
    }
  }

 private:
  static __device__ int own_pixel(int word, int i) { return kPixels > 1 ? word * kInWord + i : 0; }

  static __device__ void numbers(Word word, Acc (&values)[kInWord]) {
    if constexpr (kVectors) {
      unpack<Scalar>(word, values);
    } else {
      values[0] = word;
    }
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

  // Neighbouring threads take neighbouring vectors where channels are fastest; elsewhere a
  // thread's slots are neighbours, which serves the interleaved partner of a planar tensor.
  __device__ int channel(int slot) const {
    const int place = channels_fastest(level_) ? slot * channel_lanes_ + channel_lane_
                                               : channel_lane_ * kSlots + slot;
    return (resident_ * kSlots * channel_lanes_ + place) * kChannels;
  }

  template <class U>
  __device__ U* address(const FeatureMap& map) const {
    return static_cast<U*>(map.data) + image_ * map.image_stride + pixel_ * map.pixel_stride;
  }

  __device__ void load_slots(const FeatureMap& map, Slot (&slots)[kSlots]) {
    if constexpr (kVectors) {
      const Scalar* base = address<const Scalar>(map);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const int c = channel(slot);
        slots[slot] = {};
        if (!inside_ || c >= level_.channels) continue;
        slots[slot] = load(reinterpret_cast<const Slot*>(base + c * map.channel_stride));
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
      const int c = channel(slot);
      loaded[slot] = U(0);
      if (inside_ && c < level_.channels) loaded[slot] = load(base + c * map.channel_stride);
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) slots[slot].v[0] = static_cast<Acc>(loaded[slot]);
  }

  __device__ void store_slot(int slot, const Slot& values) const {
    const int c = channel(slot);
    if (!inside_ || c >= level_.channels) return;
    const FeatureMap& map = level_.gradient;
    if constexpr (kVectors) {
      store(reinterpret_cast<Slot*>(address<Scalar>(map) + c * map.channel_stride), values);
    } else {
      visit_dtype(map.dtype, [&](auto x) {
        using U = decltype(x);
        store(address<U>(map) + c * map.channel_stride, static_cast<U>(values.v[0]));
      });
    }
  }

  const FeatureLevel& level_;
  int channel_lane_, channel_lanes_;
  int image_, pixel_;  // of the thread's first pixel, the latter within its image
  bool inside_;
  int resident_ = -1;  // the chunk that the slots hold
  Slot teacher_[kSlots], student_[kSlots];
};

}  // namespace fastad::cuda
