// Shapes and types of the arrays that cross the boundary: C-contiguous, never converted, counts in int64.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/score_topk.h"

template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;
template <class T>
using MaybeArray = std::optional<Array<T>>;

// A wrong shape here is a bug of the Python side, which checks what users pass.
inline void require(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(std::string("_native: ") + what);
}
// 2^16 floats is far beyond what a row may have; larger numbers would overflow the sizes that are made of it.
inline int64_t checked_dim(int64_t dim) {
    require(dim > 0 && dim <= 65'536, "dim out of range");
    return dim;
}
// Codes of losses and optimizers, as the Python side numbers them.
inline Loss checked_loss(int64_t code) {
    require(code >= 0 && code < kLosses, "no such loss");
    return static_cast<Loss>(code);
}
inline Optimizer checked_optimizer(int64_t code) {
    require(code >= 0 && code < kOptimizers, "no such optimizer");
    return static_cast<Optimizer>(code);
}
// An argument that is never converted to its type.
inline pybind11::arg fixed(const char* name) { return pybind11::arg(name).noconvert(); }
// Adam keeps two more vectors with a row, and a few numbers.
inline int64_t checked_floats(int64_t floats) {
    require(floats > 0 && floats <= 4 * 65'536, "floats out of range");
    return floats;
}
// Lists in CSR form, or one list for all, or none: offsets [n + 1] never fall and stay within the values; each value
// below `limit`.
inline void require_offsets(const MaybeArray<int64_t>& values, const MaybeArray<int64_t>& offsets, int64_t n) {
    require(values || !offsets, "offsets without values");
    if (!offsets) return;
    require(n >= 0 && offsets->size() == n + 1 && offsets->data()[0] >= 0 && offsets->data()[n] <= values->size(),
            "offsets must be [n + 1], within the values");
    for (int64_t i = 0; i < n; ++i) require(offsets->data()[i] <= offsets->data()[i + 1], "offsets must not fall");
}
inline void require_lists(const MaybeArray<int64_t>& values, const MaybeArray<int64_t>& offsets, int64_t n,
                          int64_t limit = INT64_MAX) {
    require_offsets(values, offsets, n);
    if (!values) return;
    for (int64_t i = 0; i < values->size(); ++i)
        require(values->data()[i] >= 0 && values->data()[i] < limit, "a position out of range");
}
template <class T>
const T* data_or_null(const MaybeArray<T>& a) {
    return a ? a->data() : nullptr;
}
// No filter without positions; without offsets one list for all queries.
inline PositionLists position_lists(const MaybeArray<int64_t>& positions, const MaybeArray<int64_t>& offsets) {
    return {positions.has_value(), data_or_null(positions), data_or_null(offsets), positions ? positions->size() : 0};
}
inline const std::byte* bytes_of(const Array<uint8_t>& a) { return reinterpret_cast<const std::byte*>(a.data()); }
inline std::byte* bytes_of(Array<uint8_t>& a) { return reinterpret_cast<std::byte*>(a.mutable_data()); }

template <class T>
Array<T> to_array(const std::vector<T>& v) {
    Array<T> out(static_cast<pybind11::ssize_t>(v.size()));
    std::copy(v.begin(), v.end(), out.mutable_data());
    return out;
}

// What `list` gives, rising.
template <class List>
Array<int64_t> sorted_ids(const List& list) {
    std::vector<int64_t> ids;
    {
        pybind11::gil_scoped_release nogil;
        list(&ids);
        std::sort(ids.begin(), ids.end());
    }
    return to_array(ids);
}
