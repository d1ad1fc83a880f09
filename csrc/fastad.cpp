// The ops on features, maps and images as PyTorch sees them, and the Python module that carries
// them. The CPU engine's convolutions stand in csrc/convolution, in fastad._C_convolution.
//
// Kernels register themselves: the CPU ones in csrc/cpu and csrc/images, in this module; the CUDA
// ones in csrc/cuda, in fastad._C_cuda. Fake and autograd implementations stand in Python beside
// each op's wrapper (fastad/ops). All C++ is written against the LibTorch stable ABI, so a build
// runs with every torch from 2.10 on.
//
// Shapes: features (N, C_l, H_l, W_l), a list over the levels l; distances (N, H_l, W_l); anomaly
// map (N, H, W); maximum (N,).

#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include <string>

#include "instruction_set.h"
#include "metrics/bind.h"
#include "parallel.h"

#if defined(__clang__)
#define FASTAD_COMPILER __VERSION__
#elif defined(__GNUC__)
#define FASTAD_COMPILER "g++ " __VERSION__
#else
#define FASTAD_COMPILER "unknown"
#endif

STABLE_TORCH_LIBRARY(fastad, m) {
  // `spatial_weights`: a factor of each pixel's distance, (N, H_l, W_l) of the distances' dtype.
  // `distance` is 0 cosine, 1 l2. `channels`: mean and inverse deviation of the teacher's channels,
  // by which they are standardised first, (2, C_l) of the distances' dtype.
  m.def(
      "distances(Tensor[] teacher, Tensor[] student, float eps, Tensor[]? spatial_weights=None, "
      "int distance=0, Tensor[]? channels=None) -> Tensor[]");
  m.def(
      "distances_backward(Tensor[] grad, Tensor[] teacher, Tensor[] student, float eps, "
      "Tensor[]? spatial_weights=None, int distance=0, Tensor[]? channels=None) -> Tensor[]");
  // Each image's level as one vector: their distances (L, N), and the norms of teacher and student
  // (2, L, N), which the backward needs again.
  m.def(
      "flat_distances(Tensor[] teacher, Tensor[] student, float eps, Tensor[]? "
      "spatial_weights=None, "
      "Tensor[]? channels=None) -> (Tensor distances, Tensor norms)");
  m.def(
      "flat_distances_backward(Tensor grad, Tensor distances, Tensor norms, Tensor[] teacher, "
      "Tensor[] student, float eps, Tensor[]? spatial_weights=None, Tensor[]? channels=None) "
      "-> Tensor[]");
  // `smoothing`: the standard deviation of a Gaussian over the map, in pixels; 0 for none. It does
  // not go with a `dtype`, nor with a gradient in half precision. `dtype`: float16 or bfloat16 for
  // the map, which is computed as ever and rounded as it is written. Its maximum is not rounded.
  // The gradient of a map may be in half precision, too.
  m.def(
      "aggregate_maps(Tensor[] maps, SymInt height, SymInt width, bool product, float[] weights, "
      "bool align_corners=False, ScalarType? dtype=None, float smoothing=0.0) -> (Tensor map, "
      "Tensor maximum)");
  m.def(
      "aggregate_maps_backward(Tensor grad, Tensor[] maps, bool product, float[] weights, "
      "bool align_corners=False, float smoothing=0.0) -> Tensor[]");
  // The levels upsampled, side by side: (N, L, H, W).
  m.def(
      "stack_maps(Tensor[] maps, SymInt height, SymInt width, bool align_corners=False, "
      "ScalarType? dtype=None) -> Tensor");
  m.def("stack_maps_backward(Tensor grad, Tensor[] maps, bool align_corners=False) -> Tensor[]");
  m.def(
      "anomaly_map(Tensor[] teacher, Tensor[] student, SymInt height, SymInt width, bool product, "
      "float[] weights, float eps, Tensor[]? spatial_weights=None, int distance=0, "
      "Tensor[]? channels=None, bool align_corners=False, ScalarType? dtype=None) "
      "-> (Tensor map, Tensor maximum, Tensor[] distances)");
  // The gradients for the student come with the loss when `gradient` is set, and after them those
  // for the teacher when `teacher_gradient` is, too: the features are read once. `reduction` is 0
  // mean, 1 sum, 2 none (the levels' means). The mean of an image with weights is
  // sum(w * d) / sum(w), or 0 where all are 0.
  m.def(
      "distillation_loss(Tensor[] teacher, Tensor[] student, float[] level_weights, int reduction, "
      "float eps, bool gradient, Tensor[]? spatial_weights=None, int distance=0, "
      "Tensor[]? channels=None, bool teacher_gradient=False) "
      "-> (Tensor loss, Tensor[] gradients)");
  // On the CPU. Of each level's distances only those at or above the quantile `hard` of the batch
  // count. The gradients for the distances come with the loss.
  m.def(
      "hard_loss(Tensor[] maps, float[] level_weights, float hard, int reduction, "
      "Tensor[]? spatial_weights=None) -> (Tensor loss, Tensor[] gradients)");
  // On the CPU. The mean of the `count` highest pixels of each image (N,), and their places among
  // its pixels (N, count).
  m.def("top_share(Tensor map, SymInt count) -> (Tensor scores, Tensor places)");
  m.def("scale_gradients_(Tensor(a!)[] gradients, Tensor grad_loss) -> ()");
  // Weights (N, H, W) averaged over the pixels that each pixel of a level touches; NaN where one of
  // them is negative.
  m.def("resize_weights(Tensor weights, SymInt[] heights, SymInt[] widths) -> Tensor[]");
  // Bytes and floats of images on their way into a network.
  m.def(
      "resize_bytes(Tensor images, SymInt height, SymInt width, SymInt rows=-1, SymInt top=0, "
      "SymInt first=0, SymInt last=-1) -> Tensor");
  m.def("normalize_bytes(Tensor images, Tensor table) -> Tensor");
  m.def("normalize_floats(Tensor images, Tensor mean, Tensor deviation) -> Tensor");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of fastad: importing it registers torch.ops.fastad.";
  m.attr("torch_version") = std::to_string(TORCH_VERSION_MAJOR) + "." +
                            std::to_string(TORCH_VERSION_MINOR) + "." +
                            std::to_string(TORCH_VERSION_PATCH);
  m.attr("compiler") = FASTAD_COMPILER;
  m.attr("cpu_kernels") = fastad::cpu::name_of(fastad::cpu::kInstructionSet);
  m.attr("cuda_status") = FASTAD_CUDA_STATUS;
  fastad::metrics::bind(m);
  fastad::own_threads = fastad::kOwnThreads;
  m.attr("own_threads") = pybind11::capsule(fastad::kOwnThreads, "fastad.own_threads");
  m.def("enter_own_threads", &fastad::enter_own_threads);
  m.def("leave_own_threads", &fastad::leave_own_threads);
  m.def("thread_count", &fastad::thread_count);
}
