// crc32c for Python: any contiguous buffer, the GIL released for large ones.
#include "bindings/bindings.h"
#include "disk/crc32c.h"

namespace py = pybind11;

void bind_checksum(py::module_& m) {
    m.def(
        "crc32c",
        [](const py::buffer& data, uint32_t crc) {
            Py_buffer view;
            if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
            const auto n = static_cast<size_t>(view.len);
            uint32_t out;
            if (n < 65536) {
                out = crc32c(view.buf, n, crc);
            } else {
                py::gil_scoped_release nogil;
                out = crc32c(view.buf, n, crc);
            }
            PyBuffer_Release(&view);
            return out;
        },
        py::arg("data"), py::arg("crc") = 0, "CRC-32C of a contiguous buffer, going on from `crc`.");
}
