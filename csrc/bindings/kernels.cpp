// The kernels for Python: rows as a float32 matrix [R, W], slots as int64; outputs are allocated by the caller.
#include <optional>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "kernels/draws.h"
#include "kernels/float_mode.h"
#include "kernels/kernels.h"
#include "kernels/score_topk.h"

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
    require(rows.ndim() == 2 && checked_dim(dim) <= rows.shape(1) - extra, "rows have too few columns");
    return {rows.mutable_data(), rows.shape(0), rows.shape(1)};
}

void pool_rows(Array<float> rows, int64_t dim, const Array<int64_t>& slots, const MaybeArray<int64_t>& offsets,
               const MaybeArray<float>& weights, Array<float> out) {
    const Rows r = rows_of(rows, dim, 0);
    const int64_t bags = offsets ? offsets->size() - 1 : slots.size();
    if (offsets) require_lists(slots, offsets, bags);
    require(!weights || weights->size() == slots.size(), "weights must be one for each slot");
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
                const Array<int64_t>& negatives, const MaybeArray<float>& weights, const MaybeArray<float>& values,
                const MaybeArray<float>& offsets, Array<float> losses, Array<float> query_grads,
                Array<float> positive_coefs, Array<float> negative_coefs) {
    const Rows r = rows_of(rows, dim, 1);
    const int64_t events = positives.size();
    const int64_t K = negatives.ndim() == 2 ? negatives.shape(1) : negatives.size();
    constexpr auto softmax = static_cast<int>(Loss::softmax);
    require(loss >= softmax && loss < kLosses, "no such loss");
    require((loss == softmax) == (negatives.ndim() == 1), "negatives must be [K] for softmax, else [B, K]");
    require(negatives.ndim() == 1 || (negatives.ndim() == 2 && negatives.shape(0) == events),
            "negatives: a row for each event");
    require(is_pointwise(static_cast<Loss>(loss)) == values.has_value(), "values are for pointwise losses");
    require(queries.ndim() == 2 && queries.shape(0) == events && queries.shape(1) == dim, "queries must be [B, dim]");
    require((!values || values->size() == events) && (!offsets || offsets->size() == events) &&
                (!weights || weights->size() == events),
            "values, offsets and weights must be [B]");
    require(losses.size() == events && positive_coefs.size() == events && query_grads.size() == events * dim &&
                negative_coefs.size() == events * K,
            "outputs must be [B], [B, dim], [B], [B, K]");
    std::vector<const float*> q, p, n;
    for (int64_t b = 0; b < events; ++b) q.push_back(queries.data() + b * dim), p.push_back(r.at(positives.data()[b]));
    for (int64_t k = 0; k < negatives.size(); ++k)
        n.push_back(negatives.data()[k] < 0 ? nullptr : r.at(negatives.data()[k]));
    const LossTask step{.loss = static_cast<Loss>(loss),
                        .events = events,
                        .negatives = K,
                        .dim = dim,
                        .queries = q.data(),
                        .positives = p.data(),
                        .negative_rows = n.data(),
                        .weights = data_or_null(weights),
                        .values = data_or_null(values),
                        .offsets = data_or_null(offsets),
                        .losses = losses.mutable_data(),
                        .query_grads = query_grads.mutable_data(),
                        .grad_stride = dim,
                        .positive_coefs = positive_coefs.mutable_data(),
                        .negative_coefs = negative_coefs.mutable_data()};
    py::gil_scoped_release nogil;
    kernels().loss_grads(step);
}

int64_t update_rows(int optimizer, Array<float> rows, int64_t dim, const Array<int64_t>& slots,
                    const Array<float>& sources, const Array<int64_t>& source_index, const Array<float>& coefs,
                    const MaybeArray<float>& bias_coefs, float lr, float l2) {
    const Optimizer kind = checked_optimizer(optimizer);
    const Rows r = rows_of(rows, dim, 1 + state_floats(kind, checked_dim(dim)));
    const int64_t terms = slots.size();
    require(r.n < UINT32_MAX, "at most 2^32 - 2 rows");
    require(source_index.size() == terms && coefs.size() == terms && (!bias_coefs || bias_coefs->size() == terms),
            "slots, source_index, coefs and bias_coefs must be [P]");
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
    std::vector<float> scratch(static_cast<size_t>(3 * (dim + 15)));
    const UpdateTask step{kind, dim, pointers.data(), coefs.data(), data_or_null(bias_coefs), lr, lr, l2};
    return kernels().update_groups(step, groups, 0, groups.size(), group_rows.data(), scratch.data());
}

void topk(const Array<float>& queries, int64_t dim, const Array<float>& vectors, const Array<float>& biases,
          const Array<int64_t>& ids, int64_t k, const MaybeArray<int64_t>& exclude_positions,
          const MaybeArray<int64_t>& exclude_offsets, const MaybeArray<int64_t>& include_positions,
          const MaybeArray<int64_t>& include_offsets, bool cosine, Array<int64_t> out_ids, Array<float> out_scores,
          Array<int64_t> out_counts, int threads) {
    require(queries.ndim() == 2 && queries.shape(1) == checked_dim(dim), "queries must be [Q, dim]");
    const int64_t Q = queries.shape(0), n = ids.size();
    require(vectors.ndim() == 2 && vectors.shape(0) == n && vectors.shape(1) >= dim && biases.size() == n,
            "vectors must be [N, >= dim], biases [N]");
    require(k > 0 && (Q == 0 || k <= out_ids.size() / Q), "k does not fit the outputs");
    require_lists(exclude_positions, exclude_offsets, Q);
    require_lists(include_positions, include_offsets, Q, n);
    require(out_ids.size() == Q * k && out_scores.size() == Q * k && out_counts.size() == Q, "outputs must be [Q, k]");
    const ScoreBlock all{vectors.data(), biases.data(), nullptr, n, vectors.shape(1)};
    const int64_t* item_ids = ids.data();
    std::vector<float> units;
    if (cosine) units = unit_vectors(queries.data(), Q, dim);
    const TopkTask task{.queries = cosine ? units.data() : queries.data(),
                        .query_biases = nullptr,
                        .n_queries = Q,
                        .query_stride = dim,
                        .dim = dim,
                        .n_items = n,
                        .k = k,
                        .cosine = cosine,
                        .exclude = position_lists(exclude_positions, exclude_offsets),
                        .exclude_all = {},
                        .include = position_lists(include_positions, include_offsets),
                        .block =
                            [&](int64_t, int64_t* first, const int64_t** found) {
                                *first = 0;
                                *found = item_ids;
                                return all;
                            },
                        .masked = {},
                        .ids = out_ids.mutable_data(),
                        .scores = out_scores.mutable_data(),
                        .counts = out_counts.mutable_data()};
    py::gil_scoped_release nogil;
    score_topk(task, threads);
}

void draw_negatives(const Array<int64_t>& known, const Array<int32_t>& slots, uint64_t seed, uint64_t first_seq,
                    int64_t batch_size, int64_t negatives, Array<int32_t> out) {
    const int64_t steps = known.size(), items = slots.size(), K = negatives;
    require(
        batch_size > 0 && batch_size <= 65'536 && K > 0 && K <= 65'536 && steps <= INT32_MAX && out.size() == steps * K,
        "batch_size or negatives out of range, or out is not [S * K]");
    const int64_t* n = known.data();
    const int32_t* slot = slots.data();
    for (int64_t s = 0; s < steps; ++s) require(n[s] >= 0 && n[s] <= items, "known is out of range");
    int32_t* to = out.mutable_data();
    py::gil_scoped_release nogil;
    for (int64_t s = 0; s < steps; ++s)
        for (int64_t k = 0; k < K; ++k) {
            const uint64_t seq = first_seq + static_cast<uint64_t>(s * batch_size);
            const int64_t ordinal = negative_ordinal(seed, seq, k, K, n[s]);
            to[s * K + k] = ordinal < 0 ? -1 : slot[ordinal];
        }
}

}  // namespace

void bind_kernels(py::module_& m) {
    m.def("isa", [] { return kernels().name; }, "The instruction set in force.");
    m.def("isa_available", &kernels_available, py::arg("isa").none(false));
    m.def("set_isa", &select_kernels, py::arg("isa").none(false),
          "Chooses the instruction set; False where this CPU lacks it.");
    m.def("pool_rows", &pool_rows, fixed("rows"), fixed("dim"), fixed("slots"), fixed("offsets").none(true),
          fixed("weights").none(true), fixed("out"), py::call_guard<DefaultFloats>());
    m.def("loss_grads", &loss_grads, fixed("loss"), fixed("queries"), fixed("rows"), fixed("dim"), fixed("positives"),
          fixed("negatives"), fixed("weights").none(true), fixed("values").none(true), fixed("offsets").none(true),
          fixed("losses"), fixed("query_grads"), fixed("positive_coefs"), fixed("negative_coefs"),
          py::call_guard<DefaultFloats>());
    m.def(
        "state_floats",
        [](int optimizer, int64_t dim) { return state_floats(checked_optimizer(optimizer), checked_dim(dim)); },
        py::arg("optimizer"), py::arg("dim"), "Floats that an optimizer keeps behind the bias of a row.");
    m.def("update_rows", &update_rows, fixed("optimizer"), fixed("rows"), fixed("dim"), fixed("slots"),
          fixed("sources"), fixed("source_index"), fixed("coefs"), fixed("bias_coefs").none(true), py::arg("lr"),
          py::arg("l2"), py::call_guard<DefaultFloats>());
    m.def("draw_negatives", &draw_negatives, fixed("known"), fixed("slots"), py::arg("seed"), py::arg("first_seq"),
          py::arg("batch_size"), py::arg("negatives"), fixed("out"));
    m.def("score_topk", &topk, fixed("queries"), fixed("dim"), fixed("vectors"), fixed("biases"), fixed("ids"),
          fixed("k"), fixed("exclude_positions").none(true), fixed("exclude_offsets").none(true),
          fixed("include_positions").none(true), fixed("include_offsets").none(true), fixed("cosine"), fixed("out_ids"),
          fixed("out_scores"), fixed("out_counts"), fixed("threads"), py::call_guard<DefaultFloats>());
}
