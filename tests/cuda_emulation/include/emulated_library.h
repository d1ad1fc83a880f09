// Included before every kernel file: registers its ops for CPU tensors as fastad_emulation::*.

#pragma once

#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) \
  _STABLE_TORCH_LIBRARY_IMPL(fastad_emulation, CPU, m, C10_UID)
