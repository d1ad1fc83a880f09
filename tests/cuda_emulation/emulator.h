// What the scheduler and the stand-ins for torch and the CUDA runtime know of each other.

#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

namespace emulation {

// Memory that the running op may read, and maybe write.
struct Range {
  const char *begin, *end;
  bool writable;
};

// The op that runs, or ran last.
struct Op {
  std::vector<Range> ranges;
  std::string error;
  int guards, launches, memsets;
  int64_t traffic[4];  // bytes: read as vectors, otherwise; written as vectors, otherwise
};
extern Op op;

// Records the first error, and ends the launch if one is under way.
void fail(const std::string& what);

inline cudaStream_t current_stream() { return reinterpret_cast<cudaStream_t>(&op); }

}  // namespace emulation
