// Warm tiers, history and learner for Python. Calls whose work grows with the data release the GIL.
#include <algorithm>
#include <tuple>

#include "arrays.h"
#include "bindings.h"
#include "learner.h"
#include "score_topk.h"
#include "sightings.h"

namespace py = pybind11;

namespace {

Array<uint8_t> row_array(int64_t n, const Warm& w) { return Array<uint8_t>({n, w.layout().stored_bytes}); }

Array<int64_t> ids_of(const Warm& table, const std::vector<uint32_t>& slots) {
    Array<int64_t> out(static_cast<py::ssize_t>(slots.size()));
    for (size_t i = 0; i < slots.size(); ++i) out.mutable_data()[i] = table.meta(slots[i]).id;
    return out;
}

// Slots of a planned window are used without looking again: its rows must stay where they are.
void require_no_window(const Warm& w, const void* learner = nullptr) {
    require(!w.planned_by || w.planned_by == learner, "a window is planned on these rows");
}

void require_frozen(const Warm& w, int64_t from, int64_t n) {
    require(from >= 0 && n >= 0 && n <= std::ssize(w.frozen()) && from <= std::ssize(w.frozen()) - n,
            "not that many frozen rows");
}

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
            const auto [first, n] = h.entries(slot);
            copy.assign(first, first + n);
        }
    }
    if (!here) return py::none();
    return chunk_bytes(copy.data(), std::ssize(copy));
}

RecordView view(const Array<int64_t>& users, const Array<int64_t>& items, const MaybeArray<float>& values,
                const MaybeArray<float>& weights, uint64_t first_seq) {
    const int64_t n = users.size();
    require(items.size() == n && (!values || values->size() == n) && (!weights || weights->size() == n),
            "columns must be [N]");
    return {users.data(), items.data(), data_or_null(values), data_or_null(weights), n, first_seq};
}

Optimizer optimizer_of(int optimizer) {
    require(optimizer >= 0 && optimizer < kOptimizers, "no such optimizer");
    return static_cast<Optimizer>(optimizer);
}

}  // namespace

void bind_tables(py::module_& m) {
    const auto fixed = [](const char* name) { return py::arg(name).noconvert(); };

    m.def(
        "stored_bytes",
        [](int64_t dim, int optimizer) { return RowLayout(checked_dim(dim), optimizer_of(optimizer)).stored_bytes; },
        py::arg("dim"), py::arg("optimizer"), "Bytes of one row in LMDB.");
    m.def(
        "row_bytes",
        [](int64_t dim, int optimizer) {
            return RowLayout(checked_dim(dim), optimizer_of(optimizer)).stride + Warm::kOverheadBytes;
        },
        py::arg("dim"), py::arg("optimizer"), "RAM of one warm row, with its share of the index and the bookkeeping.");
    m.def(
        "base_score",
        [](int loss, double value_sum, double value_weight) {
            require(loss >= 0 && loss < kLosses, "no such loss");
            return base_score(static_cast<Loss>(loss), value_sum, value_weight);
        },
        py::arg("loss"), py::arg("value_sum"), py::arg("value_weight"),
        "The score of a pair of which nothing is known.");
    py::class_<Warm>(m, "Warm")
        .def(py::init([](int64_t dim, int optimizer, int64_t capacity, bool ordinals) {
                 require(capacity > 0 && capacity < Warm::kNone, "capacity out of range");
                 return std::make_unique<Warm>(checked_dim(dim), optimizer_of(optimizer), capacity, ordinals);
             }),
             py::arg("dim"), py::arg("optimizer"), py::arg("capacity"), py::arg("ordinals"))
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
        .def(
            "name",
            [](Warm& w, const Array<int64_t>& ids, const Array<int64_t>& seqs) {
                require(ids.size() == seqs.size(), "ids and seqs must be [N]");
                py::gil_scoped_release nogil;
                for (int64_t i = 0; i < ids.size(); ++i) {
                    const uint32_t slot = w.find(ids.data()[i]);
                    require(slot != Warm::kNone, "a row that is not here");
                    w.name(slot, static_cast<uint64_t>(seqs.data()[i]));
                }
            },
            fixed("ids"), fixed("seqs"), "The rows, which are here, were named by events.")
        .def("unpin",
             [](Warm& w) {
                 require_no_window(w);
                 w.unpin_all();
             })
        .def_property_readonly("stored_bytes", [](const Warm& w) { return w.layout().stored_bytes; })
        .def_property_readonly("seq_offset", [](const Warm& w) { return w.layout().meta_offset; })
        .def_property_readonly("row_bytes", [](const Warm& w) { return w.layout().stride; })
        .def_property_readonly("kept_bytes",
                               py::cpp_function(&Warm::kept_bytes, py::call_guard<py::gil_scoped_release>()))
        .def_property_readonly("bytes", &Warm::bytes)
        .def_property_readonly("dirty", &Warm::dirty)
        .def_property_readonly("capacity", &Warm::capacity)
        .def_property_readonly("evicted", &Warm::evicted)
        .def_property_readonly("crowded", &Warm::crowded)
        .def("__len__", &Warm::size)
        .def_property_readonly("total", [](const Warm& w) { return w.total.load(); });

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

    py::class_<History>(m, "History")
        .def(py::init<Warm&, int64_t>(), py::arg("users"), py::arg("budget_bytes"), py::keep_alive<1, 2>())
        .def(
            "load",
            [](History& h, Warm& users, int64_t user, const py::bytes& payload) {
                const std::string_view raw(payload);
                const uint32_t slot = users.find(user);
                require(&users == &h.users() && slot != Warm::kNone, "not a user whose history this is");
                const size_t n = raw.size() / sizeof(HistoryEntry);
                require(n > 0 && raw.size() % sizeof(HistoryEntry) == 0 &&
                            n <= static_cast<size_t>(History::kMost - h.entries(slot).second),
                        "not a history chunk");
                std::vector<HistoryEntry> copy(n);
                std::memcpy(copy.data(), raw.data(), raw.size());
                h.load(slot, copy.data(), std::ssize(copy));
            },
            py::arg("users"), py::arg("user"), py::arg("payload"))
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

    py::class_<LearnSettings>(m, "LearnSettings")
        .def(py::init(
                 [](int loss, int optimizer, float lr, float l2, int64_t negatives, int64_t batch_size, uint64_t seed) {
                     require(loss >= 0 && loss < kLosses, "no such loss");
                     const auto kind = static_cast<Loss>(loss);
                     require(batch_size > 0 && (is_pointwise(kind) ? negatives == 0 : negatives > 0),
                             "batch_size must be positive, and negatives for losses that have them");
                     require(batch_size <= 65'536 && negatives <= 65'536, "batch_size or negatives out of range");
                     return LearnSettings{kind, optimizer_of(optimizer), lr, l2, negatives, batch_size, seed};
                 }),
             py::arg("loss"), py::arg("optimizer"), py::arg("lr"), py::arg("l2"), py::arg("negatives"),
             py::arg("batch_size"), py::arg("seed"))
        .def_property_readonly("users_needed", &Learner::users_needed)
        .def_property_readonly("items_needed", &Learner::items_needed);

    py::class_<Learner>(m, "Learner")
        .def(py::init([](Warm& users, Warm& items, Catalogue& catalogue, History& history) {
                 require(items.ordinals() && &users != &items && &users == &history.users() &&
                             users.layout().dim == catalogue.dim() && items.layout().dim == catalogue.dim() &&
                             users.layout().meta_offset == items.layout().meta_offset,
                         "tables that do not belong together");
                 return std::make_unique<Learner>(users, items, catalogue, history);
             }),
             py::arg("users"), py::arg("items"), py::arg("catalogue"), py::arg("history"), py::keep_alive<1, 2>(),
             py::keep_alive<1, 3>(), py::keep_alive<1, 4>(), py::keep_alive<1, 5>())
        .def(
            "plan",
            [](Learner& l, const LearnSettings& s, const Array<int64_t>& users, const Array<int64_t>& items,
               const MaybeArray<float>& weights, uint64_t first_seq, int64_t from) {
                require(from >= 0 && from < users.size(), "start must be an event");
                require(l.fits(s.optimizer), "rows of another optimizer");
                require_no_window(l.users(), &l);
                require_no_window(l.items(), &l);
                const RecordView r = view(users, items, {}, weights, first_seq);
                py::gil_scoped_release nogil;
                return static_cast<int>(l.plan(s, r, from));
            },
            py::arg("settings"), fixed("users"), fixed("items"), fixed("weights").none(true), py::arg("first_seq"),
            py::arg("start"), "0: ready; 1: missing rows must be delivered; 2: an epoch must end first.")
        .def_property_readonly("missing_users", [](const Learner& l) { return ids_of(l.users(), l.missing_users); })
        .def_property_readonly("missing_items", [](const Learner& l) { return ids_of(l.items(), l.missing_items); })
        .def(
            "removed",
            [](Learner& l, int64_t users, int64_t items) {
                require(users >= 0 && users <= l.learned_users && items >= 0 && items <= l.learned_items,
                        "more rows than there are");
                require_no_window(l.users());
                l.removed(users, items);
            },
            py::arg("users"), py::arg("items"))
        .def("delivered", &Learner::delivered, "What was missing has come. Users that did not are new; items: False.")
        .def(
            "learn",
            [](Learner& l, const LearnSettings& s, const Array<int64_t>& users, const Array<int64_t>& items,
               const MaybeArray<float>& values, const MaybeArray<float>& weights, uint64_t first_seq) {
                require(is_pointwise(s.loss) == values.has_value(), "values are for logistic and squared");
                const RecordView r = view(users, items, values, weights, first_seq);
                require(l.planned(s, r) && l.known_items.empty(), "not what was planned");
                Learned out;
                {
                    py::gil_scoped_release nogil;
                    out = l.learn(s, r);
                }
                return py::make_tuple(out.events, out.loss, out.new_users, out.new_items, out.skipped, out.warm,
                                      out.cold);
            },
            py::arg("settings"), fixed("users"), fixed("items"), fixed("values").none(true),
            fixed("weights").none(true), py::arg("first_seq"))
        .def_property(
            "value_sums",
            [](const Learner& l) {
                std::lock_guard lock(l.users().mutex());
                return std::pair(l.value_sum, l.value_weight);
            },
            [](Learner& l, std::pair<double, double> sums) { std::tie(l.value_sum, l.value_weight) = sums; })
        .def_property(
            "mean",
            [](const Learner& l) {
                std::vector<float> mean;
                {
                    py::gil_scoped_release nogil;
                    std::lock_guard lock(l.users().mutex());
                    mean = l.mean;
                }
                return to_array(mean);
            },
            [](Learner& l, const Array<float>& mean) {
                require(mean.size() == std::ssize(l.mean), "mean must be [dim]");
                py::gil_scoped_release nogil;
                std::lock_guard lock(l.users().mutex());
                std::copy(mean.data(), mean.data() + mean.size(), l.mean.begin());
            })
        .def(
            "restore_totals",
            [](Learner& l, int64_t users, int64_t items) {
                l.users().total = l.learned_users = users;
                l.items().total = l.learned_items = items;
            },
            py::arg("users"), py::arg("items"))
        .def_readonly("learned_users", &Learner::learned_users)
        .def_readonly("learned_items", &Learner::learned_items)
        .def_readwrite("mean_count", &Learner::mean_count);
}
