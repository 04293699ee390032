// The learner for Python. Calls whose work grows with the data release the GIL.
#include <algorithm>
#include <memory>
#include <tuple>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "learn/learner.h"

namespace py = pybind11;

namespace {

Array<int64_t> ids_of(const Warm& table, const std::vector<uint32_t>& slots) {
    Array<int64_t> out(static_cast<py::ssize_t>(slots.size()));
    for (size_t i = 0; i < slots.size(); ++i) out.mutable_data()[i] = table.meta(slots[i]).id;
    return out;
}

}  // namespace

void bind_learner(py::module_& m) {
    m.def(
        "base_score",
        [](int loss, double value_sum, double value_weight) {
            return base_score(checked_loss(loss), value_sum, value_weight);
        },
        py::arg("loss"), py::arg("value_sum"), py::arg("value_weight"),
        "The score of a pair of which nothing is known.");
    py::class_<LearnSettings>(m, "LearnSettings")
        .def(py::init(
                 [](int loss, int optimizer, float lr, float l2, int64_t negatives, int64_t batch_size, uint64_t seed) {
                     const Loss kind = checked_loss(loss);
                     require(batch_size > 0 && (is_pointwise(kind) ? negatives == 0 : negatives > 0),
                             "batch_size must be positive, and negatives for losses that have them");
                     require(batch_size <= 65'536 && negatives <= 65'536, "batch_size or negatives out of range");
                     return LearnSettings{kind, checked_optimizer(optimizer), lr, l2, negatives, batch_size, seed};
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
