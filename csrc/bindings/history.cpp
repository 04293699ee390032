// The histories of users for Python. Calls whose work grows with the data release the GIL.
#include <cstring>
#include <string_view>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "table/history.h"

namespace py = pybind11;

namespace {

py::bytes chunk_bytes(const HistoryEntry* e, int64_t n) {
    return {reinterpret_cast<const char*>(e), static_cast<size_t>(n) * sizeof(HistoryEntry)};
}

py::list collect_history(Warm& users, History& h, int64_t from, int64_t n) {
    require(&users == &h.users(), "not the history of these users");
    require_frozen(users, from, n);
    std::vector<History::Chunk> chunks;
    {
        py::gil_scoped_release nogil;
        for (int64_t i = from; i < from + n; ++i) h.collect(users.frozen()[static_cast<size_t>(i)], &chunks);
    }
    py::list out;
    for (const auto& c : chunks)
        out.append(py::make_tuple(c.user, c.number, chunk_bytes(c.entries.data(), std::ssize(c.entries))));
    return out;
}

// The items of one resident user (bytes of HistoryEntry), or None where the user is not in RAM.
py::object entries(Warm& users, History& h, int64_t user) {
    require(&users == &h.users(), "not the history of these users");
    std::vector<HistoryEntry> copy;
    bool here;
    {
        py::gil_scoped_release nogil;
        std::lock_guard lock(users.mutex());
        const uint32_t slot = users.find(user);
        here = slot != Warm::kNone && !(users.flags(slot) & (Warm::kFresh | Warm::kFetching));
        if (here) {
            const HistoryView found = h.view(slot);
            copy.assign(found.entries, found.entries + found.n);
        }
    }
    if (!here) return py::none();
    return chunk_bytes(copy.data(), std::ssize(copy));
}

}  // namespace

void bind_history(py::module_& m) {
    py::class_<History>(m, "History")
        .def(py::init<Warm&, int64_t>(), py::arg("users"), py::arg("budget_bytes"), py::keep_alive<1, 2>())
        .def(
            "load",
            [](History& h, Warm& users, int64_t user, const py::bytes& payload, bool changed) {
                const std::string_view raw(payload);
                const uint32_t slot = users.find(user);
                require(&users == &h.users() && slot != Warm::kNone, "not a user whose history this is");
                const size_t n = raw.size() / sizeof(HistoryEntry);
                require(n > 0 && raw.size() % sizeof(HistoryEntry) == 0 &&
                            n <= static_cast<size_t>(History::kMost - h.view(slot).n),
                        "not a history chunk");
                std::vector<HistoryEntry> copy(n);
                std::memcpy(copy.data(), raw.data(), raw.size());
                h.load(slot, copy.data(), std::ssize(copy), changed);
            },
            py::arg("users"), py::arg("user"), py::arg("payload"), py::arg("changed"))
        .def(
            "entries", [](History& h, Warm& users, int64_t user) { return entries(users, h, user); }, py::arg("users"),
            py::arg("user"))
        .def(
            "forget",
            [](History& h, const Array<int64_t>& items) {
                const std::vector<int64_t> copy(items.data(), items.data() + items.size());
                py::gil_scoped_release nogil;
                h.forget(copy);
            },
            fixed("items"))
        .def("freeze", &History::freeze)
        .def(
            "collect",
            [](History& h, Warm& users, int64_t from, int64_t n) { return collect_history(users, h, from, n); },
            py::arg("users"), py::arg("start"), py::arg("n"))
        .def(
            "thaw",
            [](History& h, Warm& users, bool committed) {
                require(&users == &h.users(), "not the history of these users");
                h.thaw(users.frozen(), committed);
            },
            py::arg("users"), py::arg("committed"), py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("bytes", &History::bytes);
}
