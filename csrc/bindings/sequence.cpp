// What users' histories say for their lists, for Python.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "kernels/float_mode.h"
#include "learn/learner.h"

namespace py = pybind11;

namespace {

// What a history says for a list at one moment.
struct SeenContext {
    float alpha;
    Array<int64_t> bag, listed;
    Array<float> bag_weights, worths;
};

SeenContext context(const LearnSettings& s, const py::bytes& history, const Array<float>& weights, uint32_t time,
                    std::optional<uint32_t> mark) {
    const std::string_view raw(history);
    require(raw.size() % sizeof(HistoryEntry) == 0 && weights.size() >= GlobalWeights::kCount, "not a history");
    std::vector<HistoryEntry> entries(raw.size() / sizeof(HistoryEntry));
    std::memcpy(entries.data(), raw.data(), raw.size());
    const auto older = [](const auto& a, const auto& b) { return a.seq < b.seq; };
    const auto newest = std::max_element(entries.begin(), entries.end(), older);
    const HistoryView view{entries.data(), std::ssize(entries), nullptr, entries.empty() ? nullptr : &*newest};
    const float* w = weights.data();
    std::vector<int64_t> bag, listed;
    std::vector<float> bag_weights, worths;
    float alpha;
    {
        py::gil_scoped_release nogil;
        const std::vector<HistoryEntry> none;
        Context c;
        c.look(s.context, view, none, {time, mark ? *mark : view.newest ? view.newest->mark : 0});
        const UserView seen = c.view(c.inside());
        alpha = w[seen.alpha];
        for (size_t rank = 0; rank < seen.bag.size(); ++rank) {
            bag.push_back(seen.bag[rank]->item);
            bag_weights.push_back(w[seen.bag_weight(rank)]);
        }
        std::vector<Feature> features;
        for (const HistoryEntry& e : entries) {
            features.clear();
            c.worth(e, seen, &features);
            if (features.empty()) continue;
            float worth = 0.0f;
            for (const Feature& f : features) worth += w[f.at] * f.x;
            listed.push_back(e.item);
            worths.push_back(worth);
        }
    }
    return {alpha, to_array(bag), to_array(listed), to_array(bag_weights), to_array(worths)};
}

}  // namespace

void bind_sequence(py::module_& m) {
    py::class_<SeenContext>(m, "SeenContext", "What a user's history says for a list at one moment.")
        .def_readonly("alpha", &SeenContext::alpha)
        .def_readonly("bag", &SeenContext::bag)
        .def_readonly("bag_weights", &SeenContext::bag_weights)
        .def_readonly("listed", &SeenContext::listed)
        .def_readonly("worths", &SeenContext::worths);
    m.def("context", &context, py::arg("settings"), py::arg("history"), fixed("weights"), py::arg("time"),
          py::arg("mark"), py::call_guard<DefaultFloats>());
    m.def("first_global_weights", [] { return to_array(GlobalWeights().saved()); });
    m.attr("GLOBAL_WEIGHTS") = static_cast<int>(GlobalWeights::kCount);
}
