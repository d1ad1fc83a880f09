// From PyTorch to a launch: the current stream, errors, the limits of a grid.

#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <limits>

namespace fastad::cuda {

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class Params>
void launch(void (*kernel)(Params), int64_t blocks, int threads, size_t shared_bytes,
            cudaStream_t stream, const Params& params) {
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "too many pixels for one launch");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  // Clears the error that it throws: a caller may go on without this kernel.
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

}  // namespace fastad::cuda
