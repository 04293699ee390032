// The slot index of the hot tier for Python, and the windows that a device learns. Calls whose work grows with the data
// release the GIL. Rows are float32 [n, width] as the device has them, in host memory.
#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "kernels/float_mode.h"
#include "learn/learner.h"
#include "memory/turn.h"
#include "table/hot.h"

namespace py = pybind11;

namespace {

int64_t checked_width(const Hot& h, const Hot::Copy& rows, const Array<float>& floats) {
    require(floats.ndim() == 2 && floats.shape(0) == rows.size() && floats.shape(1) >= h.floats(),
            "rows must be [n, width]");
    return floats.shape(1);
}

void require_tiers(const Learner& l, const LearnSettings& s, const EventColumns& e, const Hot& users,
                   const Hot& items) {
    e.require_for(s);
    require(&users.warm() == &l.users() && &items.warm() == &l.items(), "tiers of other tables");
    require(l.planned(s, e.view()), "not what was planned");
}

// Where the events of the planned window find their rows on the device.
struct WindowPlaces {
    Array<int64_t> users, items, negatives;
    Array<uint8_t> fresh;
    Array<float> offsets;
};

WindowPlaces window_places(Learner& l, const LearnSettings& s, const EventColumns& e, const Hot& users,
                           const Hot& items) {
    require_tiers(l, s, e, users, items);
    const int64_t n = l.window_events();
    WindowPlaces out{Array<int64_t>(n), Array<int64_t>(n), Array<int64_t>(l.negative_refs()), Array<uint8_t>(n),
                     Array<float>(n)};
    const Learner::DeviceRefs refs{out.users.mutable_data(), out.items.mutable_data(), out.negatives.mutable_data(),
                                   out.fresh.mutable_data(), out.offsets.mutable_data()};
    const RecordView r = e.view();
    py::gil_scoped_release nogil;
    l.device_refs(s, r, users, items, refs);
    return out;
}

Learned device_marked(Learner& l, const LearnSettings& s, const EventColumns& e, Hot& users, Hot& items) {
    require_tiers(l, s, e, users, items);
    const RecordView r = e.view();
    py::gil_scoped_release nogil;
    return l.device_marked(s, r, users, items);
}

}  // namespace

namespace {

void bind_copies(py::class_<Hot>& hot) {
    py::class_<Hot::Copy>(hot, "Copy")
        .def_property_readonly("places", [](const Hot::Copy& c) { return to_array(c.places); })
        .def(
            "parts",
            [](const Hot::Copy& c, int64_t most) {
                require(most > 0, "parts must not be empty");
                std::vector<Hot::Copy> parts;
                for (int64_t from = 0; from < c.size(); from += most) {
                    const int64_t to = std::min(c.size(), from + most);
                    parts.push_back({{c.slots.begin() + from, c.slots.begin() + to},
                                     {c.places.begin() + from, c.places.begin() + to}});
                }
                return parts;
            },
            py::arg("most"))
        .def("__len__", &Hot::Copy::size);
    py::class_<Hot::Changed>(hot, "Changed")
        .def_property_readonly("ids", [](const Hot::Changed& c) { return to_array(c.ids); })
        .def_property_readonly("ordinals", [](const Hot::Changed& c) { return to_array(c.ordinals); })
        .def_property_readonly("places", [](const Hot::Changed& c) { return to_array(c.places); })
        .def("__len__", [](const Hot::Changed& c) { return c.ids.size(); });
}

void bind_tier(py::class_<Hot>& hot) {
    hot.def(py::init([](Warm& warm, int64_t capacity, bool shown) {
                require(capacity > 0, "capacity out of range");
                return std::make_unique<Hot>(warm, capacity, shown);
            }),
            py::arg("warm"), py::arg("capacity"), py::arg("shown"), py::keep_alive<1, 2>())
        .def(
            "place",
            [](Hot& h) -> std::optional<std::pair<Hot::Copy, Hot::Copy>> {
                py::gil_scoped_release nogil;
                if (!h.place()) return std::nullopt;
                return std::pair(h.loads, h.victims);
            },
            "Places for the pinned rows: (to be loaded, to be copied back first), or None where places are too few.")
        .def("rows_ahead", [](Hot& h) { return h.rows_ahead(); })
        .def(
            "rows_ahead", [](const Hot& h, const Array<int64_t>& ids) { return h.rows_ahead(ids.data(), ids.size()); },
            fixed("ids"))
        .def("pinned", &Hot::pinned)
        .def(
            "touched",
            [](Hot& h, const Array<int64_t>& places) {
                py::gil_scoped_release nogil;
                h.touched(places.data(), places.size());
            },
            fixed("places"), "The rows there were learned, too: they are ahead of RAM, and dirty.")
        .def(
            "ordinals", [](const Hot& h, const Hot::Copy& rows) { return to_array(h.ordinals(rows)); }, py::arg("rows"))
        .def("learned", &Hot::learned, "The pinned rows are ahead of RAM now.")
        .def("changed", &Hot::changed, py::arg("only_left"), "Rows learned since they were last shown.")
        .def("shown", &Hot::shown, py::arg("only_left"), "What `changed` gave has been shown.")
        .def(
            "gather",
            [](const Hot& h, const Hot::Copy& rows, Array<float> out) {
                const int64_t width = checked_width(h, rows, out);
                float* to = out.mutable_data();
                py::gil_scoped_release nogil;
                h.gather(rows, width, to);
            },
            py::arg("rows"), fixed("out"))
        .def(
            "scatter",
            [](Hot& h, const Hot::Copy& rows, const Array<float>& floats, Catalogue* catalogue) {
                const int64_t width = checked_width(h, rows, floats);
                py::gil_scoped_release nogil;
                h.scatter(rows, width, floats.data(), catalogue);
            },
            py::arg("rows"), fixed("floats"), py::arg("catalogue").none(true))
        .def_property_readonly("floats", &Hot::floats)
        .def_property_readonly("capacity", &Hot::capacity)
        .def_property_readonly("reached", &Hot::reached, "Places that were ever used.")
        .def_property_readonly("ahead", &Hot::ahead)
        .def_property_readonly("evicted", &Hot::evicted)
        .def("__len__", &Hot::size);
}

void bind_windows(py::module_& m) {
    m.def(
        "fill_fresh", [](Learner& l, const LearnSettings& s) { l.fill_fresh(s); }, py::arg("learner"),
        py::arg("settings"), py::call_guard<py::gil_scoped_release, DefaultFloats>());
    py::class_<WindowPlaces>(m, "WindowPlaces", "Places by event; negatives: -1 for none; fresh: 1 at a new user.")
        .def_readonly("users", &WindowPlaces::users)
        .def_readonly("items", &WindowPlaces::items)
        .def_readonly("negatives", &WindowPlaces::negatives)
        .def_readonly("fresh", &WindowPlaces::fresh)
        .def_readonly("offsets", &WindowPlaces::offsets);
    m.def("window_places", &window_places, py::arg("learner"), py::arg("settings"), py::arg("events"), py::arg("users"),
          py::arg("items"), py::call_guard<DefaultFloats>());
    m.def("device_marked", &device_marked, py::arg("learner"), py::arg("settings"), py::arg("events"), py::arg("users"),
          py::arg("items"), py::call_guard<DefaultFloats>());
    m.def(
        "draw_on_device",
        [](Learner& l, const Hot* items) {
            require(!items || &items->warm() == &l.items(), "a tier of another table");
            l.draws_on = items;
        },
        py::arg("learner"), py::arg("items").none(true), py::keep_alive<1, 2>(),
        "Negatives may be drawn on the device of this tier; None: they may not.");
    m.def(
        "may_draw", [](const Learner& l, const LearnSettings& s, int64_t events) { return l.may_draw(s, events); },
        py::arg("learner"), py::arg("settings"), py::arg("events"));
    m.def(
        "known_items", [](const Learner& l) { return to_array(l.known_items); }, py::arg("learner"),
        "Of the planned window: items before each step, where its negatives are to be drawn; else none.");
    m.def(
        "limit_windows", [](Learner& l, int64_t users, int64_t items) { l.user_room = users, l.item_room = items; },
        py::arg("learner"), py::arg("users"), py::arg("items"), "Rows that a window may need at most, per table.");
}

}  // namespace

void bind_hot(py::module_& m) {
    // Functions of C++: a signal's handler, an interrupt, cannot come between taking the turn and what gives it back.
    py::class_<Turn>(m, "Turn")
        .def(py::init<>())
        .def("__enter__", &Turn::enter, py::call_guard<py::gil_scoped_release>())
        .def("__exit__", [](Turn& t, const py::args&) { require(t.leave(), "it is not this thread's turn"); })
        .def_property_readonly("wanted", &Turn::wanted, "How many have it or wait for it.");

    py::class_<Hot> hot(m, "Hot");
    bind_copies(hot);
    bind_tier(hot);
    bind_windows(m);
}
