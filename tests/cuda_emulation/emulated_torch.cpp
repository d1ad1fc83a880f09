// Stands in for what the ops call besides their kernels: the CUDA runtime, and those functions of
// torch that tell which memory, stream and device an op uses. They shadow torch's own in this
// library. Undefined behaviour is reported through the __ubsan_handle functions at the end.

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "emulator.h"

namespace emulation {
namespace {

AOTITorchError take_range(AtenTensorHandle tensor, const void* data, bool writable) {
  int64_t elements = 0, axes = 0, *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  aoti_torch_get_numel(tensor, &elements);
  aoti_torch_get_dim(tensor, &axes);
  aoti_torch_get_sizes(tensor, &sizes);
  aoti_torch_get_strides(tensor, &strides);
  aoti_torch_get_dtype(tensor, &dtype);
  if (elements == 0) return AOTI_TORCH_SUCCESS;
  int64_t extent = 1;
  for (int64_t axis = 0; axis < axes; ++axis) extent += (sizes[axis] - 1) * strides[axis];
  const char* begin = static_cast<const char*>(data);
  op.ranges.push_back({begin, begin + extent * aoti_torch_dtype_element_size(dtype), writable});
  return AOTI_TORCH_SUCCESS;
}

template <class Function>
Function* in_torch(const char* name) {
  static void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  return reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace
}  // namespace emulation

using emulation::fail;

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream) {
  ++emulation::op.memsets;
  if (stream != emulation::current_stream()) fail("memset on another than the current stream");
  emulation::check_access(address, bytes, 1, true);
  if (!emulation::op.error.empty()) return cudaErrorLaunchFailure;
  std::memset(address, value, bytes);
  return cudaSuccess;
}

extern "C" {

AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool,
                                        char** message) {
  *message =
      error == cudaSuccess ? nullptr : strdup(("CUDA error: " + emulation::op.error).c_str());
  return AOTI_TORCH_SUCCESS;
}
void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }

// ------------------------------------------- what torch exports, as the op is to see it

AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** data) {
  emulation::in_torch<decltype(torch_get_mutable_data_ptr)>("torch_get_mutable_data_ptr")(tensor,
                                                                                          data);
  return emulation::take_range(tensor, *data, true);
}

AOTITorchError torch_get_const_data_ptr(AtenTensorHandle tensor, const void** data) {
  emulation::in_torch<decltype(torch_get_const_data_ptr)>("torch_get_const_data_ptr")(tensor, data);
  return emulation::take_range(tensor, *data, false);
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = emulation::current_stream();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  if (emulation::op.guards++ == 0) {
    emulation::op.ranges.clear();
    emulation::op.error.clear();
    emulation::op.launches = emulation::op.memsets = 0;
    std::fill(std::begin(emulation::op.traffic), std::end(emulation::op.traffic), 0);
  }
  *guard = reinterpret_cast<DeviceGuardHandle>(&emulation::op.guards);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  --emulation::op.guards;
  return AOTI_TORCH_SUCCESS;
}

// ------------------------------------------- for the tests

int emulated_launches() { return emulation::op.launches; }
int emulated_memsets() { return emulation::op.memsets; }
int64_t emulated_traffic(int kind) { return emulation::op.traffic[kind]; }

// ------------------------------------------- undefined behaviour, as compiled in

struct UndefinedBehaviour {
  const char* file;
  uint32_t line, column;
};

#define REPORT(kind)                                                             \
  void __ubsan_handle_##kind(UndefinedBehaviour* where, ...) {                   \
    fail(std::string("undefined behaviour: " #kind " at ") + where->file + ":" + \
         std::to_string(where->line));                                           \
  }
REPORT(add_overflow)
REPORT(builtin_unreachable)
REPORT(divrem_overflow)
REPORT(float_cast_overflow)
REPORT(invalid_builtin)
REPORT(load_invalid_value)
REPORT(missing_return)
REPORT(mul_overflow)
REPORT(negate_overflow)
REPORT(nonnull_arg)
REPORT(nonnull_return_v1)
REPORT(out_of_bounds)
REPORT(pointer_overflow)
REPORT(shift_out_of_bounds)
REPORT(sub_overflow)
REPORT(type_mismatch_v1)
REPORT(vla_bound_not_positive)

}  // extern "C"
