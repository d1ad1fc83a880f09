// From a dtype that is a number to the C++ type.

#pragma once

#include "cpu/distance_loops.h"
#include "half_precision.h"

namespace fastad::cpu {

// Calls visit with a value of the C++ type of `type`.
template <class Visitor>
auto by_type(DType type, const Visitor& visit) {
  switch (type) {
    case DType::float64:
      return visit(double{});
    case DType::float32:
      return visit(float{});
    case DType::float16:
      return visit(Half{});
    default:
      return visit(BFloat16{});
  }
}

}  // namespace fastad::cpu
