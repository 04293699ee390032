// What users' histories say for their lists, and neighbours in the rows of items, for Python.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "kernels/float_mode.h"
#include "learn/learner.h"

namespace py = pybind11;

namespace {

int64_t checked_neighbours(int64_t most) {
    require(most >= 0 && most <= Neighbours::kMost, "neighbours out of range");
    return most;
}

// A row's neighbours, out of a copy of it as LMDB has it.
class StoredNeighbours {
  public:
    StoredNeighbours(int64_t at, int64_t most)
        : at_(at), most_(checked_neighbours(most)), floats_(static_cast<size_t>(Neighbours::floats(most))) {
        require(at >= 0 && at <= 4 * 65'536, "neighbours begin at a float of the row");
    }
    int64_t row_bytes() const { return (at_ + std::ssize(floats_)) * 4; }
    Neighbours of(const std::byte* row) {
        std::memcpy(floats_.data(), row + at_ * 4, floats_.size() * 4);
        return {floats_.data(), most_};
    }

  private:
    int64_t at_, most_;
    std::vector<float> floats_;
};

// What the histories of some users say, of each at its moment: first which items' rows are asked for, then, with them,
// what to rank by.
class Looks {
  public:
    // `more`: items that each user has had besides, by now, in CSR form.
    Looks(const LearnSettings& s, Array<float> weights, const std::vector<py::bytes>& histories,
          const MaybeArray<int64_t>& more, const MaybeArray<int64_t>& offsets, const Array<uint32_t>& times,
          const MaybeArray<uint32_t>& marks)
        : settings_(s), weights_(std::move(weights)) {
        require(weights_.size() >= GlobalWeights::kCount, "global weights must be [count or more]");
        std::vector<std::string_view> raw(histories.begin(), histories.end());
        for (const std::string_view& r : raw) require(r.size() % sizeof(HistoryEntry) == 0, "not a history");
        require(more.has_value() == offsets.has_value(), "more items need offsets");
        require_offsets(more, offsets, std::ssize(raw));
        require(times.size() == std::ssize(raw) && (!marks || marks->size() == std::ssize(raw)), "moments must be [n]");
        py::gil_scoped_release nogil;
        users_.resize(raw.size());
        for (size_t i = 0; i < raw.size(); ++i) {
            User& u = users_[i];
            u.entries.resize(raw[i].size() / sizeof(HistoryEntry));
            if (!u.entries.empty()) std::memcpy(u.entries.data(), raw[i].data(), raw[i].size());
            const auto older = [](const auto& a, const auto& b) { return a.seq < b.seq; };
            auto newest = std::max_element(u.entries.begin(), u.entries.end(), older) - u.entries.begin();
            const uint32_t last = u.entries.empty() ? 0 : u.entries[static_cast<size_t>(newest)].mark;
            const Moment now{times.data()[i], marks ? marks->data()[i] : last};
            for (int64_t k = offsets ? offsets->data()[i] : 0; k < (offsets ? offsets->data()[i + 1] : 0); ++k)
                newest = add(&u.entries, newest, more->data()[k], now);
            const HistoryView view{u.entries.data(), std::ssize(u.entries), nullptr,
                                   u.entries.empty() ? nullptr : &u.entries[static_cast<size_t>(newest)]};
            u.context.look(s.context, view, none_, now);
            u.sources = u.context.sources();
            sources_.insert(sources_.end(), u.sources.begin(), u.sources.end());
        }
    }

    Array<int64_t> sources() const { return to_array(sources_); }

    // Makes queries of the users' vectors [n, dim], in place. `found` [sources] and `rows`: what there is of them,
    // whose neighbours begin at float `at`. Returns what is to be added to scores: ordinals, rising, offsets [n + 1],
    // values.
    py::tuple finish(const Catalogue& c, Array<float> vectors, const Array<bool>& found, const Array<uint8_t>& rows,
                     int64_t at) const {
        const int64_t n = std::ssize(users_), D = c.dim();
        require(vectors.ndim() == 2 && vectors.shape(0) == n && vectors.shape(1) == D, "vectors must be [n, dim]");
        StoredNeighbours stored = neighbours_in(found, rows, at);
        float* vector = vectors.mutable_data();
        std::vector<int64_t> ordinals, offsets{0};
        std::vector<float> values;
        {
            py::gil_scoped_release nogil;
            Near near;
            int64_t row = 0;
            for (const User& u : users_) {
                near.clear();
                for (size_t i = 0; i < u.sources.size(); ++i, ++row)
                    if (found.data()[row]) near.add(stored.of(bytes_of(rows) + row * rows.shape(1)));
                near.finish();
                const UserView seen = u.context.view(u.context.inside());
                add_bag(c, seen, vector);
                vector += D;
                add_worths(c, u, seen, near, &ordinals, &values);
                offsets.push_back(std::ssize(ordinals));
            }
        }
        return py::make_tuple(to_array(ordinals), to_array(offsets), to_array(values));
    }

    // What the score of one item is made of, for the only user: the weight of the user's vector; the items of the bag
    // and their weights; the worth of having had the item; the sources and what each adds as near to it. Rows as above.
    py::tuple parts(int64_t item, const Array<bool>& found, const Array<uint8_t>& rows, int64_t at) const {
        require(users_.size() == 1, "of one user alone");
        StoredNeighbours stored = neighbours_in(found, rows, at);
        const User& u = users_[0];
        const UserView seen = u.context.view(u.context.inside());
        const auto sum = [this](const std::vector<Feature>& features) {
            float worth = 0.0f;
            for (const Feature& f : features) worth += weights_.data()[f.at] * f.x;
            return worth;
        };
        std::vector<int64_t> bag;
        std::vector<float> weights, shares, near_parts;
        for (size_t rank = 0; rank < seen.bag.size(); ++rank) {
            bag.push_back(seen.bag[rank]->item);
            weights.push_back(weights_.data()[seen.bag_weight(rank)]);
        }
        std::vector<Feature> had, near;
        if (const HistoryEntry* e = u.context.had(item)) u.context.worth(*e, seen, &had);
        Near all;
        float before = 0.0f;  // the share of the sources so far
        for (size_t i = 0; i < u.sources.size(); ++i) {
            if (found.data()[i]) all.add(stored.of(bytes_of(rows) + static_cast<int64_t>(i) * rows.shape(1)));
            shares.push_back(all.share(item) - before);
            before = all.share(item);
        }
        all.finish();
        if (seen.inside) Context::worth_near(all.share(item), &near);
        for (float share : shares) near_parts.push_back(before > 0 ? sum(near) * share / before : 0.0f);
        return py::make_tuple(weights_.data()[seen.alpha], to_array(bag), to_array(weights), sum(had),
                              to_array(u.sources), to_array(near_parts));
    }

  private:
    struct User {
        std::vector<HistoryEntry> entries;
        Context context;  // of these entries, which stay where they are
        std::vector<int64_t> sources;
    };

    // One more event after the newest entry; returns where the newest is then.
    ptrdiff_t add(std::vector<HistoryEntry>* entries, ptrdiff_t newest, int64_t item, Moment now) const {
        const HistoryEntry* last = entries->empty() ? nullptr : &(*entries)[static_cast<size_t>(newest)];
        const auto had = std::find_if(entries->begin(), entries->end(), [&](const auto& e) { return e.item == item; });
        const HistoryEntry e = History::entry_of(last, had == entries->end() ? nullptr : &*had, item,
                                                 last ? last->seq + 1 : 1, now, settings_.context.session_gap);
        const ptrdiff_t at = had - entries->begin();
        if (had == entries->end())
            entries->push_back(e);
        else
            *had = e;
        return at;
    }

    StoredNeighbours neighbours_in(const Array<bool>& found, const Array<uint8_t>& rows, int64_t at) const {
        StoredNeighbours stored(at, settings_.context.neighbours);
        require(found.size() == std::ssize(sources_) && rows.ndim() == 2 && rows.shape(0) == found.size() &&
                    (sources_.empty() || rows.shape(1) >= stored.row_bytes()),
                "rows must be those of the sources");
        return stored;
    }

    void add_bag(const Catalogue& c, const UserView& seen, float* vector) const {
        const auto D = static_cast<size_t>(c.dim());
        std::vector<int64_t> ids;
        for (const HistoryEntry* e : seen.bag) ids.push_back(e->item);
        std::vector<uint32_t> found(ids.size());
        c.find_shared(ids.data(), std::ssize(ids), found.data());
        std::vector<float> copies((1 + ids.size()) * D), weights{weights_.data()[seen.alpha]};
        std::copy(vector, vector + D, copies.begin());
        std::vector<const float*> rows{copies.data()};
        for (size_t i = 0; i < ids.size(); ++i) {
            if (found[i] == Catalogue::kNone) continue;
            float bias, *to = copies.data() + (1 + i) * D;
            c.read(found[i], to, &bias);
            rows.push_back(to);
            weights.push_back(weights_.data()[seen.bag_weight(i)]);
        }
        kernels().pool_bag(rows.data(), weights.data(), std::ssize(rows), c.dim(), vector);
    }

    void add_worths(const Catalogue& c, const User& u, const UserView& seen, const Near& near,
                    std::vector<int64_t>* ordinals, std::vector<float>* values) const {
        std::vector<Feature> features;
        std::vector<int64_t> ids;
        std::vector<float> worths;
        std::vector<char> had_too(near.items().size());
        const auto add = [&](int64_t id, float share) {
            if (seen.inside) Context::worth_near(share, &features);
            float worth = 0.0f;
            for (const Feature& f : features) worth += weights_.data()[f.at] * f.x;
            features.clear();
            ids.push_back(id);
            worths.push_back(worth);
        };
        for (const HistoryEntry& e : u.entries) {
            u.context.worth(e, seen, &features);
            const int64_t at = near.find(e.item);
            add(e.item, at < 0 ? 0.0f : near.items()[static_cast<size_t>(at)].share);
            if (at >= 0) had_too[static_cast<size_t>(at)] = 1;
        }
        for (size_t i = 0; i < near.items().size(); ++i)
            if (!had_too[i]) add(near.items()[i].id, near.items()[i].share);
        std::vector<uint32_t> found(ids.size());
        c.find_shared(ids.data(), std::ssize(ids), found.data());
        std::vector<std::pair<uint32_t, float>> pairs;
        for (size_t i = 0; i < ids.size(); ++i)
            if (found[i] != Catalogue::kNone) pairs.emplace_back(found[i], worths[i]);
        std::sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        for (const auto& [ordinal, worth] : pairs) ordinals->push_back(ordinal), values->push_back(worth);
    }

    LearnSettings settings_;
    Array<float> weights_;
    const std::vector<HistoryEntry> none_;
    std::vector<User> users_;
    std::vector<int64_t> sources_;
};

// Takes items, rising, out of the neighbours of all rows in RAM, which begin at float `at`.
void forget_neighbours(Warm& table, int64_t at, int64_t most, const Array<int64_t>& ids) {
    require(at >= 0 && table.layout().floats == at + Neighbours::floats(checked_neighbours(most)),
            "rows of other settings");
    require_no_window(table);
    const std::vector<int64_t> gone(ids.data(), ids.data() + ids.size());
    py::gil_scoped_release nogil;
    std::vector<int64_t> here;
    table.resident(&here);
    for (int64_t id : here) {
        const uint32_t slot = table.find(id);
        Neighbours neighbours(table.row(slot) + at, most);
        if (!neighbours.has_any(gone)) continue;
        std::lock_guard lock(table.mutex());
        table.touch(slot);
        neighbours.remove(gone);
    }
}

// Which of some rows, as LMDB has them, name one of `ids`, rising, as a neighbour.
Array<bool> name_neighbours(const Array<uint8_t>& rows, int64_t at, int64_t most, const Array<int64_t>& ids) {
    StoredNeighbours stored(at, most);
    require(rows.ndim() == 2 && rows.shape(1) >= stored.row_bytes(), "rows of other settings");
    const std::vector<int64_t> gone(ids.data(), ids.data() + ids.size());
    Array<bool> out(rows.shape(0));
    for (py::ssize_t i = 0; i < rows.shape(0); ++i)
        out.mutable_data()[i] = stored.of(bytes_of(rows) + i * rows.shape(1)).has_any(gone);
    return out;
}

}  // namespace

void bind_sequence(py::module_& m) {
    py::class_<Looks>(m, "Looks", "What the histories of some users say for their lists, of each at its moment.")
        .def(py::init<const LearnSettings&, Array<float>, const std::vector<py::bytes>&, const MaybeArray<int64_t>&,
                      const MaybeArray<int64_t>&, const Array<uint32_t>&, const MaybeArray<uint32_t>&>(),
             py::arg("settings"), fixed("weights"), py::arg("histories"), fixed("more").none(true),
             fixed("offsets").none(true), fixed("times"), fixed("marks").none(true), py::call_guard<DefaultFloats>())
        .def_property_readonly("sources", &Looks::sources, "The items whose rows `finish` wants.")
        .def("finish", &Looks::finish, py::arg("catalogue"), fixed("vectors"), fixed("found"), fixed("rows"),
             py::arg("at"), py::call_guard<DefaultFloats>())
        .def("parts", &Looks::parts, py::arg("item"), fixed("found"), fixed("rows"), py::arg("at"),
             py::call_guard<DefaultFloats>());
    m.def("first_global_weights", [] { return to_array(GlobalWeights().saved()); });
    m.attr("GLOBAL_WEIGHTS") = static_cast<int>(GlobalWeights::kCount);
    m.def(
        "neighbour_floats", [](int64_t most) { return Neighbours::floats(checked_neighbours(most)); }, py::arg("most"),
        "Floats of a row that has room for so many neighbours, behind its others.");
    m.def("forget_neighbours", &forget_neighbours, py::arg("table"), py::arg("at"), py::arg("most"), fixed("ids"));
    m.def("name_neighbours", &name_neighbours, fixed("rows"), py::arg("at"), py::arg("most"), fixed("ids"));
}
