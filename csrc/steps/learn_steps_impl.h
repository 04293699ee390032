// One step of a window, by a team of strands. A part of isa/table_impl.h, and of cuda/learn_steps.cu: each includes it
// over its own V16. On a GPU a strand is half a warp: a function is called by its sixteen threads together, and a
// number that is not a V16 is the same in all of them.
//
// The bits are those of the learner's micro-batches: both use kernels/loss_rules_impl.h, row_grads_impl.h and
// optimizer_impl.h for each score, each gradient and each row. How the work is spread over strands changes none of
// them.
namespace ISA {
namespace {

// The rows and coefficients of one step.
struct StepView {
    const Steps& s;
    const StepSpace& w;
    int64_t event, B, K, D;  // its first event; its size

    ROWTIDE_LANES float* user_home(int64_t b) const { return s.users + w.user_slots[b] * s.user_width; }
    ROWTIDE_LANES const float* user(int64_t b) const {
        return w.staged ? w.user_images + b * w.image_width : user_home(b);
    }
    // Of items by reference: positives first.
    ROWTIDE_LANES int32_t slot(int64_t r) const { return r < B ? w.item_slots[r] : w.negative_slots[r - B]; }
    ROWTIDE_LANES float* item_home(int64_t r) const { return s.items + slot(r) * s.item_width; }
    ROWTIDE_LANES const float* item(int64_t r) const {
        return w.staged ? w.item_images + r * w.image_width : item_home(r);
    }
    ROWTIDE_LANES int32_t next(int64_t r) const { return r < B ? w.item_links.next[r] : w.negative_links.next[r - B]; }
    ROWTIDE_LANES int32_t before(int64_t r) const {
        return r < B ? w.item_links.before[r] : w.negative_links.before[r - B];
    }
    // The reference of event b's negative number k.
    ROWTIDE_LANES int64_t negative(int64_t b, int64_t k) const { return B + (s.shared() ? k : b * K + k); }
    ROWTIDE_LANES bool is_masked(int64_t b, int32_t slot) const { return slot < 0 || slot == w.item_slots[b]; }
    ROWTIDE_LANES int64_t references() const { return B + s.negatives_of(B); }
};

// The scores of event b's negatives [from, to) into negative_coefs. Masked: minus infinity for softmax, 0 for bpr.
template <int64_t kDim>
ROWTIDE_LANES void score_negatives(const StepView& v, int64_t b, int64_t from, int64_t to) {
    const float* query = v.user(b);
    V16 lanes[kStepRun];
    const float* rows[kStepRun];
    float dots[kStepRun];
    ROWTIDE_UNROLL(8)
    for (int i = 0; i < kStepRun; ++i) {
        rows[i] = nullptr;
        if (from + i < to) {
            const int64_t r = v.negative(b, from + i);
            if (!v.is_masked(b, v.slot(r))) rows[i] = v.item(r);
        }
        lanes[i] = dot_lanes<kDim>(query, rows[i] ? rows[i] : query, v.D);
    }
    sum_run(lanes, dots);
    const float masked = v.s.shared() ? -INFINITY : 0.0f;
    ROWTIDE_UNROLL(8)
    for (int i = 0; i < kStepRun; ++i)
        if (from + i < to) put(v.w.negative_coefs + b * v.K + from + i, rows[i] ? dots[i] + rows[i][v.D] : masked);
}

// Event b's scores become coefficients.
ROWTIDE_LANES void ranking_coefs(const StepView& v, int64_t b) {
    float* scores = v.w.negative_coefs + b * v.K;
    const float positive_score = v.w.positive_coefs[b];
    const float weight = v.s.weights ? v.s.weights[v.event + b] : 1.0f;
    const auto is_masked = [&](int64_t k) { return v.is_masked(b, v.slot(v.negative(b, k))); };
    const EventLoss out = v.s.shared() ? softmax_coefs(scores, v.K, positive_score, weight)
                                       : bpr_coefs(scores, v.K, positive_score, weight, is_masked);
    put(v.s.losses + v.event + b, out.loss);
    put(v.w.positive_coefs + b, out.positive_coef);
}

// The scores of the sixteen events from `from` become coefficients.
ROWTIDE_LANES void pointwise_coefs(const StepView& v, int64_t from) {
    const int64_t n = v.B - from, event = v.event + from;
    float* coefs = v.w.positive_coefs + from;
    const V16 weights = v.s.weights ? load(v.s.weights + event, n) : set1(1.0f);
    const PairLosses out = pointwise_coefs(v.s.loss, load(coefs, n), load(v.s.values + event, n), weights);
    store(v.s.losses + event, out.losses, n);
    store(coefs, out.coefs, n);
}

// Floats [from, from + 16 * kQueryBlocks) of the gradient of event b's query.
ROWTIDE_LANES void query_grad(const StepView& v, int64_t b, int64_t from) {
    float* grad = v.w.query_grads + b * padded_dim(v.D) + from;
    const float* positive = v.item(b) + from;
    const float coef = v.w.positive_coefs[b];
    if (v.s.pointwise()) return pointwise_query_grad<kQueryBlocks>(coef, positive, v.D - from, grad);
    const float* coefs = v.w.negative_coefs + b * v.K;
    const auto negatives = [&](auto add) {
        ROWTIDE_UNROLL(8)
        for (int64_t k = 0; k < v.K; ++k) {
            const int64_t r = v.negative(b, k);
            if (v.slot(r) >= 0) add(coefs[k], v.item(r) + from);
        }
    };
    ranking_query_grad<kQueryBlocks>(negatives, coef, positive, v.D - from, grad);
}

// The gradient of a row: segments of 64 terms, each summed in order, then their sums in order. `walk` calls its
// argument for each term with (coefficient, source vector, coefficient of the bias). Returns the bias' gradient.
// update_rows_impl.h sums in the same order; it gathers a segment first, which is faster where rows are far away, but
// would need memory of each thread on a GPU.
template <int64_t kDim, class Walk>
ROWTIDE_LANES float sum_step_terms(const Walk& walk, int64_t dim, Vector<kDim>* grad) {
    const int64_t D = kDim ? kDim : dim;
    const V16 zero = set1(0.0f);
    float bias = 0.0f;
    for (int64_t from = 0; from < D; from += 64) {
        V16 part[4], whole[4];
        float bias_part = 0.0f, bias_whole = 0.0f;
        int64_t terms = 0;
        ROWTIDE_UNROLL(4)
        for (int i = 0; i < 4; ++i) part[i] = whole[i] = zero;
        walk([&](float c, const float* source, float bias_coef) {
            if (terms == 0) {  // a term alone is a product, without the zero that sums begin with
                ROWTIDE_UNROLL(4)
                for (int i = 0; i < 4; ++i) part[i] = mul(set1(c), load(source + from + 16 * i, D - from - 16 * i));
                bias_part = bias_coef;
            } else {
                if (terms == 1) {
                    ROWTIDE_UNROLL(4)
                    for (int i = 0; i < 4; ++i) part[i] = add(part[i], zero);
                    bias_part = 0.0f + bias_part;
                } else if (terms % kSegmentTerms == 0) {
                    ROWTIDE_UNROLL(4)
                    for (int i = 0; i < 4; ++i) {
                        whole[i] = terms == kSegmentTerms ? part[i] : add(whole[i], part[i]);
                        part[i] = zero;
                    }
                    bias_whole += bias_part;
                    bias_part = 0.0f;
                }
                add_scaled<4>(part, c, source + from, D - from);
                bias_part += bias_coef;
            }
            ++terms;
        });
        ROWTIDE_UNROLL(4)
        for (int i = 0; i < 4; ++i)
            if (kDim || from + 16 * i < D)
                grad->set(from + 16 * i, terms > kSegmentTerms ? add(whole[i], part[i]) : part[i], D - from - 16 * i);
        if (from == 0) bias = terms > 1 ? bias_whole + bias_part : bias_part;
    }
    return bias;
}

template <class Term>
ROWTIDE_LANES void walk_item(const StepView& v, int32_t head, const Term& term) {
    const int64_t B = v.B, K = v.K;
    const float *positive = v.w.positive_coefs, *negative = v.w.negative_coefs;
    if (v.s.shared() && v.K) {
        // Each event has a term of each negative, or one of its positive, which masks the row as a negative.
        int32_t as_negative = head;
        while (as_negative >= 0 && as_negative < B) as_negative = v.next(as_negative);
        int32_t as_positive = head;
        for (int64_t b = 0; b < B; ++b) {
            if (as_positive == b) {
                term(positive[b], v.user(b), positive[b]);
                as_positive = v.next(as_positive);
            } else {
                for (int32_t r = as_negative; r >= 0; r = v.next(r)) {
                    const float c = negative[b * K + r - B];
                    term(c, v.user(b), c);
                }
            }
        }
    } else {  // in the order of events already
        for (int32_t r = head; r >= 0; r = v.next(r)) {
            if (r < B) {
                term(positive[r], v.user(r), positive[r]);
            } else {
                const int32_t b = static_cast<int32_t>(r - B) / static_cast<int32_t>(K);
                if (!v.is_masked(b, v.slot(r))) term(negative[r - B], v.user(b), negative[r - B]);
            }
        }
    }
}

template <int64_t kDim>
ROWTIDE_LANES bool step_item(const StepView& v, int32_t head, float* room) {
    Vector<kDim> grad(room);
    const float bias = sum_step_terms<kDim>([&](const auto& term) { walk_item(v, head, term); }, v.D, &grad);
    const OptimizerSettings settings{v.s.optimizer, v.D, v.s.lr, v.s.lr, v.s.l2, true};
    return step_row<kDim>(settings, v.item(head), v.item_home(head), &grad, bias, room + padded_dim(v.D));
}

// A user's step; its vector afterwards is left for the mean.
template <int64_t kDim>
ROWTIDE_LANES bool step_user(const StepView& v, int32_t head, float* room) {
    const int64_t D = kDim ? kDim : v.D;
    const bool pointwise = v.s.pointwise();
    Vector<kDim> grad(room);
    const float bias = sum_step_terms<kDim>(
        [&](const auto& term) {
            for (int32_t b = head; b >= 0; b = v.w.user_links.next[b])
                term(1.0f, v.w.query_grads + b * padded_dim(D), pointwise ? v.w.positive_coefs[b] : 0.0f);
        },
        D, &grad);
    const OptimizerSettings settings{v.s.optimizer, D, v.s.lr, v.s.lr, v.s.l2, pointwise};
    const bool ok = step_row<kDim>(settings, v.user(head), v.user_home(head), &grad, bias, room + padded_dim(D));
    const float* as_it_was = v.user(head);
    for (int32_t b = head; b >= 0; b = v.w.user_links.next[b]) {
        float* to = v.s.vectors + (v.event + b) * D;
        if (ok)
            copy<kDim>(to, grad, D);
        else
            for (int64_t d = 0; d < D; d += 16) store(to + d, load(as_it_was + d, D - d), D - d);
    }
    return ok;
}

// The whole step, by all strands of the team. What came before must be visible to all of them; a step with new users
// also needs the mean. Returns the rows left as they were, of this strand's.
template <int64_t kDim, class Team>
ROWTIDE_LANES int64_t learn_one_step(const Steps& s, int64_t step, const StepSpace& w, const Team& team) {
    const StepView v{s, w, s.first_event(step), s.events(step), s.negatives, kDim ? kDim : s.dim};
    const auto B = static_cast<int32_t>(v.B), references = static_cast<int32_t>(v.references());
    if (s.fresh) {
        for (int32_t b = team.strand; b < B; b += team.strands) {
            if (!s.fresh[v.event + b]) continue;
            float* row = v.user_home(b);
            for (int64_t d = 0; d < v.D; d += 16) {
                const int64_t n = v.D - d;
                store(row + d, add(load(s.mean + d, n), load(row + d, n)), n);
            }
        }
        team.sync();
    }
    if (w.staged) {
        for (int32_t r = team.strand; r < B + references; r += team.strands) {
            if (r < B)
                team.fetch(w.user_images + r * w.image_width, v.user_home(r), s.row_floats);
            else if (v.slot(r - B) >= 0)
                team.fetch(w.item_images + (r - B) * w.image_width, v.item_home(r - B), s.row_floats);
        }
        team.fetched();
        team.sync();
    }

    // Scores: for each event its negatives in runs, then its positive.
    const int32_t K = static_cast<int32_t>(v.K), runs = (K + kStepRun - 1) / kStepRun;
    for (int32_t i = team.strand; i < B * (runs + 1); i += team.strands) {
        const int32_t b = i / (runs + 1), run = i % (runs + 1);
        if (run < runs) {
            score_negatives<kDim>(v, b, run * kStepRun, (run + 1) * kStepRun < K ? (run + 1) * kStepRun : K);
        } else {
            const float* positive = v.item(b);
            float score = dot<kDim>(v.user(b), positive, v.D) + positive[v.D];
            if (s.pointwise()) score += (s.offsets ? s.offsets[v.event + b] : 0.0f) + v.user(b)[v.D];
            put(w.positive_coefs + b, score);
        }
    }
    team.sync();
    if (s.pointwise()) {
        for (int64_t from = 16 * team.strand; from < B; from += 16 * team.strands) pointwise_coefs(v, from);
    } else {
        for (int32_t b = team.strand; b < B; b += team.strands) ranking_coefs(v, b);
    }
    team.sync();

    const int32_t blocks = static_cast<int32_t>((v.D + 16 * kQueryBlocks - 1) / (16 * kQueryBlocks));
    for (int32_t i = team.strand; i < B * blocks; i += team.strands)
        query_grad(v, i / blocks, i % blocks * 16 * kQueryBlocks);
    // Items change in place if they are not staged, and only after every query has had its gradient from them.
    if (!w.staged) team.sync();
    float* room = w.strand_room + team.strand * room_floats(s.optimizer, v.D);
    int64_t skipped = 0;
    // The strands that had a query begin last.
    const int32_t turn = B * blocks % team.strands;
    for (int32_t r = (team.strand + team.strands - turn) % team.strands; r < references; r += team.strands)
        if (v.before(r) != StepLinks::kAgain) skipped += !step_item<kDim>(v, r, room);
    team.sync();
    for (int32_t b = team.strand; b < B; b += team.strands)
        if (w.user_links.before[b] != StepLinks::kAgain) skipped += !step_user<kDim>(v, b, room);
    return skipped;
}

}  // namespace
}  // namespace ISA
