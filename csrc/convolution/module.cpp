// The CPU engine's convolutions as PyTorch sees them, and the Python module that carries them.
//
// An extension of its own: the ops of the package do not need it, and it is compiled with
// contraction (panel.h), which those are not. README.md beside this file explains the folder.

#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>

#include "convolution/int16.h"
#include "parallel.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fastad, m) {
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
  // Of each query the nearest of many vectors; `vectors` is (M / 32, D, 32).
  m.def("nearest(Tensor queries, Tensor vectors, Tensor halves) -> Tensor");
  // A residual network's first convolution and pool; `weight` comes from pack_stem.
  m.def("pack_stem(Tensor weight, bool int16=False) -> Tensor");
  m.def("stem(Tensor images, Tensor weight, Tensor bias, int padding, bool bfloat16) -> Tensor");
  // The first convolution of a network of separable ones; `weight` is (K / 32, 27, 32).
  m.def("separable_stem(Tensor images, Tensor scaling, Tensor weight, Tensor bias) -> Tensor");
  // A block of separable convolutions, one pass, of one network or several. `expand` and `project`
  // are float32, or come from the first.
  m.def("pack_separable(Tensor weight, int chunk) -> Tensor");
  m.def(
      "separable_block(Tensor x, Tensor expand, Tensor depthwise, Tensor project, Tensor bias, int "
      "filters, int side, int stride, bool add) -> Tensor");
  // Whole networks of such convolutions, one thread each.
  m.def(
      "residual_networks(Tensor images, Tensor[] weights, Tensor[] biases, int[] steps, int "
      "padding) "
      "-> Tensor[]");
}

PYBIND11_MODULE(_C_convolution, m) {
  m.doc() = "Convolutions in prediction: importing it registers their torch.ops.fastad.";
  fastad::own_threads =
      pybind11::module_::import("fastad._C").attr("own_threads").cast<pybind11::capsule>();
  m.attr("float32") = fastad::cpu::has_panels();
  m.attr("int16") = fastad::cpu::has_int16();
}
