#include "learn/learner.h"

#include <algorithm>
#include <thread>

#include "steps/learn_steps.h"

namespace {
constexpr int64_t kWindowRefs = int64_t{1} << 19;  // references to item rows in a window, at most
constexpr uint64_t kNoOrdinal = UINT64_MAX;
constexpr uint64_t kRedraws = 16;       // of a negative, where a draw hits a gap of the catalogue
constexpr int64_t kPrefetchRefs = 512;  // a micro-batch of more rows prefetches inside its kernels only
// Rows after which the writer steps aside for whoever waits for its core: a reader that was preempted by it would
// else wait for the whole window, milliseconds. Where nobody waits it costs less than a microsecond.
constexpr int64_t kYieldRefs = 512;

}  // namespace

uint32_t Learner::resolve_user(int64_t id) {
    uint32_t slot = users_.find(id);
    if (slot != kNone) {
        users_.pin(slot);
        return slot;
    }
    const bool known_new = users_.complete();
    slot = users_.admit(id, known_new ? Warm::kFresh : Warm::kFetching);
    if (slot == kNone) return kNone;
    if (known_new) {
        ++users_.total;
        ++made_users_;
    } else {
        missing_users.push_back(slot);
    }
    return slot;
}

uint32_t Learner::resolve_ordinal(uint64_t ordinal) {
    uint32_t slot = items_.slot_of_ordinal(ordinal);
    if (slot != kNone) {
        items_.pin(slot);
        return slot;
    }
    slot = items_.admit(catalogue_.id(static_cast<int64_t>(ordinal)), Warm::kFetching);
    if (slot == kNone) return kNone;
    items_.set_ordinal(slot, ordinal);
    missing_items.push_back(slot);
    return slot;
}

uint32_t Learner::resolve_item(int64_t id, int64_t event, uint64_t* known) {
    const uint32_t ordinal = catalogue_.find(id);
    if (ordinal != Catalogue::kNone) {
        if (catalogue_.gaps() && ordinal < catalogue_.size() && !catalogue_.is_shown(ordinal))
            taken_gaps_.try_emplace(ordinal, event);
        *known = std::max<uint64_t>(*known, ordinal + 1);
        return resolve_ordinal(ordinal);
    }
    const uint32_t slot = items_.admit(id, Warm::kFresh);
    if (slot == kNone) return kNone;
    const uint32_t fresh = catalogue_.reserve(id);
    items_.set_ordinal(slot, fresh);
    if (fresh < catalogue_.size()) taken_gaps_.try_emplace(fresh, event);
    *known = std::max<uint64_t>(*known, fresh + 1);
    ++items_.total;
    ++made_items_;
    return slot;
}

// Did an ordinal below those of the micro-batch that begins with `before_event` stand for an item then?
bool Learner::is_item(uint64_t ordinal, int64_t before_event) const {
    const auto o = static_cast<int64_t>(ordinal);
    if (o >= catalogue_.size() || catalogue_.is_shown(o)) return true;
    const auto taken = taken_gaps_.find(ordinal);
    return taken != taken_gaps_.end() && taken->second < before_event;
}

// A draw that hits a gap is repeated, so that many gaps do not mean few negatives.
uint64_t Learner::draw(const LearnSettings& s, uint64_t seq, uint64_t k, uint64_t below, int64_t before_event) const {
    for (uint64_t again = 0; again < kRedraws; ++again) {
        const uint64_t ordinal = draw_below(s.seed, seq, k + (again << 32), below);
        if (is_item(ordinal, before_event)) return ordinal;
    }
    return kNoOrdinal;
}

void Learner::removed(int64_t users, int64_t items) {
    users_.total = learned_users -= users;
    items_.total = learned_items -= items;
    if (learned_users) return;
    std::lock_guard lock(users_.mutex());
    std::fill(mean.begin(), mean.end(), 0.0f);
    mean_count = 0;
}

int64_t Learner::window_steps(const LearnSettings& s) const {
    const int64_t items = items_needed(s);
    return std::max<int64_t>(1, std::min({std::min(users_.capacity(), user_room) / s.batch_size,
                                          std::min(items_.capacity(), item_room) / items, kWindowRefs / items}));
}

bool Learner::may_draw(const LearnSettings& s, int64_t events) const {
    const int64_t most = items_.total + std::min(events, window_steps(s) * s.batch_size);
    return draws_on && s.loss == Loss::softmax && !catalogue_.gaps() &&
           draws_on->size() + made_items_ == items_.total && most <= std::min(items_.capacity(), draws_on->capacity());
}

Learner::Plan Learner::plan(const LearnSettings& s, const RecordView& r, int64_t from) {
    const int64_t B = s.batch_size, K = s.negatives;
    const bool shared = s.loss == Loss::softmax;
    const int64_t end = std::min(r.n, from + window_steps(s) * B);
    const bool drawn = may_draw(s, end - from);
    stand_on(this);
    ready_ = false;
    planned_ = s;
    planned_n_ = r.n;
    begin_ = from;
    end_ = end;
    user_slots_.resize(static_cast<size_t>(end_ - begin_));
    item_slots_.resize(static_cast<size_t>(end_ - begin_));
    negative_slots_.clear();
    known_items.clear();
    taken_gaps_.clear();
    // Items that existed before the window; grows as the window's own come in, also when it is planned again.
    uint64_t known = static_cast<uint64_t>(catalogue_.size());
    constexpr int64_t kAhead = 12;
    for (int64_t b0 = begin_; b0 < end_; b0 += B) {
        const int64_t b1 = std::min(end_, b0 + B);
        const uint64_t before = known;
        for (int64_t b = b0; b < b1; ++b) {
            // Three distances: the index entries, then the ids that they name, then what the slots name.
            if (const int64_t i = b + 3 * kAhead; i < end_)
                users_.prefetch(r.users[i]), catalogue_.prefetch(r.items[i]);
            if (const int64_t i = b + 2 * kAhead; i < end_) {
                users_.prefetch_row(r.users[i]);
                items_.prefetch_ordinal(catalogue_.prefetch_id(r.items[i]));
            }
            if (const int64_t i = b + kAhead; i < end_) {
                users_.prefetch_pin(users_.guess(r.users[i]));
                items_.prefetch_pin(items_.slot_of_ordinal(catalogue_.guess(r.items[i])));
            }
            const uint32_t user = resolve_user(r.users[b]);
            const uint32_t item = resolve_item(r.items[b], b, &known);
            if (user == kNone || item == kNone) return Plan::blocked;
            user_slots_[static_cast<size_t>(b - begin_)] = user;
            item_slots_[static_cast<size_t>(b - begin_)] = item;
        }
        if (drawn) {
            known_items.push_back(static_cast<int64_t>(before));
            continue;
        }
        const auto take_all = before <= static_cast<uint64_t>(K);
        ordinals_.clear();
        for (int64_t b = b0; b < (shared ? b0 + 1 : b1); ++b) {
            const uint64_t seq = r.first_seq + static_cast<uint64_t>(b);
            for (uint64_t k = 0; k < static_cast<uint64_t>(K); ++k) {
                if (!catalogue_.gaps())
                    ordinals_.push_back(static_cast<uint64_t>(
                        negative_ordinal(s.seed, seq, static_cast<int64_t>(k), K, static_cast<int64_t>(before))));
                else if (!take_all)
                    ordinals_.push_back(draw(s, seq, k, before, b0));
                else
                    ordinals_.push_back(k < before && is_item(k, b0) ? k : kNoOrdinal);
                items_.prefetch_ordinal(ordinals_.back());
            }
        }
        const auto draws = static_cast<int64_t>(ordinals_.size());
        for (int64_t d = 0; d < draws; ++d) {
            if (d + kAhead < draws)
                items_.prefetch_pin(items_.slot_of_ordinal(ordinals_[static_cast<size_t>(d + kAhead)]));
            const uint64_t ordinal = ordinals_[static_cast<size_t>(d)];
            const uint32_t slot = ordinal == kNoOrdinal ? kNone : resolve_ordinal(ordinal);
            if (slot == kNone && ordinal != kNoOrdinal) return Plan::blocked;
            negative_slots_.push_back(slot);
        }
    }
    fetched_ += static_cast<int64_t>(missing_users.size() + missing_items.size());
    ready_ = missing_users.empty() && missing_items.empty();
    return ready_ ? Plan::ready : Plan::fetch;
}

bool Learner::delivered() {
    for (uint32_t slot : missing_users) {
        if (!(users_.flags(slot) & Warm::kFetching)) continue;
        ++users_.total;  // before the row counts as here: a reader must not take the table for complete
        users_.mark(slot, Warm::kFresh);
        ++made_users_;
        --fetched_;
    }
    const bool whole = std::none_of(missing_items.begin(), missing_items.end(),
                                    [this](uint32_t slot) { return items_.flags(slot) & Warm::kFetching; });
    missing_users.clear();
    missing_items.clear();
    return whole;
}

// New rows are made when their micro-batch comes, from the table state of that moment.
void Learner::make_fresh(const LearnSettings& s, const uint32_t* users, int64_t n_users, const uint32_t* items,
                         int64_t n_items) {
    const int64_t D = users_.layout().dim;
    for (int64_t i = 0; i < n_users; ++i) {
        if (!(users_.flags(users[i]) & Warm::kFresh)) continue;
        std::lock_guard lock(users_.mutex());
        float* row = users_.row(users[i]);
        const int64_t id = users_.meta(users[i]).id;
        for (int64_t d = 0; d < D; ++d) row[d] = mean[static_cast<size_t>(d)] + user_noise(s.seed, id, d);
        users_.made(users[i]);
        users_.touch(users[i]);
    }
    for (int64_t i = 0; i < n_items; ++i) {
        if (!(items_.flags(items[i]) & Warm::kFresh)) continue;
        std::lock_guard lock(items_.mutex());
        float* row = items_.row(items[i]);
        const int64_t id = items_.meta(items[i]).id;
        for (int64_t d = 0; d < D; ++d) row[d] = item_noise(s.seed, id, d);
        items_.made(items[i]);
        items_.touch(items[i]);
    }
}

void Learner::gather_rows(Warm& table) {
    rows_.resize(static_cast<size_t>(groups_.size()));
    for (int64_t g = 0; g < groups_.size(); ++g)
        rows_[static_cast<size_t>(g)] = table.row(groups_.slot[static_cast<size_t>(g)]);
}

// Terms stand event by event, the positive's before those of its negatives: `per_event` of them.
int64_t Learner::update_items(const UpdateStep& step, int64_t per_event, uint64_t first_seq) {
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
                    if (t % per_event == 0) items_.meta(slot(i)).named(first_seq + t / per_event);
        }
        // While the rows are in the cache. Only rows of durable records come here, so readers may see them.
        uint32_t ordinals[kLockRows];
        for (int64_t i = g; i < end; ++i) ordinals[i - g] = static_cast<uint32_t>(items_.meta(slot(i)).ordinal);
        catalogue_.publish(ordinals, rows_.data() + g, end - g);
    }
    return skipped;
}

// Groups stand in order of their first event, so what an event changes besides the row can follow its group at once,
// while the row is in the cache, and still happens in the order of events.
int64_t Learner::update_users(const UpdateStep& step, const uint32_t* users, const int64_t* items, int64_t events,
                              uint64_t first_seq) {
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
            const uint64_t seq = first_seq + static_cast<uint64_t>(b);
            users_.meta(users[b]).named(seq);
            history_.add(users[b], items[b], seq);
            ++mean_count;
            vectors[b - from] = users_.row(users[b]);
            rates[b - from] = mean_rate(static_cast<int64_t>(mean_count));
        }
        kernels().move_mean(mean.data(), vectors, rates, to - from, step.dim);
    }
    return skipped;
}

// One micro-batch, events [b0, b1) of the record: gradients at the rows as they are, then one step of each row.
int64_t Learner::step(const LearnSettings& s, const RecordView& r, int64_t b0, int64_t b1, double* loss) {
    const int64_t B = b1 - b0, K = s.negatives, D = users_.layout().dim, stride = (D + 15) / 16 * 16;
    const bool shared = s.loss == Loss::softmax;
    const int64_t n_negatives = shared ? K : B * K;
    const uint32_t* users = user_slots_.data() + (b0 - begin_);
    const uint32_t* items = item_slots_.data() + (b0 - begin_);
    const uint32_t* negatives =
        negative_slots_.data() + (shared ? (b0 - begin_) / s.batch_size * K : (b0 - begin_) * K);
    if (made_users_ + made_items_) make_fresh(s, users, B, items, B);
    const auto at = [](int64_t i) { return static_cast<size_t>(i); };
    queries_.resize(at(B));
    positives_.resize(at(B));
    negatives_.resize(at(n_negatives));
    losses_.resize(at(B));
    query_grads_.resize(at(B * stride));
    scratch_.resize(at(3 * stride));
    coefs_.resize(at(B + B * K));
    for (int64_t b = 0; b < B; ++b) queries_[at(b)] = users_.row(users[b]);
    for (int64_t b = 0; b < B; ++b) positives_[at(b)] = items_.row(items[b]);
    const bool pointwise = is_pointwise(s.loss);
    if (pointwise) {
        const float origin = base_score(s.loss, value_sum, value_weight);
        offsets_.resize(at(B));
        for (int64_t b = 0; b < B; ++b) offsets_[at(b)] = origin + queries_[at(b)][D];
    }
    for (int64_t k = 0; k < n_negatives; ++k) {
        negatives_[at(k)] = negatives[k] == kNone ? nullptr : items_.row(negatives[k]);
    }
    const LossStep grads{.events = B,
                         .negatives = K,
                         .dim = D,
                         .queries = queries_.data(),
                         .positives = positives_.data(),
                         .negative_rows = negatives_.data(),
                         .weights = r.weights ? r.weights + b0 : nullptr,
                         .values = pointwise ? r.values + b0 : nullptr,
                         .offsets = pointwise ? offsets_.data() : nullptr,
                         .losses = losses_.data(),
                         .query_grads = query_grads_.data(),
                         .grad_stride = stride,
                         .positive_coefs = coefs_.data(),
                         .negative_coefs = coefs_.data() + B};
    kernels().grads[static_cast<int>(s.loss)](grads);
    for (int64_t b = 0; b < B; ++b) *loss += losses_[at(b)];

    // Items first: their gradients are multiples of the users' vectors as they were.
    // Term after term of an event, so that its user's vector is found in the cache.
    const int64_t terms = B + B * K;
    term_slots_.resize(at(terms));
    term_coefs_.resize(at(terms));
    sources_.resize(at(terms));
    int64_t t = 0;
    for (int64_t b = 0; b < B; ++b) {
        std::fill_n(sources_.begin() + t, 1 + K, queries_[at(b)]);
        term_slots_[at(t)] = items[b];
        term_coefs_[at(t++)] = coefs_[at(b)];
        for (int64_t k = 0; k < K; ++k) {
            const uint32_t slot = negatives[shared ? k : b * K + k];
            term_slots_[at(t)] = slot == items[b] ? kNone : slot;
            term_coefs_[at(t++)] = coefs_[at(B + b * K + k)];
        }
    }
    groups_.build(term_slots_.data(), terms);
    const uint64_t first_seq = r.first_seq + static_cast<uint64_t>(b0);
    UpdateStep update{s.optimizer, D, sources_.data(), term_coefs_.data(), term_coefs_.data(), s.lr, s.l2};
    int64_t skipped = update_items(update, 1 + K, first_seq);

    for (int64_t b = 0; b < B; ++b) sources_[at(b)] = query_grads_.data() + b * stride;
    // A user's bias adds to the score of a pair; among the items of one user it would rank nothing.
    term_coefs_.assign(at(B), 1.0f);
    groups_.build(users, B);
    update.coefs = term_coefs_.data();
    update.bias_coefs = pointwise ? coefs_.data() : nullptr;
    skipped += update_users(update, users, r.items + b0, B, first_seq);
    if (pointwise) count_values(r, b0, b1);
    return skipped;
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
    if (loss == Loss::squared) return value_weight > 0 ? static_cast<float>(value_sum / value_weight) : 0.0f;
    if (loss != Loss::logistic) return 0.0f;
    constexpr double kMost = 1e38;  // of what float32 holds
    const double ones = std::min(2 * value_sum + 1, kMost);
    const double zeros = std::min(2 * (value_weight - value_sum) + 1, kMost);
    return kernels().ln(static_cast<float>(ones)) - kernels().ln(static_cast<float>(zeros));
}

Learned Learner::learn(const LearnSettings& s, const RecordView& r) {
    Learned out;
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
        out.skipped += step(s, r, b0, std::min(end_, b0 + s.batch_size), &out.loss);
    }
    end_window(&out);
    return out;
}

void Learner::end_window(Learned* out) {
    catalogue_.show_all();
    learned_users = users_.total;
    learned_items = items_.total;
    out->events = end_ - begin_;
    out->new_users = made_users_;
    out->new_items = made_items_;
    out->cold = fetched_;
    out->warm =
        static_cast<int64_t>(users_.pinned().size() + items_.pinned().size()) - made_users_ - made_items_ - fetched_;
    users_.unpin_all();
    items_.unpin_all();
    made_users_ = made_items_ = fetched_ = 0;
    ready_ = false;
    stand_on(nullptr);
}
