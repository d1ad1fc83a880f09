// A kernel that makes one mistake at choice, each of which the emulation has to notice.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cuda/kernel.cuh"

namespace fastad::cuda {
namespace {

using torch::stable::Tensor;

// In the order of FAULTS in test_emulator.py.
enum Fault : int64_t {
  kNone,
  kReadBeyond,
  kWriteToInput,
  kMisaligned,
  kAbsentAtBarrier,
  kMissingBarrier,
  kUnwritten,
  kArrayIndex,
  kSharedSize,
  kStream
};

constexpr int kThreads = 64;

struct Params {
  int64_t fault;
  const float* in;  // (blocks * kThreads,)
  float* out;       // likewise
};

// Reverses every 64 numbers.
__global__ void faulty_kernel(const __grid_constant__ Params params) {
  float (&shared)[kThreads] = shared_memory<float[kThreads]>();
  const int64_t fault = params.fault;
  const int thread = threadIdx.x, i = blockIdx.x * kThreads + thread;
  if (fault == kAbsentAtBarrier && thread == 7) return;
  shared[thread] = load(params.in + i + (fault == kReadBeyond ? 1 : 0));
  if (fault != kMissingBarrier) __syncthreads();
  const int mirrored = kThreads - 1 - thread + (fault == kArrayIndex ? 1 : 0);
  const float value = shared[mirrored];
  if (fault == kMisaligned) load(reinterpret_cast<const Vector<float, 2>*>(params.in + 1));
  if (fault == kUnwritten && thread == 5) return;
  store(fault == kWriteToInput ? const_cast<float*>(params.in) + i : params.out + i, value);
}

Tensor faulty(int64_t fault, Tensor in) {
  const torch::stable::accelerator::DeviceGuard guard(0);
  Tensor out = torch::stable::empty_like(in);
  const Params params = {fault, static_cast<const float*>(in.const_data_ptr()),
                         static_cast<float*>(out.mutable_data_ptr())};
  const size_t shared = (kThreads - (fault == kSharedSize ? 1 : 0)) * sizeof(float);
  launch(faulty_kernel, in.numel() / kThreads, kThreads, shared,
         fault == kStream ? nullptr : current_stream(0), params);
  return out;
}

}  // namespace
}  // namespace fastad::cuda

STABLE_TORCH_LIBRARY_IMPL(fastad, CUDA, m) { m.impl("faulty", TORCH_BOX(&fastad::cuda::faulty)); }
