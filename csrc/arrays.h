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
// Lists in CSR form, or none: offsets [n + 1] never fall and stay within the values; each value below `limit`.
inline void require_lists(const MaybeArray<int64_t>& values, const MaybeArray<int64_t>& offsets, int64_t n,
                          int64_t limit = INT64_MAX) {
    require(values.has_value() == offsets.has_value(), "values and offsets, or neither");
    if (!offsets) return;
    require(n >= 0 && offsets->size() == n + 1 && offsets->data()[0] >= 0 && offsets->data()[n] <= values->size(),
            "offsets must be [n + 1], within the values");
    for (int64_t i = 0; i < n; ++i) require(offsets->data()[i] <= offsets->data()[i + 1], "offsets must not fall");
    for (int64_t i = 0; i < values->size(); ++i)
        require(values->data()[i] >= 0 && values->data()[i] < limit, "a position out of range");
}
template <class T>
const T* data_or_null(const MaybeArray<T>& a) {
    return a ? a->data() : nullptr;
}
