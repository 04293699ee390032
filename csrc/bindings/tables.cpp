// Warm tiers, and the sketch of sightings, for Python. Calls whose work grows with the data release the GIL.
#include <memory>
#include <string_view>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "table/sightings.h"
#include "table/warm.h"

namespace py = pybind11;

namespace {

Array<uint8_t> row_array(int64_t n, const Warm& w) { return Array<uint8_t>({n, w.layout().stored_bytes}); }

py::tuple peek(Warm& w, const Array<int64_t>& ids) {
    const int64_t n = ids.size();
    Array<bool> found(n);
    Array<uint8_t> rows = row_array(n, w);
    const int64_t* id = ids.data();
    bool* hit = found.mutable_data();
    std::byte* to = bytes_of(rows);
    {
        py::gil_scoped_release nogil;
        for (int64_t i = 0; i < n; ++i) hit[i] = w.peek(id[i], to + i * w.layout().stored_bytes);
    }
    return py::make_tuple(found, rows);
}

// Pins the first of `ids` that there is room for; (how many, those of them that wait to be filled).
py::tuple bring(Warm& w, const Array<int64_t>& ids) {
    require_no_window(w);
    std::vector<int64_t> missing;
    int64_t n = 0;
    {
        py::gil_scoped_release nogil;
        for (; n < ids.size(); ++n) {
            const int64_t id = ids.data()[n];
            if (const uint32_t slot = w.find(id); slot != Warm::kNone) {
                w.pin(slot);
            } else if (w.admit(id, Warm::kFetching) != Warm::kNone) {
                missing.push_back(id);
            } else {
                break;
            }
        }
    }
    return py::make_tuple(n, to_array(missing));
}

void name_rows(Warm& w, const Array<int64_t>& ids, const Array<int64_t>& seqs) {
    require(ids.size() == seqs.size(), "ids and seqs must be [N]");
    py::gil_scoped_release nogil;
    for (int64_t i = 0; i < ids.size(); ++i) {
        const uint32_t slot = w.find(ids.data()[i]);
        require(slot != Warm::kNone, "a row that is not here");
        w.name(slot, static_cast<uint64_t>(seqs.data()[i]));
    }
}

Array<bool> admit(Sightings& s, uint64_t seed, const Array<int64_t>& users, const Array<int64_t>& items,
                  const Array<bool>& users_known, const Array<bool>& items_known, uint8_t after) {
    const int64_t n = users.size();
    require(items.size() == n && users_known.size() == n && items_known.size() == n, "columns must be [N]");
    Array<bool> learned(n);
    bool* out = learned.mutable_data();
    py::gil_scoped_release nogil;
    s.admit(seed, users.data(), items.data(), users_known.data(), items_known.data(), n, after, out);
    return learned;
}

py::tuple collect(Warm& w, int64_t from, int64_t n) {
    require_frozen(w, from, n);
    Array<int64_t> ids(n);
    Array<uint8_t> rows = row_array(n, w);
    int64_t* id = ids.mutable_data();
    std::byte* to = bytes_of(rows);
    {
        py::gil_scoped_release nogil;
        w.collect(from, n, id, to);
    }
    return py::make_tuple(ids, rows);
}

void fill(Warm& w, const Array<int64_t>& ids, const Array<uint8_t>& rows) {
    require(rows.ndim() == 2 && rows.shape(0) == ids.size() && rows.shape(1) == w.layout().stored_bytes,
            "rows must be [n, stored_bytes]");
    py::gil_scoped_release nogil;
    for (int64_t i = 0; i < ids.size(); ++i) {
        const uint32_t slot = w.find(ids.data()[i]);
        if (slot != Warm::kNone && (w.flags(slot) & Warm::kFetching))
            w.fill(slot, bytes_of(rows) + i * w.layout().stored_bytes);
    }
}

}  // namespace

namespace {

void bind_warm(py::module_& m) {
    py::class_<Warm>(m, "Warm")
        .def(py::init([](int64_t floats, int64_t capacity, bool ordinals) {
                 require(capacity > 0 && capacity < Warm::kNone, "capacity out of range");
                 return std::make_unique<Warm>(checked_floats(floats), capacity, ordinals);
             }),
             py::arg("floats"), py::arg("capacity"), py::arg("ordinals"))
        .def("peek", &peek, fixed("ids"))
        .def("fill", &fill, fixed("ids"), fixed("rows"))
        .def("freeze", &Warm::freeze, py::call_guard<py::gil_scoped_release>())
        .def("sort_frozen", &Warm::sort_frozen_count, py::call_guard<py::gil_scoped_release>())
        .def("collect", &collect, py::arg("start"), py::arg("n"))
        .def("thaw", &Warm::thaw, py::arg("committed"), py::call_guard<py::gil_scoped_release>())
        .def("resident", [](Warm& w) { return sorted_ids([&](auto* ids) { w.resident(ids); }); })
        .def(
            "untouched_since",
            [](Warm& w, uint64_t seq) { return sorted_ids([&](auto* ids) { w.untouched_since(seq, ids); }); },
            py::arg("seq"))
        .def(
            "remove",
            [](Warm& w, const Array<int64_t>& ids) {
                require_no_window(w);
                py::gil_scoped_release nogil;
                w.remove(ids.data(), ids.size());
            },
            fixed("ids"))
        .def("bring", &bring, fixed("ids"))
        .def("name", &name_rows, fixed("ids"), fixed("seqs"), "The rows, which are here, were named by events.")
        .def("unpin",
             [](Warm& w) {
                 require_no_window(w);
                 w.unpin_all();
             })
        .def_property_readonly("stored_bytes", [](const Warm& w) { return w.layout().stored_bytes; })
        .def_property_readonly("seq_offset", [](const Warm& w) { return w.layout().meta_offset; })
        .def_property_readonly("stride", [](const Warm& w) { return w.layout().stride; })
        .def_property_readonly("kept_bytes",
                               py::cpp_function(&Warm::kept_bytes, py::call_guard<py::gil_scoped_release>()))
        .def_property_readonly("bytes", py::cpp_function(&Warm::bytes, py::call_guard<py::gil_scoped_release>()))
        .def_property_readonly("dirty", &Warm::dirty)
        .def_property_readonly("capacity", &Warm::capacity)
        .def_property_readonly("evicted", &Warm::evicted)
        .def_property_readonly("crowded", &Warm::crowded)
        .def("__len__", &Warm::size)
        .def_property_readonly("total", [](const Warm& w) { return w.total.load(); })
        .def_property_readonly("learned", [](const Warm& w) { return w.learned.load(); })
        .def(
            "restore_rows",
            [](Warm& w, int64_t n) {
                require(n >= 0, "a number of rows");
                w.restore_rows(n);
            },
            py::arg("n"), "At opening: so many rows are in LMDB.")
        .def(
            "rows_removed",
            [](Warm& w, int64_t n) {
                require(n >= 0 && n <= w.learned, "more rows than there are");
                require_no_window(w);
                w.rows_removed(n);
            },
            py::arg("n"));
}

void bind_sightings(py::module_& m) {
    m.attr("SKETCH_BYTES") = Sightings::kRows * Sightings::kWidth;
    py::class_<Sightings>(m, "Sightings")
        .def(py::init<>())
        .def("admit", &admit, py::arg("seed"), fixed("users"), fixed("items"), fixed("users_known"),
             fixed("items_known"), py::arg("after"), "Which events are learned, bool [N].")
        .def("halve", &Sightings::halve)
        .def_property(
            "cells", [](const Sightings& s) { return to_array(s.cells); },
            [](Sightings& s, const py::bytes& saved) {
                const std::string_view raw(saved);
                require(raw.size() == Sightings::kRows * Sightings::kWidth, "not the sketch");
                s.cells.assign(raw.begin(), raw.end());
            });
}

}  // namespace

void bind_tables(py::module_& m) {
    m.def(
        "stored_row_bytes", [](int64_t floats) { return RowLayout(checked_floats(floats)).stored_bytes; },
        py::arg("floats"), "Bytes in LMDB of one row of so many floats.");
    m.def(
        "warm_row_bytes",
        [](int64_t floats) { return RowLayout(checked_floats(floats)).stride + Warm::kOverheadBytes; },
        py::arg("floats"), "RAM of one such row, with its share of the index and the bookkeeping.");
    bind_warm(m);
    bind_sightings(m);
}
