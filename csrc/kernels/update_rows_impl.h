// Sums of the gradients of equal rows, and one step of the optimizer. A part of isa/table_impl.h, which includes it.
namespace ISA {
namespace {

// With AVX-512, and a dim that the compiler knows, a vector under way stands in registers: in scratch memory no row was
// worked on before the last one was done, it seems because a load of 64 bytes that were just stored waits until the
// store has left for the cache (Zen 4), and so for all before it. Else in scratch memory, which halves of 32 bytes pass
// unharmed.
template <int64_t kDim>
using UnderWay = Vector<(kDim > 0 && kOneRegister) ? kDim : 0>;

// The gradient of one group's vector into `grad`, of its bias as the result: segments of terms, each summed in order.
template <int64_t kDim>
[[gnu::always_inline]] inline float sum_terms(const UpdateTask& s, const Groups& groups, int64_t g,
                                              UnderWay<kDim>* grad, UnderWay<kDim>* part) {
    const int64_t D = kDim ? kDim : s.dim;
    uint32_t t = groups.head[static_cast<size_t>(g)];
    if (groups.next[t] == Groups::kEnd) {
        const V16 c = set1(s.coefs[t]);
        for (int64_t d = 0; d < D; d += 16) grad->set(d, mul(c, load(s.sources[t] + d, D - d)), D - d);
        return s.bias_coefs ? s.bias_coefs[t] : 0.0f;
    }
    float bias = 0.0f;
    for (bool first = true; t != Groups::kEnd; first = false) {
        const float* sources[kSegmentTerms];
        float coefs[kSegmentTerms];
        int64_t n = 0;
        float bias_part = 0.0f;
        for (; n < kSegmentTerms && t != Groups::kEnd; ++n, t = groups.next[t]) {
            sources[n] = s.sources[t];
            coefs[n] = s.coefs[t];
            if (s.bias_coefs) bias_part += s.bias_coefs[t];
        }
        combine<kDim>(sources, coefs, n, D, first ? grad : part);
        if (!first)
            for (int64_t d = 0; d < D; d += 16) grad->set(d, add(grad->get(d, D - d), part->get(d, D - d)), D - d);
        bias += bias_part;
    }
    return bias;
}

template <int64_t kDim, Optimizer kOptimizer>
inline int64_t step_groups(const UpdateTask& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                           float* scratch) {
    const int64_t D = kDim ? kDim : s.dim, floats = D + 1 + state_floats(kOptimizer, D);
    const OptimizerSettings settings{kOptimizer, D, s.lr, s.lr_bias, s.l2, s.bias_coefs != nullptr};
    float* room = scratch + padded_dim(D);
    int64_t skipped = 0;
    for (int64_t g = from; g < to; ++g) {
        if (const int64_t i = g + kFar; i < groups.size()) {
            prefetch_row_far(rows[i], floats);
            prefetch_row_far(s.sources[groups.head[static_cast<size_t>(i)]], D);
        }
        if (const int64_t i = g + kNear; i < groups.size()) {
            prefetch_row(rows[i], floats);
            prefetch_row(s.sources[groups.head[static_cast<size_t>(i)]], D);
        }
        UnderWay<kDim> grad(scratch), part(room);
        const float bias_grad = sum_terms<kDim>(s, groups, g, &grad, &part);
        skipped += !step_row<kDim>(settings, rows[g], rows[g], &grad, bias_grad, room);
    }
    return skipped;
}

using StepGroups = int64_t (*)(const UpdateTask&, const Groups&, int64_t, int64_t, float* const*, float*);

template <int64_t kDim, int... kOf>
StepGroups step_groups_of(Optimizer optimizer, std::integer_sequence<int, kOf...>) {
    constexpr StepGroups kAll[] = {step_groups<kDim, static_cast<Optimizer>(kOf)>...};
    return kAll[static_cast<int>(optimizer)];
}

template <int64_t kDim>
int64_t update_groups_dim(const UpdateTask& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                          float* scratch) {
    const auto step = step_groups_of<kDim>(s.optimizer, std::make_integer_sequence<int, kOptimizers>());
    return step(s, groups, from, to, rows, scratch);
}

int64_t update_groups(const UpdateTask& s, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                      float* scratch) {
    ROWTIDE_FOR_DIM(s.dim, update_groups_dim, s, groups, from, to, rows, scratch)
}

}  // namespace
}  // namespace ISA
