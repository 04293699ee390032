#include "learn/learner.h"

#include <algorithm>
#include <thread>

namespace {
constexpr int64_t kPrefetchRefs = 512;  // a micro-batch of more rows prefetches inside its kernels only
// Rows after which the writer steps aside for whoever waits for its core: a reader that was preempted by it would
// else wait for the whole window, milliseconds. Where nobody waits it costs less than a microsecond.
constexpr int64_t kYieldRefs = 512;

}  // namespace

void Learner::rows_removed() {
    recent.remove([this](uint32_t o) { return o >= catalogue_.size() || !catalogue_.is_shown(o); });
    if (users_.learned) return;
    std::lock_guard lock(users_.mutex());
    std::fill(mean.begin(), mean.end(), 0.0f);
    mean_count = 0;
}

// Sums of squares that a new row begins with, so that its first steps are not its largest.
void Learner::first_sums(const LearnSettings& s, float* row) const {
    if (s.sequence() && s.optimizer == Optimizer::adagrad) row[dim() + 1] = 0.01f, row[dim() + 2] = 0.001f;
}

// New rows are made when their micro-batch comes, from the table state of that moment.
void Learner::make_fresh(const LearnSettings& s, const uint32_t* users, int64_t n_users, const uint32_t* items,
                         int64_t n_items) {
    const int64_t D = dim();
    for (int64_t i = 0; i < n_users; ++i) {
        if (!(users_.flags(users[i]) & Warm::kFresh)) continue;
        std::lock_guard lock(users_.mutex());
        float* row = users_.row(users[i]);
        const int64_t id = users_.meta(users[i]).id;
        for (int64_t d = 0; d < D; ++d) row[d] = mean[static_cast<size_t>(d)] + user_noise(s.seed, id, d);
        first_sums(s, row);
        users_.made(users[i]);
        users_.touch(users[i]);
    }
    for (int64_t i = 0; i < n_items; ++i) {
        if (!(items_.flags(items[i]) & Warm::kFresh)) continue;
        std::lock_guard lock(items_.mutex());
        float* row = items_.row(items[i]);
        const int64_t id = items_.meta(items[i]).id;
        for (int64_t d = 0; d < D; ++d) row[d] = item_noise(s.seed, id, d);
        first_sums(s, row);
        items_.made(items[i]);
        items_.touch(items[i]);
    }
}

void Learner::gather_rows(Warm& table) {
    rows_.resize(static_cast<size_t>(groups_.size()));
    for (int64_t g = 0; g < groups_.size(); ++g)
        rows_[static_cast<size_t>(g)] = table.row(groups_.slot[static_cast<size_t>(g)]);
}

// Terms stand event by event, the positive's before those of its negatives: `per_event` of them. 0: the caller says
// which items the events named.
int64_t Learner::update_items(const UpdateTask& step, int64_t per_event, uint64_t first_seq) {
    gather_rows(items_);
    int64_t skipped = 0;
    const auto slot = [this](int64_t g) { return groups_.slot[static_cast<size_t>(g)]; };
    for (int64_t g = 0; g < groups_.size(); g += kLockRows) {
        const int64_t end = std::min(groups_.size(), g + kLockRows);
        for (int64_t i = end; i < std::min(groups_.size(), end + kLockRows); ++i) items_.prefetch_flags(slot(i));
        {
            std::lock_guard lock(items_.mutex());
            for (int64_t i = g; i < end; ++i) items_.touch(slot(i));
            skipped += kernels().update_groups(step, groups_, g, end, rows_.data(), scratch_.data());
            for (int64_t i = g; i < end; ++i)
                for (uint32_t t = groups_.head[static_cast<size_t>(i)]; t != Groups::kEnd; t = groups_.next[t])
                    if (per_event && t % per_event == 0) items_.meta(slot(i)).named(first_seq + t / per_event);
        }
        // While the rows are in the cache. Readers may see them: the log has the record, synced if the caller wants
        // that.
        uint32_t ordinals[kLockRows];
        for (int64_t i = g; i < end; ++i) ordinals[i - g] = static_cast<uint32_t>(items_.meta(slot(i)).ordinal);
        catalogue_.publish(ordinals, rows_.data() + g, end - g);
    }
    return skipped;
}

// Groups stand in order of their first event, so what an event changes besides the row can follow its group at once,
// while the row is in the cache, and still happens in the order of events.
int64_t Learner::update_users(const LearnSettings& s, const UpdateTask& step, const RecordView& r,
                              const MicroBatch& m) {
    const uint32_t* const users = m.users;
    const int64_t events = m.b1 - m.b0;
    gather_rows(users_);
    int64_t skipped = 0, g = 0;
    const float* vectors[kLockRows];
    float rates[kLockRows];
    for (int64_t from = 0; from < events; from += kLockRows) {
        const int64_t to = std::min(events, from + kLockRows);
        int64_t end = g;
        while (end < groups_.size() && groups_.head[static_cast<size_t>(end)] < to) ++end;
        for (int64_t b = to + kLockRows; b < std::min(events, to + 2 * kLockRows); ++b) history_.prefetch(users[b]);
        for (int64_t b = to; b < std::min(events, to + kLockRows); ++b)
            users_.prefetch_flags(users[b]), history_.prefetch_entries(users[b]);
        history_.prepare();
        std::lock_guard lock(users_.mutex());
        for (int64_t i = g; i < end; ++i) users_.touch(groups_.slot[static_cast<size_t>(i)]);
        skipped += kernels().update_groups(step, groups_, g, end, rows_.data(), scratch_.data());
        g = end;
        for (int64_t b = from; b < to; ++b) history_.prefetch_last(users[b]);
        for (int64_t b = from; b < to; ++b) {
            const uint64_t seq = r.first_seq + static_cast<uint64_t>(m.b0 + b);
            users_.meta(users[b]).named(seq);
            history_.add(users[b], r.items[m.b0 + b], seq, r.moment(m.b0 + b), s.context.session_gap);
            ++mean_count;
            vectors[b - from] = users_.row(users[b]);
            rates[b - from] = mean_rate(static_cast<int64_t>(mean_count));
        }
        kernels().move_mean(mean.data(), vectors, rates, to - from, step.dim);
    }
    return skipped;
}

namespace {
size_t at(int64_t i) { return static_cast<size_t>(i); }
int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }
}  // namespace

// Losses, coefficients and the gradients of queries, at the rows as they are.
void Learner::find_grads(const LearnSettings& s, const RecordView& r, const MicroBatch& m) {
    const int64_t B = m.events(), K = s.negatives, D = dim();
    queries_.resize(at(B));
    positives_.resize(at(B));
    negatives_.resize(at(m.n_negatives));
    losses_.resize(at(B));
    query_grads_.resize(at(B * padded(D)));
    coefs_.resize(at(B + B * K));
    for (int64_t b = 0; b < B; ++b) queries_[at(b)] = users_.row(m.users[b]);
    for (int64_t b = 0; b < B; ++b) positives_[at(b)] = items_.row(m.items[b]);
    const bool pointwise = is_pointwise(s.loss);
    if (pointwise) {
        const float origin = base_score(s.loss, value_sum, value_weight);
        offsets_.resize(at(B));
        for (int64_t b = 0; b < B; ++b) offsets_[at(b)] = origin + queries_[at(b)][D];
    }
    for (int64_t k = 0; k < m.n_negatives; ++k)
        negatives_[at(k)] = m.negatives[k] == kNone ? nullptr : items_.row(m.negatives[k]);
    const LossTask grads{.loss = s.loss,
                         .events = B,
                         .negatives = K,
                         .dim = D,
                         .queries = queries_.data(),
                         .positives = positives_.data(),
                         .negative_rows = negatives_.data(),
                         .weights = r.weights ? r.weights + m.b0 : nullptr,
                         .values = pointwise ? r.values + m.b0 : nullptr,
                         .offsets = pointwise ? offsets_.data() : nullptr,
                         .losses = losses_.data(),
                         .query_grads = query_grads_.data(),
                         .grad_stride = padded(D),
                         .positive_coefs = coefs_.data(),
                         .negative_coefs = coefs_.data() + B};
    kernels().loss_grads(grads);
}

// Term after term of an event, so that its user's vector is found in the cache.
int64_t Learner::step_items(const LearnSettings& s, const MicroBatch& m, uint64_t first_seq) {
    const int64_t B = m.events(), K = s.negatives, terms = B + B * K;
    term_slots_.resize(at(terms));
    term_coefs_.resize(at(terms));
    sources_.resize(at(terms));
    int64_t t = 0;
    for (int64_t b = 0; b < B; ++b) {
        std::fill_n(sources_.begin() + t, 1 + K, queries_[at(b)]);
        term_slots_[at(t)] = m.items[b];
        term_coefs_[at(t++)] = coefs_[at(b)];
        for (int64_t k = 0; k < K; ++k) {
            const uint32_t slot = m.negatives[m.shared ? k : b * K + k];
            term_slots_[at(t)] = slot == m.items[b] ? kNone : slot;
            term_coefs_[at(t++)] = coefs_[at(B + b * K + k)];
        }
    }
    groups_.build(term_slots_.data(), terms);
    const UpdateTask update{s.optimizer, dim(), sources_.data(), term_coefs_.data(), term_coefs_.data(), s.lr,
                            s.lr,        s.l2};
    return update_items(update, 1 + K, first_seq);
}

int64_t Learner::step_users(const LearnSettings& s, const RecordView& r, const MicroBatch& m) {
    const int64_t B = m.events(), D = dim();
    for (int64_t b = 0; b < B; ++b) sources_[at(b)] = query_grads_.data() + b * padded(D);
    term_coefs_.assign(at(B), 1.0f);
    groups_.build(m.users, B);
    // A user's bias adds to the score of a pair; among the items of one user it would rank nothing.
    const float* bias_coefs = is_pointwise(s.loss) ? coefs_.data() : nullptr;
    const UpdateTask update{s.optimizer, D, sources_.data(), term_coefs_.data(), bias_coefs, s.lr, s.lr, s.l2};
    return update_users(s, update, r, m);
}

// One micro-batch: gradients at the rows as they are, then one step of each row, then what else its events touch.
int64_t Learner::learn_batch(const LearnSettings& s, const RecordView& r, int64_t b0, int64_t b1, double* loss) {
    const bool shared = s.loss == Loss::softmax;
    const int64_t first = b0 - begin_, B = b1 - b0, K = s.negatives;
    const MicroBatch m{.b0 = b0,
                       .b1 = b1,
                       .users = user_slots_.data() + first,
                       .items = item_slots_.data() + first,
                       .negatives = negative_slots_.data() + (shared ? first / s.batch_size * K : first * K),
                       .n_negatives = shared ? K : B * K,
                       .shared = shared};
    if (made_users_ + made_items_) make_fresh(s, m.users, B, m.items, B);
    scratch_.resize(at(3 * padded(dim())));
    find_grads(s, r, m);
    for (int64_t b = 0; b < B; ++b) *loss += losses_[at(b)];
    // Items first: their gradients are multiples of the users' vectors as they were.
    int64_t skipped = step_items(s, m, r.first_seq + static_cast<uint64_t>(b0));
    skipped += step_users(s, r, m);
    if (is_pointwise(s.loss)) count_values(r, b0, b1);
    if (!companions_.empty()) learn_companions(r, b0, b1);
    return skipped;
}

void Learner::learn_companions(const RecordView& r, int64_t from, int64_t to) {
    for (const Companion& c : companions_) {
        const int64_t floats = c.table->layout().floats;
        for (int64_t start = from; start < to; start += kLockRows) {
            std::lock_guard lock(c.table->mutex());
            for (int64_t b = start; b < std::min(to, start + kLockRows); ++b) {
                const uint32_t slot = c.slots[at(b - begin_)];
                float* row = c.table->row(slot);
                if (c.table->flags(slot) & Warm::kFresh) {
                    c.rule->make(row, floats, c.table->meta(slot).id);
                    c.table->made(slot);
                }
                c.table->touch(slot);
                const Event event{r.users[b], r.items[b], r.values ? r.values[b] : 1.0f,
                                  r.weights ? r.weights[b] : 1.0f, r.first_seq + static_cast<uint64_t>(b)};
                c.rule->learn(row, floats, event);
                c.table->meta(slot).named(event.seq);
            }
        }
    }
}

void Learner::count_values(const RecordView& r, int64_t b0, int64_t b1) {
    std::lock_guard lock(users_.mutex());
    for (int64_t b = b0; b < b1; ++b) {
        const double weight = r.weights ? r.weights[b] : 1.0;
        value_sum += weight * r.values[b];
        value_weight += weight;
    }
}

float base_score(Loss loss, double value_sum, double value_weight) {
    if (!is_pointwise(loss)) return 0.0f;
    if (loss != Loss::logistic) return value_weight > 0 ? static_cast<float>(value_sum / value_weight) : 0.0f;
    constexpr double kMost = 1e38;  // of what float32 holds
    const double ones = std::min(2 * value_sum + 1, kMost);
    const double zeros = std::min(2 * (value_weight - value_sum) + 1, kMost);
    return kernels().ln(static_cast<float>(ones)) - kernels().ln(static_cast<float>(zeros));
}

Learned Learner::learn(const LearnSettings& s, const RecordView& r) {
    Learned out;
    if (s.sequence()) {
        out.skipped = learn_sequence(s, r, &out.loss);
        end_window(&out);
        return out;
    }
    const int64_t refs = s.loss == Loss::softmax ? s.negatives : s.batch_size * s.negatives;
    const bool ahead = refs + s.batch_size <= kPrefetchRefs;
    int64_t work = 0;
    for (int64_t b0 = begin_; b0 < end_; b0 += s.batch_size) {
        if ((work += refs + s.batch_size) > kYieldRefs) {
            std::this_thread::yield();
            work = 0;
        }
        if (const int64_t next = b0 + s.batch_size; ahead && next < end_) {
            for (int64_t b = next; b < std::min(end_, next + s.batch_size); ++b) {
                users_.prefetch_slot(user_slots_[static_cast<size_t>(b - begin_)]);
                items_.prefetch_slot(item_slots_[static_cast<size_t>(b - begin_)]);
            }
            const auto first = static_cast<size_t>((next - begin_) / s.batch_size * refs);
            for (size_t k = first; k < std::min(first + static_cast<size_t>(refs), negative_slots_.size()); ++k)
                items_.prefetch_slot(negative_slots_[k]);
        }
        out.skipped += learn_batch(s, r, b0, std::min(end_, b0 + s.batch_size), &out.loss);
    }
    end_window(&out);
    return out;
}

void Learner::end_window(Learned* out) {
    catalogue_.show_new();
    out->events = end_ - begin_;
    out->new_users = made_users_;
    out->new_items = made_items_;
    out->cold = fetched_;
    out->warm =
        static_cast<int64_t>(users_.pinned().size() + items_.pinned().size()) - made_users_ - made_items_ - fetched_;
    const auto learned = [](Warm& table) {
        table.learned = table.total.load();
        table.unpin_all();
    };
    learned(users_);
    learned(items_);
    for (const Companion& c : companions_) learned(*c.table);
    made_users_ = made_items_ = fetched_ = 0;
    ready_ = false;
    stand_on(nullptr);
}
