// Every op of fastad, as PyTorch sees it, and the Python module that carries them.
//
// Kernels register themselves: the CPU ones in csrc/cpu, in this module; the CUDA ones in
// csrc/cuda, in fastad._C_cuda. Fake and autograd implementations stand in Python beside each op's
// wrapper (fastad/ops). All C++ is written against the LibTorch stable ABI, so a build runs with
// every torch from 2.10 on.
//
// Shapes: features (N, C_l, H_l, W_l), a list over the levels l; distances (N, H_l, W_l); anomaly
// map (N, H, W); maximum (N,).

#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include <string>

#include "convolution/int16.h"
#include "cpu/block.h"
#include "metrics/bind.h"

#if defined(__clang__)
#define FASTAD_COMPILER __VERSION__
#elif defined(__GNUC__)
#define FASTAD_COMPILER "g++ " __VERSION__
#else
#define FASTAD_COMPILER "unknown"
#endif

STABLE_TORCH_LIBRARY(fastad, m) {
  m.def("distances(Tensor[] teacher, Tensor[] student, float eps) -> Tensor[]");
  m.def(
      "distances_backward(Tensor[] grad, Tensor[] teacher, Tensor[] student, float eps) "
      "-> Tensor[]");
  m.def(
      "aggregate_maps(Tensor[] maps, SymInt height, SymInt width, bool product, float[] weights) "
      "-> (Tensor map, Tensor maximum)");
  m.def(
      "aggregate_maps_backward(Tensor grad, Tensor[] maps, bool product, float[] weights) "
      "-> Tensor[]");
  m.def(
      "anomaly_map(Tensor[] teacher, Tensor[] student, SymInt height, SymInt width, bool product, "
      "float[] weights, float eps) -> (Tensor map, Tensor maximum, Tensor[] distances)");
  // The gradients for the student come with the loss when `gradient` is set: the features are
  // read once. `reduction` is 0 mean, 1 sum, 2 none (the levels' means).
  m.def(
      "distillation_loss(Tensor[] teacher, Tensor[] student, float[] level_weights, int reduction, "
      "float eps, bool gradient) -> (Tensor loss, Tensor[] gradients)");
  // 3x3 convolutions for prediction; `weight` of the latter two comes from the first.
  m.def("pack_3x3(Tensor weight, bool int16=False) -> Tensor");
  m.def("convolve_3x3(Tensor x, Tensor weight, Tensor bias, bool relu) -> Tensor");
  m.def(
      "convolve_3x3_add_(Tensor(a!) added, Tensor x, Tensor weight, Tensor bias, bool relu) -> ()");
  // 1x1 and 3x3 convolutions in 16-bit integers.
  m.def("pack_int16(Tensor weight) -> Tensor");
  m.def(
      "convolve_int16(Tensor x, Tensor weight, Tensor bias, int filters, int side, int stride, "
      "bool relu) -> Tensor");
  m.def(
      "convolve_int16_add_(Tensor(a!) added, Tensor x, Tensor weight, Tensor bias, int side, "
      "bool relu) -> ()");
  // A 1x1 convolution; `weight` is (K / 32, C, 32).
  m.def("conv1x1_strided(Tensor x, Tensor weight, Tensor bias, int stride) -> Tensor");
  // A residual network's first convolution and pool; `weight` comes from pack_stem.
  m.def("pack_stem(Tensor weight, bool int16=False) -> Tensor");
  m.def("stem(Tensor images, Tensor weight, Tensor bias, int padding, bool bfloat16) -> Tensor");
  // Whole networks of such convolutions, one thread each.
  m.def(
      "residual_networks(Tensor images, Tensor[] weights, Tensor[] biases, int[] steps, int "
      "padding) "
      "-> Tensor[]");
  m.def("resize_bytes(Tensor images, SymInt height, SymInt width) -> Tensor");
  m.def("normalize_bytes(Tensor images, Tensor table) -> Tensor");
  m.def("normalize_floats(Tensor images, Tensor mean, Tensor deviation) -> Tensor");
  m.def("scale_gradients_(Tensor(a!)[] gradients, Tensor grad_loss) -> ()");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of fastad: importing it registers torch.ops.fastad.";
  m.attr("torch_version") = std::to_string(TORCH_VERSION_MAJOR) + "." +
                            std::to_string(TORCH_VERSION_MINOR) + "." +
                            std::to_string(TORCH_VERSION_PATCH);
  m.attr("compiler") = FASTAD_COMPILER;
  m.attr("cpu_kernels") = fastad::cpu::instruction_set();
  m.attr("cpu_convolutions") = fastad::cpu::has_panels();
  m.attr("cpu_int16") = fastad::cpu::has_int16();
  m.attr("cuda_status") = FASTAD_CUDA_STATUS;
  fastad::metrics::bind(m);
}
