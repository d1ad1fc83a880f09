// What every op on features and maps demands of its arguments, on the CPU and on CUDA alike. A call
// that passes touches no memory but its tensors' elements.
//
// The Python wrappers (fastad/ops) check first and say more. Exported programs and C++ callers have
// no wrappers. Host code, LibTorch stable ABI only.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "gaussian.h"

namespace fastad {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kMaxLevels = 8;
// Images of a batch and pixels of an image or a map. Below 2^31 there is room to round up.
constexpr int64_t kMostPixels = 1 << 30;
constexpr int64_t kMostChannels = 1 << 24;

enum Reduction : int64_t { kMean = 0, kSum = 1, kNone = 2 };
enum Distance : int64_t { kCosine = 0, kL2 = 1, kCosineFlat = 2 };

// ---- what messages say --------------------------------------------------------------------------

inline const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return "float64";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    default:
      return "of another dtype";
  }
}

// "(2, 3, 4, 5) float32, strides (60, 20, 5, 1)"
inline std::string describe(const Tensor& x) {
  std::ostringstream text;
  const auto list = [&](const auto& numbers) {
    text << '(';
    for (size_t i = 0; i < numbers.size(); ++i) text << (i > 0 ? ", " : "") << numbers[i];
    text << ')';
  };
  list(x.sizes());
  text << ' ' << name_of(x.scalar_type()) << ", strides ";
  list(x.strides());
  return text.str();
}

// ---- one tensor ---------------------------------------------------------------------------------

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() ? b.is_cpu() : a.device() == b.device();
}

// Whether height x width is a size of an image or a map.
inline bool is_size(int64_t height, int64_t width) {
  return height > 0 && width > 0 && height <= kMostPixels && width <= kMostPixels / height;
}

// Whether the elements fill a stretch of memory, each at a place of its own.
inline bool is_dense(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  std::vector<size_t> axes;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return true;
    if (sizes[i] > 1) axes.push_back(i);
  }
  std::sort(axes.begin(), axes.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const size_t axis : axes) {
    if (strides[axis] != expected) return false;
    expected *= sizes[axis];
  }
  return true;
}

// How (N, C, H, W) features lie in memory: elements from image to image, from channel to channel,
// from pixel to pixel. Axes of length 1 have stride 0.
struct FeatureStrides {
  int64_t image = 0, channel = 0, pixel = 0;
  // Whether one stride leads through the pixels of an image, and it or that of the channels is 1.
  bool readable = true;

  explicit FeatureStrides(const Tensor& x) {
    const auto sizes = x.sizes(), strides = x.strides();
    const int64_t channels = sizes[1], height = sizes[2], width = sizes[3];
    if (sizes[0] == 0) return;  // strides of an empty tensor mean nothing
    if (sizes[0] > 1) image = strides[0];
    if (channels > 1) channel = strides[1];
    const bool one_pixel = width == 1 && height == 1;
    if (!one_pixel) pixel = width > 1 ? strides[3] : strides[2];
    const bool rows_join = width == 1 || height == 1 || strides[2] == width * strides[3];
    readable = rows_join && (one_pixel || pixel == 1 || channels == 1 || channel == 1);
  }
};

// A tensor for the gradient of features: their shape, dtype and, where it is readable, layout.
inline Tensor empty_gradient(const Tensor& features) {
  Tensor gradient = torch::stable::empty_like(features);
  if (FeatureStrides(gradient).readable) return gradient;
  return torch::stable::new_empty(features, features.sizes());
}

inline std::vector<Tensor> empty_gradients(const std::vector<Tensor>& features) {
  std::vector<Tensor> gradients;
  for (const Tensor& x : features) gradients.push_back(empty_gradient(x));
  return gradients;
}

inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// ---- the arguments of an op ---------------------------------------------------------------------

inline void check_levels(const char* name, const std::vector<Tensor>& levels) {
  STD_TORCH_CHECK(!levels.empty() && levels.size() <= kMaxLevels, name, " must have 1 to ",
                  kMaxLevels, " levels, not ", levels.size());
  for (size_t i = 1; i < levels.size(); ++i) {
    STD_TORCH_CHECK(same_device(levels[i], levels[0]), name, "[", i, "] and ", name,
                    "[0] must be on one device");
  }
}

// `numbers`: one a level.
inline void check_numbers(const char* name, const std::vector<double>& numbers, size_t levels) {
  STD_TORCH_CHECK(numbers.size() == levels, name, " must have ", levels,
                  " values, one a level, not ", numbers.size());
  for (const double number : numbers) {
    STD_TORCH_CHECK(std::isfinite(number), name, " must be finite, not ", number);
  }
}

inline void check_features(const std::vector<Tensor>& teacher, const std::vector<Tensor>& student,
                           double eps) {
  check_levels("teacher", teacher);
  check_levels("student", student);
  STD_TORCH_CHECK(teacher.size() == student.size(), "teacher has ", teacher.size(),
                  " levels, student ", student.size());
  STD_TORCH_CHECK(same_device(teacher[0], student[0]), "teacher and student must be on one device");
  STD_TORCH_CHECK(eps > 0 && std::isfinite(eps), "eps must be positive and finite, not ", eps);
  const auto check = [](const char* name, size_t level, const Tensor& x) {
    STD_TORCH_CHECK(is_floating(x.scalar_type()) && x.dim() == 4, name, "[", level,
                    "] must be (N, C, H, W), float32, bfloat16, float16 or float64, not ",
                    describe(x));
    const auto sizes = x.sizes();
    STD_TORCH_CHECK(sizes[0] <= kMostPixels && sizes[1] > 0 && sizes[1] <= kMostChannels &&
                        is_size(sizes[2], sizes[3]),
                    name, "[", level,
                    "] must have at least one channel and pixel, and at most 2^24 channels and "
                    "2^30 pixels and images, not ",
                    describe(x));
    STD_TORCH_CHECK(FeatureStrides(x).readable, name, "[", level,
                    "] must be contiguous or channels_last within an image, not ", describe(x));
  };
  for (size_t i = 0; i < teacher.size(); ++i) {
    const Tensor &t = teacher[i], &s = student[i];
    check("teacher", i, t);
    check("student", i, s);
    STD_TORCH_CHECK(same_shape(t, s), "teacher[", i, "] is ", describe(t), ", student[", i, "] is ",
                    describe(s), ": shapes differ");
    STD_TORCH_CHECK(t.size(0) == teacher[0].size(0), "teacher[", i, "] has a batch of ", t.size(0),
                    ", teacher[0] of ", teacher[0].size(0));
  }
}

// The dtype of distances: float64 where any feature is.
inline ScalarType distance_dtype(const std::vector<Tensor>& teacher,
                                 const std::vector<Tensor>& student) {
  for (const auto* features : {&teacher, &student}) {
    for (const Tensor& x : *features) {
      if (x.scalar_type() == ScalarType::Double) return ScalarType::Double;
    }
  }
  return ScalarType::Float;
}

using OptionalTensors = std::optional<std::vector<Tensor>>;

// Spatial weights of levels of these sizes (N, H_l, W_l), with the pixels of each image side by
// side; none where there are none. Axis 0 may be expanded.
inline std::vector<Tensor> check_spatial_weights(const OptionalTensors& weights,
                                                 const std::vector<std::array<int64_t, 3>>& sizes,
                                                 const Tensor& beside, ScalarType dtype) {
  if (!weights.has_value()) return {};
  STD_TORCH_CHECK(weights->size() == sizes.size(), "spatial_weights must have ", sizes.size(),
                  " levels, not ", weights->size());
  std::vector<Tensor> result;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const Tensor& w = (*weights)[i];
    const auto [images, height, width] = sizes[i];
    STD_TORCH_CHECK(w.dim() == 3 && w.size(0) == images && w.size(1) == height &&
                        w.size(2) == width && w.scalar_type() == dtype && same_device(w, beside),
                    "spatial_weights[", i, "] must be (", images, ", ", height, ", ", width, ") ",
                    name_of(dtype), " and beside the features, not ", describe(w));
    const bool pixels_join =
        (width == 1 || w.stride(2) == 1) && (height == 1 || w.stride(1) == width);
    result.push_back(pixels_join ? w : torch::stable::contiguous(w));
  }
  return result;
}

// Of features that were checked.
inline std::vector<Tensor> check_spatial_weights(const OptionalTensors& weights,
                                                 const std::vector<Tensor>& student,
                                                 ScalarType dtype) {
  std::vector<std::array<int64_t, 3>> sizes;
  for (const Tensor& s : student) sizes.push_back({s.size(0), s.size(2), s.size(3)});
  return check_spatial_weights(weights, sizes, student[0], dtype);
}

// What is compared of features: the vectors of pixels normalised (`kCosine`) or as they are
// (`kL2`), or an image's level as one vector normalised (`kCosineFlat`); the teacher's channels
// standardised before or not. The tensors checked must live on.
struct Comparison {
  bool l2 = false, flat = false;
  std::vector<const void*> channels;  // (2, C_l): mean and inverse deviation; none for neither
};

// `may_be_flat`: no map is asked for.
inline Comparison check_comparison(int64_t distance, const OptionalTensors& channels,
                                   const std::vector<Tensor>& student, ScalarType dtype,
                                   bool may_be_flat = false) {
  STD_TORCH_CHECK(
      distance == kCosine || distance == kL2 || (may_be_flat && distance == kCosineFlat),
      "distance must be ",
      may_be_flat ? "0 (cosine), 1 (l2) or 2 (cosine_flat)" : "0 (cosine) or 1 (l2)", ", not ",
      distance);
  Comparison result{.l2 = distance == kL2, .flat = distance == kCosineFlat};
  if (!channels.has_value()) return result;
  STD_TORCH_CHECK(channels->size() == student.size(), "channels must have ", student.size(),
                  " levels, not ", channels->size());
  for (size_t i = 0; i < student.size(); ++i) {
    const Tensor &x = (*channels)[i], &s = student[i];
    STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == 2 && x.size(1) == s.size(1) &&
                        x.scalar_type() == dtype && x.is_contiguous() && same_device(x, s),
                    "channels[", i, "] must be (2, ", s.size(1), ") ", name_of(dtype),
                    ", contiguous and beside the features, not ", describe(x));
    result.channels.push_back(x.const_data_ptr());
  }
  return result;
}

// Tensors for the gradients that come with a loss: none, the student's, or those and the teacher's,
// which lie as the student's do.
inline std::vector<Tensor> loss_gradients(const std::vector<Tensor>& teacher,
                                          const std::vector<Tensor>& student,
                                          const Comparison& comparison, bool gradient,
                                          bool teacher_gradient) {
  STD_TORCH_CHECK(gradient || !teacher_gradient, "teacher_gradient needs gradient");
  if (!gradient) return {};
  std::vector<Tensor> gradients = empty_gradients(student);
  if (!teacher_gradient) return gradients;
  STD_TORCH_CHECK(comparison.channels.empty(),
                  "teacher_gradient does not go with channels: call distances_backward");
  for (size_t i = 0; i < teacher.size(); ++i) {
    const auto t = teacher[i].strides(), s = student[i].strides();
    STD_TORCH_CHECK(std::equal(t.begin(), t.end(), s.begin()), "teacher[", i, "] is ",
                    describe(teacher[i]), ", student[", i, "] is ", describe(student[i]),
                    ": teacher_gradient needs the same strides");
    gradients.push_back(empty_gradient(teacher[i]));
  }
  return gradients;
}

// `grad`: of the distances (N, H_l, W_l) of features that were checked.
inline void check_distance_gradients(const std::vector<Tensor>& grad,
                                     const std::vector<Tensor>& student, ScalarType dtype) {
  STD_TORCH_CHECK(grad.size() == student.size(), "grad must have ", student.size(), " levels, not ",
                  grad.size());
  for (size_t i = 0; i < grad.size(); ++i) {
    const Tensor &g = grad[i], &s = student[i];
    STD_TORCH_CHECK(g.dim() == 3 && g.size(0) == s.size(0) && g.size(1) == s.size(2) &&
                        g.size(2) == s.size(3) && g.scalar_type() == dtype && same_device(g, s),
                    "grad[", i, "] must be (", s.size(0), ", ", s.size(2), ", ", s.size(3), ") ",
                    name_of(dtype), " and beside the features, not ", describe(g));
  }
}

// `grad` and `distances` of the flattened levels of features that were checked, and their `norms`.
inline void check_flat_gradients(const Tensor& grad, const Tensor& distances, const Tensor& norms,
                                 const std::vector<Tensor>& student, ScalarType dtype) {
  const auto levels = static_cast<int64_t>(student.size()), images = student[0].size(0);
  const auto check = [&](const char* name, const Tensor& x) {
    STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == levels && x.size(1) == images &&
                        x.scalar_type() == dtype && same_device(x, student[0]),
                    name, " must be (", levels, ", ", images, ") ", name_of(dtype),
                    " and beside the features, not ", describe(x));
  };
  check("grad", grad);
  check("distances", distances);
  STD_TORCH_CHECK(norms.dim() == 3 && norms.size(0) == 2 && norms.size(1) == levels &&
                      norms.size(2) == images && norms.scalar_type() == dtype &&
                      same_device(norms, student[0]),
                  "norms must be (2, ", levels, ", ", images, ") ", name_of(dtype),
                  " and beside the features, not ", describe(norms));
}

inline void check_maps(const std::vector<Tensor>& maps, const std::vector<double>& weights) {
  check_levels("maps", maps);
  check_numbers("weights", weights, maps.size());
  const ScalarType dtype = maps[0].scalar_type();
  for (size_t i = 0; i < maps.size(); ++i) {
    const Tensor& map = maps[i];
    STD_TORCH_CHECK(map.dim() == 3 && is_size(map.size(1), map.size(2)) &&
                        map.size(0) <= kMostPixels && map.is_contiguous() &&
                        (dtype == ScalarType::Float || dtype == ScalarType::Double),
                    "maps[", i,
                    "] must be contiguous (N, H, W), float32 or float64, with 1 to 2^30 pixels, "
                    "not ",
                    describe(map));
    STD_TORCH_CHECK(map.size(0) == maps[0].size(0) && map.scalar_type() == dtype, "maps[", i,
                    "] is ", describe(map), ", maps[0] is ", describe(maps[0]),
                    ": batch and dtype must be the same");
  }
}

// Of maps that were checked.
inline std::vector<Tensor> check_weights_of_maps(const OptionalTensors& weights,
                                                 const std::vector<Tensor>& maps) {
  std::vector<std::array<int64_t, 3>> sizes;
  for (const Tensor& x : maps) sizes.push_back({x.size(0), x.size(1), x.size(2)});
  return check_spatial_weights(weights, sizes, maps[0], maps[0].scalar_type());
}

inline void check_size(int64_t height, int64_t width) {
  STD_TORCH_CHECK(is_size(height, width), "size must be (height, width), both at least 1, with at ",
                  "most 2^30 pixels, not (", height, ", ", width, ")");
}

// `smoothing`: the standard deviation of a Gaussian in pixels; 0 for none.
// `rounded`: whether the map or its gradient is in another dtype than the levels' maps.
inline void check_smoothing(double smoothing, bool rounded) {
  STD_TORCH_CHECK(smoothing >= 0 && smoothing <= kMostSmoothing, "smoothing must be from 0 to ",
                  kMostSmoothing, " pixels, not ", smoothing);
  STD_TORCH_CHECK(smoothing == 0 || !rounded, "smoothing does not go with half precision");
}

inline bool is_half(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}

// The dtype of a map that level maps of `computed` are joined to.
inline ScalarType check_map_dtype(const std::optional<ScalarType>& dtype, ScalarType computed) {
  STD_TORCH_CHECK(!dtype.has_value() || is_half(*dtype),
                  "dtype must be None, float16 or bfloat16, not ", name_of(*dtype));
  return dtype.value_or(computed);
}

// Whether a gradient of a map that `maps` are joined to may have this dtype.
inline bool is_map_gradient_dtype(ScalarType dtype, const std::vector<Tensor>& maps) {
  return dtype == maps[0].scalar_type() || is_half(dtype);
}

// `grad`: of the map (N, H, W) that `maps`, which were checked, are joined to.
inline void check_map_gradient(const Tensor& grad, const std::vector<Tensor>& maps) {
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == maps[0].size(0) &&
                      is_size(grad.size(1), grad.size(2)) &&
                      is_map_gradient_dtype(grad.scalar_type(), maps) && same_device(grad, maps[0]),
                  "grad must be (", maps[0].size(0), ", H, W) ", name_of(maps[0].scalar_type()),
                  ", float16 or bfloat16 and beside the maps, not ", describe(grad));
}

// `grad`: of the stack (N, L, H, W) of `maps`, which were checked.
inline void check_stack_gradient(const Tensor& grad, const std::vector<Tensor>& maps) {
  const auto levels = static_cast<int64_t>(maps.size());
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == maps[0].size(0) && grad.size(1) == levels &&
                      is_size(grad.size(2), grad.size(3)) &&
                      is_map_gradient_dtype(grad.scalar_type(), maps) && same_device(grad, maps[0]),
                  "grad must be (", maps[0].size(0), ", ", levels, ", H, W) ",
                  name_of(maps[0].scalar_type()), ", float16 or bfloat16 and beside the maps, not ",
                  describe(grad));
}

inline void check_reduction(int64_t reduction) {
  STD_TORCH_CHECK(reduction == kMean || reduction == kSum || reduction == kNone,
                  "reduction must be 0 (mean), 1 (sum) or 2 (none), not ", reduction);
}

// `grad_loss`: a number for all levels, or one for each.
inline void check_scaling(const std::vector<Tensor>& gradients, const Tensor& grad_loss) {
  check_levels("gradients", gradients);
  for (size_t i = 0; i < gradients.size(); ++i) {
    const Tensor& x = gradients[i];
    STD_TORCH_CHECK(is_floating(x.scalar_type()) && is_dense(x), "gradients[", i,
                    "] must be float32, bfloat16, float16 or float64, and dense, not ",
                    describe(x));
  }
  const ScalarType dtype = grad_loss.scalar_type();
  const auto levels = static_cast<int64_t>(gradients.size());
  STD_TORCH_CHECK(
      (dtype == ScalarType::Float || dtype == ScalarType::Double) &&
          (grad_loss.dim() == 0 || (grad_loss.dim() == 1 && grad_loss.size(0) == levels)) &&
          same_device(grad_loss, gradients[0]),
      "grad_loss must be one number, or one for each of ", levels,
      " levels, float32 or float64 and beside the gradients, not ", describe(grad_loss));
}

}  // namespace fastad
