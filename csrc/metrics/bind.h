#pragma once

#include <pybind11/pybind11.h>

namespace fastad::metrics {

// Adds the metrics' functions over numpy arrays to a Python module.
void bind(pybind11::module_& m);

}  // namespace fastad::metrics
