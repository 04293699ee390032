// Shapes and types of the arrays that cross the boundary: C-contiguous, never converted, counts in int64.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;
template <class T>
using MaybeArray = std::optional<Array<T>>;

// A wrong shape here is a bug of the Python side, which checks what users pass.
inline void require(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(std::string("_native: ") + what);
}
template <class T>
const T* data_or_null(const MaybeArray<T>& a) {
    return a ? a->data() : nullptr;
}
