// The learner for Python. Calls whose work grows with the data release the GIL.
#include <algorithm>
#include <memory>
#include <tuple>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "kernels/float_mode.h"
#include "learn/learner.h"

namespace py = pybind11;

namespace {

Array<int64_t> ids_of(const Warm& table, const std::vector<uint32_t>& slots) {
    Array<int64_t> out(static_cast<py::ssize_t>(slots.size()));
    for (size_t i = 0; i < slots.size(); ++i) out.mutable_data()[i] = table.meta(slots[i]).id;
    return out;
}

// A rule in Python: slow, for it takes the GIL for every event, and enough to try one out.
class PyRowRule : public RowRule {
  public:
    void make(float* row, int64_t floats, int64_t id) const override {
        py::gil_scoped_acquire gil;
        call("make", row, floats, id);
    }
    void learn(float* row, int64_t floats, const Event& event) const override {
        py::gil_scoped_acquire gil;
        call("learn", row, floats, event);
    }

  private:
    template <class What>
    void call(const char* name, float* row, int64_t floats, const What& what) const {
        const py::function method = py::get_override(static_cast<const RowRule*>(this), name);
        require(static_cast<bool>(method), "a rule without make or learn");
        method(py::array_t<float>(floats, row, py::none()), what);  // None owns it: a view, not a copy
    }
};

void bind_rules(py::module_& m) {
    py::class_<Event>(m, "Event", "One event, as the rule of a row sees it.")
        .def_readonly("user", &Event::user)
        .def_readonly("item", &Event::item)
        .def_readonly("value", &Event::value)
        .def_readonly("weight", &Event::weight)
        .def_readonly("seq", &Event::seq);
    py::class_<RowRule, PyRowRule>(m, "RowRule").def(py::init<>());
}

void bind_events(py::module_& m) {
    py::class_<EventColumns>(m, "EventColumns", "Columns of consecutive events; event i has seq first_seq + i.")
        .def(py::init([](const Array<int64_t>& users, const Array<int64_t>& items, const MaybeArray<float>& values,
                         const MaybeArray<float>& weights, uint64_t first_seq, const MaybeArray<uint32_t>& times,
                         const MaybeArray<uint32_t>& marks) {
                 const int64_t n = users.size();
                 const auto fits = [n](const auto& column) { return !column || column->size() == n; };
                 require(items.size() == n && fits(values) && fits(weights) && fits(times) && fits(marks),
                         "columns must be [N]");
                 return EventColumns{users, items, values, weights, first_seq, times, marks};
             }),
             fixed("users"), fixed("items"), fixed("values").none(true), fixed("weights").none(true),
             py::arg("first_seq"), fixed("times").none(true) = py::none(), fixed("marks").none(true) = py::none())
        .def_readonly("users", &EventColumns::users)
        .def_readonly("items", &EventColumns::items)
        .def_readonly("values", &EventColumns::values)
        .def_readonly("weights", &EventColumns::weights)
        .def_readonly("first_seq", &EventColumns::first_seq)
        .def("__len__", [](const EventColumns& e) { return e.users.size(); });
    py::class_<Learned>(m, "Learned", "What a window came to; `loss` is a sum over its events.")
        .def_readonly("events", &Learned::events)
        .def_readonly("loss", &Learned::loss)
        .def_readonly("new_users", &Learned::new_users)
        .def_readonly("new_items", &Learned::new_items)
        .def_readonly("skipped", &Learned::skipped)
        .def_readonly("warm", &Learned::warm)
        .def_readonly("cold", &Learned::cold);
}

Learner::Plan plan(Learner& l, const LearnSettings& s, const EventColumns& e, int64_t from) {
    const RecordView r = e.view();
    require(from >= 0 && from < r.n, "start must be an event");
    require(l.fits(s), "rows of another optimizer, or of other neighbours");
    require_no_window(l.users(), &l);
    require_no_window(l.items(), &l);
    for (const Companion& c : l.companions()) require_no_window(*c.table, &l);
    py::gil_scoped_release nogil;
    return l.plan(s, r, from);
}

Learned learn(Learner& l, const LearnSettings& s, const EventColumns& e) {
    e.require_for(s);
    const RecordView r = e.view();
    require(l.planned(s, r) && l.known_items.empty(), "not what was planned");
    py::gil_scoped_release nogil;
    return l.learn(s, r);
}

// Are these the rows of some optimizer with vectors of `dim` floats, and nothing behind them?
bool has_vectors(const Warm& table, int64_t dim) {
    const int64_t floats = table.layout().floats;
    for (int code = 0; code < kOptimizers; ++code)
        if (floats == row_floats(static_cast<Optimizer>(code), dim)) return true;
    return false;
}

std::vector<Array<int64_t>> wanted(const Learner& l) {
    std::vector<Array<int64_t>> out{ids_of(l.users(), l.missing_users), ids_of(l.items(), l.missing_items)};
    for (const Companion& c : l.companions()) out.push_back(ids_of(*c.table, c.missing));
    return out;
}

void accompany(Learner& l, Warm& table, KeyedBy keyed_by, const RowRule& rule) {
    bool fresh = &table != &l.users() && &table != &l.items() && !table.ordinals();
    for (const Companion& c : l.companions()) fresh = fresh && c.table != &table;
    require(fresh, "a table that the learner has, or one of ranked items");
    require_no_window(l.users());
    l.accompany(table, keyed_by, rule);
}

Array<float> mean_of(const Learner& l) {
    std::vector<float> mean;
    {
        py::gil_scoped_release nogil;
        std::lock_guard lock(l.users().mutex());
        mean = l.mean;
    }
    return to_array(mean);
}

void set_mean(Learner& l, const Array<float>& mean) {
    require(mean.size() == std::ssize(l.mean), "mean must be [dim]");
    py::gil_scoped_release nogil;
    std::lock_guard lock(l.users().mutex());
    std::copy(mean.data(), mean.data() + mean.size(), l.mean.begin());
}

void bind_settings(py::module_& m) {
    py::class_<LearnSettings>(m, "LearnSettings")
        .def(py::init([](int loss, int optimizer, float lr, float l2, int64_t negatives, int64_t batch_size,
                         uint64_t seed, int64_t bag, bool repeats, float session_gap, int64_t recent_negatives,
                         int64_t own_negatives, int64_t neighbours, int64_t gate_events) {
                 const Loss kind = checked_loss(loss);
                 require(bag >= 0 && bag <= GlobalWeights::kMostBag && recent_negatives >= 0 && own_negatives >= 0 &&
                             recent_negatives <= 65'536 && own_negatives <= 65'536 && neighbours >= 0 &&
                             neighbours <= Neighbours::kMost && gate_events >= 0,
                         "bag, recent_negatives, own_negatives, neighbours or gate_events out of range");
                 require(batch_size > 0 && (is_pointwise(kind) ? negatives == 0 : negatives > 0),
                         "batch_size must be positive, and negatives for losses that have them");
                 require(batch_size <= 65'536 && negatives <= 65'536, "batch_size or negatives out of range");
                 const LearnSettings made{kind,
                                          checked_optimizer(optimizer),
                                          lr,
                                          l2,
                                          negatives,
                                          batch_size,
                                          seed,
                                          {bag, repeats, session_gap, neighbours},
                                          recent_negatives,
                                          own_negatives,
                                          gate_events};
                 require(kind == Loss::softmax || !made.sequence(), "sequence models are softmax's");
                 return made;
             }),
             py::arg("loss"), py::arg("optimizer"), py::arg("lr"), py::arg("l2"), py::arg("negatives"),
             py::arg("batch_size"), py::arg("seed"), py::arg("bag") = 0, py::arg("repeats") = false,
             py::arg("session_gap") = 60.0f, py::arg("recent_negatives") = 0, py::arg("own_negatives") = 0,
             py::arg("neighbours") = 0, py::arg("gate_events") = 0)
        .def_property_readonly("sequence", &LearnSettings::sequence)
        .def_property_readonly("users_needed", &Learner::users_needed)
        .def_property_readonly("items_needed", &Learner::items_needed);
}

// What the sequence model keeps beside rows.
void bind_shared(py::class_<Learner>& learner) {
    learner
        .def_property(
            "global_weights",
            [](const Learner& l) {
                std::vector<float> all;
                {
                    py::gil_scoped_release nogil;
                    std::lock_guard lock(l.users().mutex());
                    all = l.global.saved();
                }
                return to_array(all);
            },
            [](Learner& l, const Array<float>& all) {
                require(all.size() == 4 * GlobalWeights::kCount, "global weights must be [4 * count]");
                std::lock_guard lock(l.users().mutex());
                l.global.restore(all.data());
            })
        .def_property(
            "clock",
            [](const Learner& l) {
                py::gil_scoped_release nogil;
                std::lock_guard lock(l.users().mutex());
                return l.clock;
            },
            [](Learner& l, std::vector<uint32_t> clock) {
                require(clock.size() <= Learner::kMostClock, "clock too long");
                l.clock = std::move(clock);
            },
            "Seconds of the latest events that had a time, and one more.")
        .def_property_readonly("recent", [](const Learner& l) { return to_array(l.recent.ring()); })
        .def_property_readonly("recent_events", [](const Learner& l) { return l.recent.events(); })
        .def(
            "restore_recent",
            [](Learner& l, const Array<uint32_t>& ring, uint64_t events, uint64_t items) {
                require(ring.size() <= static_cast<py::ssize_t>(RecentItems::kMost) &&
                            events >= static_cast<uint64_t>(ring.size()),
                        "recent items out of range");
                std::vector<uint32_t> copy(ring.data(), ring.data() + ring.size());
                for (uint32_t o : copy) require(o == RecentItems::kGone || o < items, "an ordinal out of range");
                l.recent.restore(std::move(copy), events);
            },
            fixed("ring"), py::arg("events"), py::arg("items"));
}

}  // namespace

void bind_learner(py::module_& m) {
    m.def(
        "base_score",
        [](int loss, double value_sum, double value_weight) {
            return base_score(checked_loss(loss), value_sum, value_weight);
        },
        py::arg("loss"), py::arg("value_sum"), py::arg("value_weight"), py::call_guard<DefaultFloats>(),
        "The score of a pair of which nothing is known.");
    bind_rules(m);
    bind_events(m);
    bind_settings(m);
    py::enum_<KeyedBy>(m, "KeyedBy", "By what an event finds its row of a table beside users and items.")
        .value("user", KeyedBy::user)
        .value("item", KeyedBy::item)
        .value("one", KeyedBy::one);
    py::enum_<Learner::Plan>(m, "Plan", "fetch: deliver what is missing. blocked: end an epoch. Then plan again.")
        .value("ready", Learner::Plan::ready)
        .value("fetch", Learner::Plan::fetch)
        .value("blocked", Learner::Plan::blocked);
    py::class_<Learner> learner(m, "Learner");
    bind_shared(learner);
    learner
        .def(py::init([](Warm& users, Warm& items, Catalogue& catalogue, History& history) {
                 require(items.ordinals() && &users != &items && &users == &history.users() &&
                             Neighbours::most_of(items.layout().floats - users.layout().floats) >= 0 &&
                             has_vectors(users, catalogue.dim()),
                         "tables that do not belong together");
                 return std::make_unique<Learner>(users, items, catalogue, history);
             }),
             py::arg("users"), py::arg("items"), py::arg("catalogue"), py::arg("history"), py::keep_alive<1, 2>(),
             py::keep_alive<1, 3>(), py::keep_alive<1, 4>(), py::keep_alive<1, 5>())
        .def("accompany", &accompany, py::arg("table"), py::arg("keyed_by"), py::arg("rule"), py::keep_alive<1, 2>(),
             py::keep_alive<1, 4>(), "Every event touches one row of this table, too.")
        .def("plan", &plan, py::arg("settings"), py::arg("events"), py::arg("start"), py::call_guard<DefaultFloats>())
        .def_property_readonly("wanted", &wanted,
                               "Ids to be delivered, by table: users, items, then the others as they were added.")
        .def("rows_removed", &Learner::rows_removed, "Rows left the tables, which know it.")
        .def("delivered", &Learner::delivered, "What was missing has come. Rows that did not are new; items: False.")
        .def("learn", &learn, py::arg("settings"), py::arg("events"), py::call_guard<DefaultFloats>())
        .def_property(
            "value_sums",
            [](const Learner& l) {
                std::lock_guard lock(l.users().mutex());
                return std::pair(l.value_sum, l.value_weight);
            },
            [](Learner& l, std::pair<double, double> sums) { std::tie(l.value_sum, l.value_weight) = sums; })
        .def_property("mean", &mean_of, &set_mean)
        .def_readwrite("mean_count", &Learner::mean_count);
}
