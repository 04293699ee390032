// The kernels for Python: rows as a float32 matrix [R, W], slots as int64; outputs are allocated by the caller.
#include <optional>

#include "arrays.h"
#include "bindings.h"
#include "kernels.h"
#include "score_topk.h"

namespace py = pybind11;

namespace {

struct Rows {
    float* base;
    int64_t n, width;
    float* at(int64_t slot) const {
        require(slot >= 0 && slot < n, "slot out of range");
        return base + slot * width;
    }
};

Rows rows_of(Array<float>& rows, int64_t dim, int64_t extra) {
    require(rows.ndim() == 2 && rows.shape(1) >= dim + extra, "rows must be [R, >= dim + 3]");
    return {rows.mutable_data(), rows.shape(0), rows.shape(1)};
}

void pool_rows(Array<float> rows, int64_t dim, const Array<int64_t>& slots, const MaybeArray<int64_t>& offsets,
               const MaybeArray<float>& weights, Array<float> out) {
    const Rows r = rows_of(rows, dim, 0);
    const int64_t bags = offsets ? offsets->size() - 1 : slots.size();
    require(out.ndim() == 2 && out.shape(0) == bags && out.shape(1) == dim, "out must be [B, dim]");
    std::vector<const float*> pointers(static_cast<size_t>(slots.size()));
    for (int64_t i = 0; i < slots.size(); ++i) pointers[static_cast<size_t>(i)] = r.at(slots.data()[i]);
    const int64_t* o = data_or_null(offsets);
    const float* w = data_or_null(weights);
    float* to = out.mutable_data();
    py::gil_scoped_release nogil;
    for (int64_t b = 0; b < bags; ++b) {
        const int64_t from = o ? o[b] : b, end = o ? o[b + 1] : b + 1;
        kernels().pool_bag(pointers.data() + from, w ? w + from : nullptr, end - from, dim, to + b * dim);
    }
}

void loss_grads(int loss, const Array<float>& queries, Array<float> rows, int64_t dim, const Array<int64_t>& positives,
                const Array<int64_t>& negatives, const MaybeArray<float>& weights, Array<float> losses,
                Array<float> query_grads, Array<float> positive_coefs, Array<float> negative_coefs) {
    const Rows r = rows_of(rows, dim, 1);
    const int64_t events = positives.size();
    const int64_t K = negatives.ndim() == 2 ? negatives.shape(1) : negatives.size();
    require((loss == 0) == (negatives.ndim() == 1), "negatives must be [K] for softmax, [B, K] for bpr");
    require(queries.ndim() == 2 && queries.shape(0) == events && queries.shape(1) == dim, "queries must be [B, dim]");
    require(losses.size() == events && positive_coefs.size() == events && query_grads.size() == events * dim &&
                negative_coefs.size() == events * K,
            "outputs must be [B], [B, dim], [B], [B, K]");
    std::vector<const float*> q, p, n;
    for (int64_t b = 0; b < events; ++b) q.push_back(queries.data() + b * dim), p.push_back(r.at(positives.data()[b]));
    for (int64_t k = 0; k < negatives.size(); ++k)
        n.push_back(negatives.data()[k] < 0 ? nullptr : r.at(negatives.data()[k]));
    const LossStep step{.events = events,
                        .negatives = K,
                        .dim = dim,
                        .queries = q.data(),
                        .positives = p.data(),
                        .negative_rows = n.data(),
                        .weights = data_or_null(weights),
                        .losses = losses.mutable_data(),
                        .query_grads = query_grads.mutable_data(),
                        .grad_stride = dim,
                        .positive_coefs = positive_coefs.mutable_data(),
                        .negative_coefs = negative_coefs.mutable_data()};
    py::gil_scoped_release nogil;
    (loss == 0 ? kernels().softmax_grads : kernels().bpr_grads)(step);
}

int64_t update_rows(Array<float> rows, int64_t dim, const Array<int64_t>& slots, const Array<float>& sources,
                    const Array<int64_t>& source_index, const Array<float>& coefs, float lr, float l2, bool bias) {
    const Rows r = rows_of(rows, dim, 3);
    const int64_t terms = slots.size();
    require(r.n < UINT32_MAX, "at most 2^32 - 2 rows");
    require(source_index.size() == terms && coefs.size() == terms, "slots, source_index and coefs must be [P]");
    require(sources.ndim() == 2 && sources.shape(1) == dim, "sources must be [M, dim]");
    std::vector<uint32_t> term_slots;
    std::vector<const float*> pointers;
    for (int64_t t = 0; t < terms; ++t) {
        const int64_t slot = slots.data()[t], source = source_index.data()[t];
        require(source >= 0 && source < sources.shape(0), "source_index out of range");
        if (slot != -1) r.at(slot);
        term_slots.push_back(slot == -1 ? Groups::kEnd : static_cast<uint32_t>(slot));
        pointers.push_back(sources.data() + source * dim);
    }
    py::gil_scoped_release nogil;
    Groups groups;
    groups.build(term_slots.data(), terms);
    std::vector<float*> group_rows;
    for (uint32_t s : groups.slot) group_rows.push_back(r.at(s));
    std::vector<float> scratch(static_cast<size_t>(2 * (dim + 15)));
    return kernels().update_groups({dim, pointers.data(), coefs.data(), lr, l2, bias}, groups, 0, groups.size(),
                                   group_rows.data(), scratch.data());
}

void topk(const Array<float>& queries, int64_t dim, const Array<float>& vectors, const Array<float>& biases,
          const Array<int64_t>& ids, int64_t k, const MaybeArray<int64_t>& exclude_positions,
          const MaybeArray<int64_t>& exclude_offsets, const MaybeArray<int64_t>& include_positions,
          const MaybeArray<int64_t>& include_offsets, bool cosine, Array<int64_t> out_ids, Array<float> out_scores,
          Array<int64_t> out_counts, int threads) {
    const int64_t Q = queries.shape(0), n = ids.size();
    require(queries.ndim() == 2 && queries.shape(1) == dim, "queries must be [Q, dim]");
    require(vectors.ndim() == 2 && vectors.shape(0) == n && vectors.shape(1) >= dim && biases.size() == n,
            "vectors must be [N, >= dim], biases [N]");
    require(out_ids.size() == Q * k && out_scores.size() == Q * k && out_counts.size() == Q, "outputs must be [Q, k]");
    const ScoreBlock all{vectors.data(), biases.data(), nullptr, n, vectors.shape(1)};
    const int64_t* item_ids = ids.data();
    std::vector<float> units;
    if (cosine) units = unit_vectors(queries.data(), Q, dim);
    const TopkTask task{.queries = cosine ? units.data() : queries.data(),
                        .n_queries = Q,
                        .query_stride = dim,
                        .dim = dim,
                        .n_items = n,
                        .k = k,
                        .cosine = cosine,
                        .exclude = position_lists(exclude_positions, exclude_offsets),
                        .exclude_too = {},
                        .include = position_lists(include_positions, include_offsets),
                        .block =
                            [&](int64_t, int64_t* first, const int64_t** found) {
                                *first = 0;
                                *found = item_ids;
                                return all;
                            },
                        .ids = out_ids.mutable_data(),
                        .scores = out_scores.mutable_data(),
                        .counts = out_counts.mutable_data()};
    py::gil_scoped_release nogil;
    score_topk(task, threads);
}

}  // namespace

void bind_kernels(py::module_& m) {
    const auto fixed = [](const char* name) { return py::arg(name).noconvert(); };
    m.def("isa", [] { return kernels().name; }, "The instruction set in force.");
    m.def("isa_available", &kernels_available, py::arg("isa"));
    m.def("set_isa", &select_kernels, py::arg("isa"), "Chooses the instruction set; False where this CPU lacks it.");
    m.def("pool_rows", &pool_rows, fixed("rows"), fixed("dim"), fixed("slots"), fixed("offsets").none(true),
          fixed("weights").none(true), fixed("out"));
    m.def("loss_grads", &loss_grads, fixed("loss"), fixed("queries"), fixed("rows"), fixed("dim"), fixed("positives"),
          fixed("negatives"), fixed("weights").none(true), fixed("losses"), fixed("query_grads"),
          fixed("positive_coefs"), fixed("negative_coefs"));
    m.def("update_rows", &update_rows, fixed("rows"), fixed("dim"), fixed("slots"), fixed("sources"),
          fixed("source_index"), fixed("coefs"), py::arg("lr"), py::arg("l2"), fixed("bias"));
    m.def("score_topk", &topk, fixed("queries"), fixed("dim"), fixed("vectors"), fixed("biases"), fixed("ids"),
          fixed("k"), fixed("exclude_positions").none(true), fixed("exclude_offsets").none(true),
          fixed("include_positions").none(true), fixed("include_offsets").none(true), fixed("cosine"), fixed("out_ids"),
          fixed("out_scores"), fixed("out_counts"), fixed("threads"));
}
