// The cold tier for Python: rows and chunks to LMDB's pairs and back, and the check of a data file.
//
// Pairs read from LMDB are views straight into its map: their sizes are whatever the file says, so a size is compared
// before a byte behind it is touched, and the GIL is released while bytes are, for they may have to come from the disk.
#include <pybind11/numpy.h>

#include <cstring>
#include <vector>

#include "bindings/bindings.h"
#include "disk/check_pages.h"
#include "disk/seal.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

struct Bytes {
    const uint8_t* data;
    size_t size;
};

Bytes bytes_of(PyObject* object) {
    if (PyMemoryView_Check(object)) {
        Py_buffer view;  // asked for, since one that was released, or is not contiguous, has no bytes to give
        if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
        const Bytes bytes{static_cast<const uint8_t*>(view.buf), static_cast<size_t>(view.len)};
        PyBuffer_Release(&view);
        return bytes;
    }
    if (PyBytes_Check(object))
        return {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(object)),
                static_cast<size_t>(PyBytes_GET_SIZE(object))};
    throw py::type_error("keys and values are bytes or memoryviews");
}

struct Pair {
    Bytes key, value;
};

std::vector<Pair> pairs_of(const py::list& list) {
    std::vector<Pair> out(list.size());
    for (size_t i = 0; i < out.size(); ++i) {
        PyObject* item = PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) throw py::type_error("pairs are tuples of two");
        out[i] = {bytes_of(PyTuple_GET_ITEM(item, 0)), bytes_of(PyTuple_GET_ITEM(item, 1))};
    }
    return out;
}

py::object new_bytes(const void* data, size_t n) {
    PyObject* object = PyBytes_FromStringAndSize(static_cast<const char*>(data), static_cast<Py_ssize_t>(n));
    if (!object) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(object);
}

// The pair of a key and a payload, sealed. The value is made in place, so that its bytes are copied once.
py::object sealed(const uint8_t* key, size_t key_bytes, const void* payload, size_t n) {
    py::object value = new_bytes(nullptr, n + kCrcBytes);
    write_value(key, key_bytes, payload, n, reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(value.ptr())));
    PyObject* pair = PyTuple_New(2);
    if (!pair) throw py::error_already_set();
    PyTuple_SET_ITEM(pair, 0, new_bytes(key, key_bytes).release().ptr());
    PyTuple_SET_ITEM(pair, 1, value.release().ptr());
    return py::reinterpret_steal<py::object>(pair);
}

template <typename Make>
py::list listed(size_t n, const Make& make) {
    py::list out(n);
    for (size_t i = 0; i < n; ++i) PyList_SET_ITEM(out.ptr(), static_cast<Py_ssize_t>(i), make(i).release().ptr());
    return out;
}

py::list row_keys(uint8_t table, const Array<int64_t>& ids) {
    if (ids.ndim() != 1) throw py::value_error("ids must be one column");
    const int64_t* id = ids.data();
    return listed(static_cast<size_t>(ids.size()), [&](size_t i) {
        uint8_t key[kRowKeyBytes];
        write_row_key(table, id[i], key);
        return new_bytes(key, sizeof key);
    });
}

py::list seal_rows(uint8_t table, const Array<int64_t>& ids, const Array<uint8_t>& rows) {
    if (ids.ndim() != 1 || rows.ndim() != 2 || rows.shape(0) != ids.shape(0))
        throw py::value_error("ids must be [N] and rows [N, width]");
    const int64_t* id = ids.data();
    const uint8_t* row = rows.data();
    const auto width = static_cast<size_t>(rows.shape(1));
    return listed(static_cast<size_t>(ids.size()), [&](size_t i) {
        uint8_t key[kRowKeyBytes];
        write_row_key(table, id[i], key);
        return sealed(key, sizeof key, row + i * width, width);
    });
}

py::list seal_chunks(uint8_t table, const Array<int64_t>& ids, const Array<uint8_t>& numbers,
                     const Array<uint8_t>& payload, const Array<int64_t>& offsets) {
    const py::ssize_t n = ids.size();
    if (ids.ndim() != 1 || numbers.ndim() != 1 || payload.ndim() != 1 || offsets.ndim() != 1 || numbers.size() != n ||
        offsets.size() != n + 1)
        throw py::value_error("ids and numbers must be [N], payload [bytes] and offsets [N + 1]");
    const int64_t* id = ids.data();
    const int64_t* offset = offsets.data();
    const uint8_t* bytes = payload.data();
    if (offset[0] < 0 || offset[n] > payload.size()) throw py::value_error("offsets outside the payload");
    for (py::ssize_t i = 0; i < n; ++i)
        if (offset[i] > offset[i + 1]) throw py::value_error("offsets must not fall");
    return listed(static_cast<size_t>(n), [&](size_t i) {
        uint8_t key[kChunkKeyBytes];
        write_row_key(table, id[i], key);
        key[kRowKeyBytes] = numbers.data()[i];
        return sealed(key, sizeof key, bytes + offset[i], static_cast<size_t>(offset[i + 1] - offset[i]));
    });
}

py::list seal_values(const py::list& list) {
    const std::vector<Pair> pairs = pairs_of(list);
    return listed(pairs.size(), [&](size_t i) {
        const Pair& p = pairs[i];
        return sealed(p.key.data, p.key.size, p.value.data, p.value.size);
    });
}

bool of_table(const Pair& pair, uint8_t table) { return pair.key.size > 0 && pair.key.data[0] == table; }

// Ends at the first pair of another table, whose CRC must hold too: else a table could end early by a damaged key.
int64_t unseal_rows(uint8_t table, const py::list& list, Array<int64_t>& ids, Array<uint8_t>& rows) {
    const std::vector<Pair> pairs = pairs_of(list);
    const auto n = static_cast<py::ssize_t>(pairs.size());
    if (ids.ndim() != 1 || rows.ndim() != 2 || ids.shape(0) < n || rows.shape(0) < n)
        throw py::value_error("ids must be [N] and rows [N, width], with a place for every pair");
    const auto width = static_cast<size_t>(rows.shape(1));
    int64_t* id = ids.mutable_data();
    uint8_t* row = rows.mutable_data();
    py::gil_scoped_release nogil;
    for (py::ssize_t i = 0; i < n; ++i) {
        const Pair& p = pairs[static_cast<size_t>(i)];
        const bool ours = of_table(p, table);
        if (ours && (p.key.size != kRowKeyBytes || p.value.size != width + kCrcBytes)) return -1 - i;
        if (!value_holds(p.key.data, p.key.size, p.value.data, p.value.size)) return -1 - i;
        if (!ours) return i;
        id[i] = read_key_id(p.key.data);
        std::memcpy(row + static_cast<size_t>(i) * width, p.value.data, width);
    }
    return n;
}

// Returns the pairs of the table without their CRCs, and the index of the first bad pair or -1.
py::tuple unseal_values(uint8_t table, const py::list& list) {
    const std::vector<Pair> pairs = pairs_of(list);
    size_t good = 0;
    py::ssize_t bad = -1;
    {
        py::gil_scoped_release nogil;
        for (; good < pairs.size(); ++good) {
            const Pair& p = pairs[good];
            if (!value_holds(p.key.data, p.key.size, p.value.data, p.value.size)) bad = static_cast<py::ssize_t>(good);
            if (bad >= 0 || !of_table(p, table)) break;
        }
    }
    return py::make_tuple(listed(good,
                                 [&](size_t i) -> py::object {
                                     const Pair& p = pairs[i];
                                     return py::make_tuple(new_bytes(p.key.data, p.key.size),
                                                           new_bytes(p.value.data, p.value.size - kCrcBytes));
                                 }),
                          bad);
}

py::dict checked(int fd, bool values) {
    PageCheck c;
    {
        py::gil_scoped_release nogil;
        c = check_pages(fd, values);
    }
    py::dict tables;
    for (size_t i = 0; i < c.entries_by_table.size(); ++i)
        if (c.entries_by_table[i]) tables[py::int_(i)] = c.entries_by_table[i];
    py::dict out;
    out["ok"] = c.ok;
    out["message"] = c.message;
    out["offset"] = c.offset < 0 ? py::object(py::none()) : py::object(py::int_(c.offset));
    out["file_bytes"] = c.file_bytes;
    out["page_size"] = c.page_size;
    out["txnid"] = c.txnid;
    out["last_page"] = c.last_page;
    out["used_pages"] = c.used_pages;
    out["list_pages"] = c.list_pages;
    out["free_pages"] = c.free_pages;
    out["lost_pages"] = c.lost_pages;
    out["entries"] = c.entries;
    out["tables"] = tables;
    py::dict metadata;
    for (const auto& [name, payload] : c.metadata) {
        PyObject* text = PyUnicode_DecodeUTF8(name.data(), std::ssize(name), "backslashreplace");  // names from a file
        if (!text) throw py::error_already_set();
        metadata[py::reinterpret_steal<py::str>(text)] = py::bytes(payload);
    }
    out["metadata"] = metadata;
    return out;
}

}  // namespace

void bind_cold(py::module_& m) {
    m.def("row_keys", &row_keys, py::arg("table"), py::arg("ids").noconvert(), "LMDB's keys of the rows of `ids`.");
    m.def("seal_rows", &seal_rows, py::arg("table"), py::arg("ids").noconvert(), py::arg("rows").noconvert(),
          "The (key, value) pairs of rows u8[N, width], ready for LMDB.");
    m.def("seal_chunks", &seal_chunks, py::arg("table"), py::arg("ids").noconvert(), py::arg("numbers").noconvert(),
          py::arg("payload").noconvert(), py::arg("offsets").noconvert(),
          "The (key, value) pairs of chunks: number numbers[i] of ids[i] is payload[offsets[i]:offsets[i + 1]].");
    m.def("seal_values", &seal_values, py::arg("pairs"), "(key, payload) pairs to the (key, value) pairs of LMDB.");
    m.def(
        "unseal_rows", &unseal_rows, py::arg("table"), py::arg("pairs"), py::arg("ids").noconvert(),
        py::arg("rows").noconvert(),
        "Fills ids and rows from LMDB's pairs up to the first of another table; returns how many, or -1 - i if pair i "
        "is damaged.");
    m.def("unseal_values", &unseal_values, py::arg("table"), py::arg("pairs"),
          "Returns ([(key, payload)] up to the first pair of another table, index of the first damaged pair or -1).");
    m.def("check_pages", &checked, py::arg("fd"), py::arg("values") = false,
          "Checks an LMDB data file's pages and, if `values`, the CRC of every value. Moves no file position.");
}
