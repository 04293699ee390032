// The catalogue for Python: its items by ordinal, and ranking them. Calls whose work grows with the data release the
// GIL.
#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "kernels/float_mode.h"
#include "kernels/score_topk.h"
#include "table/catalogue.h"

namespace py = pybind11;

namespace {

// Query i against item ordinals[i], with the bits that topk gives.
Array<float> score_pairs(const Catalogue& c, const Array<float>& queries, const Array<int64_t>& ordinals) {
    const int64_t n = ordinals.size(), shown = c.most();
    require(queries.ndim() == 2 && queries.shape(0) == n && queries.shape(1) == c.dim(), "queries must be [n, dim]");
    Array<float> scores(n);
    const float* query = queries.data();
    const int64_t* o = ordinals.data();
    float* score = scores.mutable_data();
    {
        py::gil_scoped_release nogil;
        for (int64_t i = 0; i < n; ++i) {
            require(o[i] >= 0 && o[i] < shown, "ordinal out of range");
            int64_t first;
            const int64_t* ids;
            const ScoreBlock block = c.block(o[i], shown, &first, &ids);
            kernels().score_items(query + i * c.dim(), c.dim(), block, o[i] - first, o[i] - first + 1, score + i);
        }
    }
    return scores;
}

Array<int64_t> ordinals(const Catalogue& c, const Array<int64_t>& ids) {
    std::vector<uint32_t> found(static_cast<size_t>(ids.size()));
    const int64_t* id = ids.data();
    {
        py::gil_scoped_release nogil;
        c.find_shared(id, std::ssize(found), found.data());
    }
    Array<int64_t> out(static_cast<py::ssize_t>(found.size()));
    std::transform(found.begin(), found.end(), out.mutable_data(),
                   [](uint32_t o) { return o == Catalogue::kNone ? int64_t{-1} : int64_t{o}; });
    return out;
}

py::tuple read_items(const Catalogue& c, const Array<int64_t>& ordinals) {
    const int64_t n = ordinals.size(), shown = c.most();
    Array<float> vectors({n, c.dim()}), biases(n);
    const int64_t* o = ordinals.data();
    float *vector = vectors.mutable_data(), *bias = biases.mutable_data();
    {
        py::gil_scoped_release nogil;
        for (int64_t i = 0; i < n; ++i) {
            require(o[i] >= 0 && o[i] < shown, "ordinal out of range");
            c.read(o[i], vector + i * c.dim(), bias + i);
        }
    }
    return py::make_tuple(vectors, biases);
}

Array<int64_t> ids_of(const Catalogue& c, const Array<int64_t>& ordinals) {
    const int64_t n = ordinals.size();
    Array<int64_t> ids(n);
    for (int64_t i = 0; i < n; ++i) {
        const int64_t o = ordinals.data()[i];
        require(o >= 0 && o < c.most(), "ordinal out of range");
        ids.mutable_data()[i] = c.id(o);
    }
    return ids;
}

// Items from `first` on into memory of the caller: vectors [n, dim or more] (what is beyond stays), biases and ids [n].
void read_tile(const Catalogue& c, int64_t first, Array<float> vectors, Array<float> biases, Array<int64_t> ids) {
    const int64_t n = ids.size(), shown = c.most();
    require(vectors.ndim() == 2 && vectors.shape(0) == n && vectors.shape(1) >= c.dim() && biases.size() == n,
            "vectors must be [n, dim or more], biases [n]");
    require(first >= 0 && first <= shown && n <= shown - first, "items must have been shown");
    const int64_t width = vectors.shape(1);
    float *vector = vectors.mutable_data(), *bias = biases.mutable_data();
    int64_t* id = ids.mutable_data();
    py::gil_scoped_release nogil;
    for (int64_t i = 0; i < n; ++i) {
        c.read(first + i, vector + i * width, bias + i);
        id[i] = c.id(first + i);
    }
}

// Bit n % 32 of word n / 32: may item n be returned?
Array<int32_t> ranked(const Catalogue& c, int64_t items) {
    require(items >= 0 && items <= c.most(), "items must have been shown");
    Array<int32_t> words((items + 31) / 32);
    auto* word = reinterpret_cast<uint32_t*>(words.mutable_data());
    py::gil_scoped_release nogil;
    std::fill_n(word, words.size(), 0u);
    for (int64_t i = 0; i < items; ++i) word[i / 32] |= static_cast<uint32_t>(c.is_ranked(i)) << (i % 32);
    return words;
}

// The best of the first `items` items: what the filters were looked up among, whatever has come in since.
py::tuple topk(const Catalogue& c, const Array<float>& queries, const MaybeArray<float>& query_biases, int64_t k,
               int64_t items, const MaybeArray<int64_t>& exclude_all, const MaybeArray<int64_t>& exclude,
               const MaybeArray<int64_t>& exclude_offsets, const MaybeArray<int64_t>& include,
               const MaybeArray<int64_t>& include_offsets, const MaybeArray<int64_t>& raised,
               const MaybeArray<int64_t>& raised_offsets, const MaybeArray<float>& raises, bool cosine, int gate,
               int threads) {
    require(queries.ndim() == 2 && queries.shape(1) == c.dim(), "queries must be [Q, dim]");
    require(items >= 0 && items <= c.most(), "items must have been shown");
    require(k > 0 && k <= INT32_MAX, "k out of range");
    const int64_t Q = queries.shape(0);
    require_lists(exclude_all, {}, Q);
    require_lists(exclude, exclude_offsets, Q);
    require_lists(include, include_offsets, Q);
    require_lists(raised, raised_offsets, Q);
    require(
        raised.has_value() == raises.has_value() && (!raised || (raised_offsets && raises->size() == raised->size())),
        "raises must stand as the raised items do");
    require(!query_biases || query_biases->size() == Q, "query_biases must be [Q]");
    Array<int64_t> ids({Q, k}), counts(Q);
    Array<float> scores({Q, k});
    std::vector<float> units;
    if (cosine) units = unit_vectors(queries.data(), Q, c.dim());
    const TopkTask task{
        .queries = cosine ? units.data() : queries.data(),
        .query_biases = data_or_null(query_biases),
        .n_queries = Q,
        .query_stride = c.dim(),
        .dim = c.dim(),
        .n_items = items,
        .k = k,
        .cosine = cosine,
        .exclude = position_lists(exclude, exclude_offsets),
        .exclude_all = position_lists(exclude_all, {}),
        .include = position_lists(include, include_offsets),
        .raised = position_lists(raised, raised_offsets),
        .raises = data_or_null(raises),
        .block = [&](int64_t at, int64_t* first, const int64_t** found) { return c.block(at, items, first, found); },
        .masked = [&](int64_t at) { return !c.is_ranked(at); },
        .last = gate > 0 ? [&c, gate](int64_t at) { return c.users(at) < gate; } : std::function<bool(int64_t)>(),
        .ids = ids.mutable_data(),
        .scores = scores.mutable_data(),
        .counts = counts.mutable_data()};
    {
        py::gil_scoped_release nogil;
        score_topk(task, threads);
    }
    return py::make_tuple(ids, scores, counts);
}

// The ids, rising, for which `change` changed something.
template <bool (Catalogue::*change)(int64_t)>
Array<int64_t> changed(Catalogue& c, const Array<int64_t>& ids) {
    return sorted_ids([&](auto* done) {
        for (int64_t i = 0; i < ids.size(); ++i)
            if ((c.*change)(ids.data()[i])) done->push_back(ids.data()[i]);
    });
}

void remove_items(Catalogue& c, const Array<int64_t>& ids) {
    require(!c.planned_by, "a window is planned on these items");
    py::gil_scoped_release nogil;
    for (int64_t i = 0; i < ids.size(); ++i) {
        const uint32_t ordinal = c.find(ids.data()[i]);
        if (ordinal != Catalogue::kNone) c.remove(ordinal);
    }
}

// What stands behind the floats of a stored row, but for the id.
RowMeta stored_meta(const std::byte* row, int64_t width) {
    RowMeta meta{};
    std::memcpy(&meta, row + width - 24, 24);
    return meta;
}

// Of stored rows, whatever optimizer they are of.
int64_t width_of(const Catalogue& c, const Array<int64_t>& ids, const Array<uint8_t>& rows, int64_t dim) {
    require(dim == c.dim(), "another dim");
    require(rows.ndim() == 2 && rows.shape(0) == ids.size() && rows.shape(1) >= (dim + 1) * 4 + 24,
            "rows must be [n, stored_bytes]");
    return rows.shape(1);
}

void restore(Catalogue& c, const Array<int64_t>& ids, const Array<uint8_t>& rows, int64_t dim, int64_t limit) {
    const int64_t width = width_of(c, ids, rows, dim);
    require(limit >= 0 && limit <= Catalogue::kNone, "limit out of range");
    require(reinterpret_cast<uintptr_t>(rows.data()) % alignof(float) == 0 && width % int64_t{alignof(float)} == 0,
            "rows must be aligned as floats are");
    py::gil_scoped_release nogil;
    constexpr int64_t kAhead = 16;
    for (int64_t i = 0; i < ids.size(); ++i) {
        if (i + kAhead < ids.size()) c.prefetch(ids.data()[i + kAhead]);
        const std::byte* stored = bytes_of(rows) + i * width;
        const RowMeta meta = stored_meta(stored, width);
        if (meta.ordinal >= static_cast<uint64_t>(limit)) continue;  // restored() will find one missing
        c.restore(static_cast<uint32_t>(meta.ordinal), ids.data()[i], reinterpret_cast<const float*>(stored),
                  meta.users);
    }
}

void require_counts(int64_t n, int64_t end) {
    require(n >= 0 && n < Catalogue::kNone && end >= 0 && end <= Catalogue::kNone, "n or end out of range");
}

bool follow(Catalogue& c, const Array<int64_t>& ids, const Array<uint8_t>& rows, int64_t dim) {
    const int64_t width = width_of(c, ids, rows, dim);
    py::gil_scoped_release nogil;
    std::vector<std::pair<uint64_t, int64_t>> order(static_cast<size_t>(ids.size()));
    for (int64_t i = 0; i < ids.size(); ++i) {
        auto& [ordinal, at] = order[static_cast<size_t>(i)];
        ordinal = stored_meta(bytes_of(rows) + i * width, width).ordinal;
        at = i;
    }
    std::sort(order.begin(), order.end());
    std::vector<float> row(static_cast<size_t>(dim + 1));
    for (const auto& [ordinal, i] : order) {
        std::memcpy(row.data(), bytes_of(rows) + i * width, row.size() * 4);
        const uint32_t users = stored_meta(bytes_of(rows) + i * width, width).users;
        if (!c.follow(ordinal, ids.data()[i], row.data(), users)) return false;
    }
    c.show_new();
    return true;
}

}  // namespace

void bind_catalogue(py::module_& m) {
    py::class_<Catalogue> catalogue(m, "Catalogue");
    py::class_<Catalogue::Hold>(m, "Hold")
        .def("__enter__", [](const Catalogue::Hold&) {})
        .def("__exit__", [](Catalogue::Hold& hold, const py::args&) { hold.release(); });
    catalogue.def(py::init([](int64_t dim) { return std::make_unique<Catalogue>(checked_dim(dim)); }), py::arg("dim"))
        .def("ordinals", &ordinals, fixed("ids"))
        .def("read", &read_items, fixed("ordinals"))
        .def("ids", &ids_of, fixed("ordinals"))
        .def("read_tile", &read_tile, py::arg("first"), fixed("vectors"), fixed("biases"), fixed("ids"))
        .def("ranked", &ranked, py::arg("items"))
        .def_property_readonly("flips", &Catalogue::flips)
        .def("score", &score_pairs, fixed("queries"), fixed("ordinals"), py::call_guard<DefaultFloats>())
        .def("restore", &restore, fixed("ids"), fixed("rows"), py::arg("dim"), py::arg("limit"))
        .def(
            "reserve_for",
            [](Catalogue& c, int64_t n, int64_t end) {
                require_counts(n, end);
                require(!c.restoring(), "asked for before");
                c.reserve_for(n, end);
            },
            py::arg("n"), py::arg("end"))
        .def("follow", &follow, fixed("ids"), fixed("rows"), py::arg("dim"))
        .def(
            "restored",
            [](Catalogue& c, int64_t n, int64_t end) {
                require_counts(n, end);
                return c.restored(n, end);
            },
            py::arg("n"), py::arg("end"))
        .def("remove", &remove_items, fixed("ids"))
        .def_property_readonly("moves", &Catalogue::moves)
        .def("hide", &changed<&Catalogue::hide>, fixed("ids"))
        .def("unhide", &changed<&Catalogue::unhide>, fixed("ids"))
        .def_property_readonly("hidden",
                               [](const Catalogue& c) { return sorted_ids([&](auto* ids) { c.hidden(ids); }); })
        .def(
            "hold", [](Catalogue& c) { return std::make_unique<Catalogue::Hold>(c); }, py::keep_alive<0, 1>())
        .def("topk", &topk, fixed("queries"), fixed("query_biases").none(true), py::arg("k"), py::arg("items"),
             fixed("exclude_all").none(true), fixed("exclude").none(true), fixed("exclude_offsets").none(true),
             fixed("include").none(true), fixed("include_offsets").none(true), fixed("raised").none(true),
             fixed("raised_offsets").none(true), fixed("raises").none(true), py::arg("cosine"), py::arg("gate"),
             py::arg("threads"), py::call_guard<DefaultFloats>())
        .def_property_readonly("bytes", &Catalogue::bytes)
        .def("__len__", &Catalogue::size);
}
