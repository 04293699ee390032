// Micro-batches whose steps look at what the user has had: one event's step is
//
//     q     = alpha * u + sum of a[r] * v of the user's r-th latest item
//     score = q . v_i + b_i + what it is worth to have had item i + log of the weight of i as a negative
//
// and the softmax of the positive's score over those of its negatives. Inside a session there are two views, half of
// the loss each: as it is, and as if the session's items had not been. docs/how-it-works/sequence-model.md has the
// formulas and where they come from. Vectors and biases are as of the micro-batch's start, histories as of the event.
#include <algorithm>

#include "learn/learner.h"

namespace {
constexpr uint64_t kRecentDraws = uint64_t{1} << 20, kOwnDraws = uint64_t{1} << 21;  // beside those over all items
constexpr float kBiasRate = 2.5f, kUserRate = 0.3f;                                  // beside that of items
size_t at(int64_t i) { return static_cast<size_t>(i); }
int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

// ln x of any x > 0 that is not small: the kernels' is for x >= 1.
float ln_of(float x) { return x >= 1.0f ? kernels().ln(x) : -kernels().ln(1.0f / x); }
}  // namespace

// --- planning: what can be known before a vector is read

Learner::Plan Learner::plan_sequence(const LearnSettings& s, const RecordView& r, int64_t from) {
    begin_window(s, r, from, std::min(r.n, from + s.batch_size));
    sequence_.events.clear();
    sequence_.entries.clear();
    sequence_.slots.clear();
    sequence_.before_slots.clear();
    sequence_.log_weights.clear();
    sequence_.bag_slots.clear();
    sequence_.bag_weights.clear();
    sequence_.features.clear();
    sequence_.feature_ends.clear();
    uint64_t known = static_cast<uint64_t>(catalogue_.size());
    const uint64_t before = known;
    for (int64_t b = begin_; b < end_; ++b) {
        prefetch_plan(r, b);
        if (!plan_event(r, b, &known)) return Plan::blocked;
    }
    if (missing_users.empty())  // else histories are still to come
        for (int64_t b = begin_; b < end_; ++b)
            if (!plan_views(s, r, b, before)) return Plan::blocked;
    fetched_ += std::ssize(missing_users) + std::ssize(missing_items);
    ready_ = missing_users.empty() && missing_items.empty() &&
             std::all_of(companions_.begin(), companions_.end(), [](const Companion& c) { return c.missing.empty(); });
    return ready_ ? Plan::ready : Plan::fetch;
}

// What event b sees of its user, and the rows that its step needs. False: no room for one of them.
bool Learner::plan_views(const LearnSettings& s, const RecordView& r, int64_t b, uint64_t before) {
    SequencePlan& p = sequence_;
    const uint32_t user = user_slots_[at(b - begin_)];
    p.later.clear();
    for (int64_t i = begin_; i < b; ++i)
        if (user_slots_[at(i - begin_)] == user) p.later.push_back(p.entries[at(i - begin_)]);
    context_.look(s.context, history_.view(user), p.later, r.moment(b));
    const uint64_t seq = r.first_seq + static_cast<uint64_t>(b);
    p.entries.push_back(History::entry_of(context_.last(), context_.had(r.items[b]), r.items[b], seq, r.moment(b),
                                          s.context.session_gap));

    bool known = true;
    SequencePlan::Event e{};
    const HistoryEntry* last = context_.last();
    e.known = !context_.had(r.items[b]) && (last ? last->place() : 0) >= static_cast<uint64_t>(s.gate_events);
    e.before = static_cast<uint32_t>(p.before_slots.size());
    if (!plan_near(r.items[b], &known)) return false;
    if (!known) return true;  // rows that are still to come say what else is needed
    e.before_end = static_cast<uint32_t>(p.before_slots.size());
    e.candidates = static_cast<uint32_t>(p.slots.size());
    p.had.clear();
    p.near.clear();
    if (!add_candidate(item_slots_[at(b - begin_)], context_.had(r.items[b]), near_.share(r.items[b]), 0.0f) ||
        !plan_candidates(s, seq, b, before))
        return false;
    e.end = static_cast<uint32_t>(p.slots.size());

    const int views = context_.inside() ? 2 : 1;
    for (int i = 0; i < views; ++i) {
        const UserView seen = context_.view(i == 0 && context_.inside());
        SequencePlan::View& v = e.view[at(i)];
        v.alpha = seen.alpha;
        v.share = views == 2 ? 0.5f : 1.0f;
        v.bag = static_cast<uint32_t>(p.bag_slots.size());
        for (size_t rank = 0; rank < seen.bag.size(); ++rank) {
            const uint32_t ordinal = catalogue_.find(seen.bag[rank]->item);
            if (ordinal == Catalogue::kNone) continue;  // it has left
            const uint32_t slot = resolve_ordinal(ordinal);
            if (slot == kNone) return false;
            p.bag_slots.push_back(slot);
            p.bag_weights.push_back(seen.bag_weight(rank));
        }
        v.bag_end = static_cast<uint32_t>(p.bag_slots.size());
        v.features = static_cast<uint32_t>(p.feature_ends.size());
        for (size_t k = 0; k < p.had.size(); ++k) {
            if (p.had[k]) context_.worth(*p.had[k], seen, &p.features);
            if (seen.inside) Context::worth_near(p.near[k], &p.features);
            p.feature_ends.push_back(static_cast<uint32_t>(p.features.size()));
        }
    }
    e.views = views;
    p.events.push_back(e);
    return true;
}

// What is near to the user's latest items, and the rows that an event of `item` makes it a neighbour in. False: no room
// for one of their rows; `known` becomes false where one is still to come.
bool Learner::plan_near(int64_t item, bool* known) {
    near_.clear();
    for (int64_t source : context_.sources()) {
        const uint32_t ordinal = catalogue_.find(source);
        if (ordinal == Catalogue::kNone) continue;  // it has left
        const uint32_t slot = resolve_ordinal(ordinal);
        if (slot == kNone) return false;
        if (items_.flags(slot) & Warm::kFetching)
            *known = false;
        else
            near_.add(neighbours_of(slot));
    }
    near_.finish();
    for (int64_t source : context_.before(item)) {
        const uint32_t ordinal = catalogue_.find(source);
        if (ordinal == Catalogue::kNone) continue;
        const uint32_t slot = resolve_ordinal(ordinal);
        if (slot == kNone) return false;
        sequence_.before_slots.push_back(slot);
    }
    return true;
}

bool Learner::add_candidate(uint32_t slot, const HistoryEntry* had, float near, float log_weight) {
    if (slot == kNone) return false;
    sequence_.slots.push_back(slot);
    sequence_.had.push_back(had);
    sequence_.near.push_back(near);
    sequence_.log_weights.push_back(log_weight);
    return true;
}

// The negatives of event b: over all items, over the latest events, and of what the user has had or is near. Each
// stands for as many as it is drawn too rarely, so that the sum over them is that over all items. Jean, Cho, Memisevic,
// Bengio 2015.
bool Learner::plan_candidates(const LearnSettings& s, uint64_t seq, int64_t b, uint64_t before) {
    const uint32_t positive = item_slots_[at(b - begin_)];
    std::vector<Near::Item>& more = sequence_.near_alone;
    more.clear();
    for (const Near::Item& near : near_.items())
        if (s.own_negatives && !context_.had(near.id)) more.push_back(near);
    const auto all = static_cast<float>(before), ring = static_cast<float>(recent.size());
    const auto uniform = static_cast<float>(s.negatives), popular = static_cast<float>(s.recent_negatives);
    const auto add = [&](uint64_t ordinal) {
        const uint32_t slot = resolve_ordinal(ordinal);
        if (slot == kNone) return false;
        if (slot == positive) return true;
        const int64_t item = items_.meta(slot).id;
        const HistoryEntry* had = context_.had(item);
        const float near = near_.share(item);
        if (s.own_negatives && (had || near > 0)) return true;  // drawn below
        const float drawn =
            uniform / all +
            (ring > 0 ? popular * static_cast<float>(recent.times(static_cast<uint32_t>(ordinal))) / ring : 0.0f);
        return add_candidate(slot, had, near, -ln_of(drawn));
    };
    for (uint64_t k = 0; before && k < static_cast<uint64_t>(s.negatives); ++k) {
        const uint64_t ordinal = draw(s, seq, k, before, begin_);
        if (ordinal != kNoOrdinal && !add(ordinal)) return false;
    }
    for (uint64_t k = 0; recent.size() && k < static_cast<uint64_t>(s.recent_negatives); ++k) {
        const uint32_t ordinal = recent.at(draw_below(s.seed, seq, kRecentDraws + k, recent.size()));
        if (ordinal != RecentItems::kGone && !add(ordinal)) return false;
    }
    const auto all_had = static_cast<uint64_t>(context_.count()), count = all_had + more.size();
    const auto most = static_cast<uint64_t>(s.own_negatives);
    const bool every = count <= most;
    const float log_weight = every ? 0.0f : ln_of(static_cast<float>(count) / static_cast<float>(most));
    for (uint64_t k = 0; k < std::min(count, most); ++k) {
        const uint64_t i = every ? k : draw_below(s.seed, seq, kOwnDraws + k, count);
        const HistoryEntry* had = i < all_had ? context_.had_at(static_cast<int64_t>(i)) : nullptr;
        const int64_t item = had ? had->item : more[i - all_had].id;
        const uint32_t ordinal = catalogue_.find(item);
        if (ordinal == Catalogue::kNone) continue;
        const uint32_t slot = resolve_ordinal(ordinal);
        const float near = had ? near_.share(item) : more[i - all_had].share;
        if (slot != positive && !add_candidate(slot, had, near, log_weight)) return false;
    }
    return true;
}

// --- learning

int64_t Learner::learn_sequence(const LearnSettings& s, const RecordView& r, double* loss) {
    const int64_t B = end_ - begin_;
    const MicroBatch m{.b0 = begin_,
                       .b1 = end_,
                       .users = user_slots_.data(),
                       .items = item_slots_.data(),
                       .negatives = nullptr,
                       .n_negatives = 0,
                       .shared = false};
    if (made_users_ + made_items_) make_fresh(s, m.users, B, m.items, B);
    scratch_.resize(at(3 * padded(dim())));
    find_sequence_grads(s, r);
    for (int64_t b = 0; b < B; ++b) *loss += losses_[at(b)];
    const uint64_t first = r.first_seq + static_cast<uint64_t>(begin_), last = first + static_cast<uint64_t>(B) - 1;
    int64_t skipped = step_sequence_items(s, r);
    if (s.context.neighbours) learn_neighbours(r);

    sources_.resize(at(B));
    for (int64_t b = 0; b < B; ++b) sources_[at(b)] = user_grads_.data() + b * padded(dim());
    term_coefs_.assign(at(B), 1.0f);
    groups_.build(m.users, B);
    const UpdateTask update{s.optimizer, dim(), sources_.data(), term_coefs_.data(), nullptr, kUserRate * s.lr,
                            0,           s.l2};
    skipped += update_users(s, update, r, m);
    for (int64_t b = 0; b < B; ++b) recent.add(static_cast<uint32_t>(items_.meta(item_slots_[at(b)]).ordinal));
    {
        std::lock_guard lock(users_.mutex());
        global.step_if_due(first - 1, last, s.lr);
        for (int64_t b = begin_; r.times && b < end_; ++b) clock.push_back(r.times[b]);
        if (clock.size() > kMostClock) clock.erase(clock.begin(), clock.end() - kMostClock);
    }
    if (!companions_.empty()) learn_companions(r, begin_, end_);
    return skipped;
}

// Losses, the coefficient of each candidate, and the gradients of queries, users and global weights, at the rows as
// they are.
void Learner::find_sequence_grads(const LearnSettings& s, const RecordView& r) {
    const int64_t B = end_ - begin_, D = dim();
    losses_.resize(at(B));
    queries_of_views_.resize(at(2 * B * padded(D)));
    query_grads_.resize(at(2 * B * padded(D)));
    user_grads_.resize(at(B * padded(D)));
    coefs_.resize(2 * sequence_.slots.size());
    for (int64_t b = 0; b < B; ++b) losses_[at(b)] = learn_views(s, b, r.weights ? r.weights[begin_ + b] : 1.0f);
}

float Learner::learn_views(const LearnSettings&, int64_t b, float weight) {
    const SequencePlan& p = sequence_;
    const SequencePlan::Event& e = p.events[at(b)];
    const int64_t D = dim(), n = e.end - e.candidates;
    const float* user = users_.row(user_slots_[at(b)]);
    negatives_.clear();
    for (uint32_t c = e.candidates; c < e.end; ++c) negatives_.push_back(items_.row(p.slots[c]));
    float loss = 0.0f, alphas[2];
    const float* grads[2];
    for (int i = 0; i < e.views; ++i) {
        const SequencePlan::View& v = e.view[at(i)];
        float* const query = queries_of_views_.data() + (2 * b + i) * padded(D);
        float* const grad = query_grads_.data() + (2 * b + i) * padded(D);
        float* const scores = coefs_.data() + 2 * e.candidates + i * n;

        positives_.assign(1, user);
        term_coefs_.assign(1, global[v.alpha]);
        for (uint32_t k = v.bag; k < v.bag_end; ++k) {
            positives_.push_back(items_.row(p.bag_slots[k]));
            term_coefs_.push_back(global[p.bag_weights[k]]);
        }
        kernels().pool_bag(positives_.data(), term_coefs_.data(), std::ssize(positives_), D, query);
        kernels().dots(query, negatives_.data(), n, D, scores);
        uint32_t feature = v.features ? p.feature_ends[v.features - 1] : 0;
        for (int64_t k = 0; k < n; ++k) {
            float worth = 0.0f;
            for (; feature < p.feature_ends[v.features + at(k)]; ++feature)
                worth += global[p.features[feature].at] * p.features[feature].x;
            scores[k] = scores[k] + negatives_[at(k)][D] + worth + p.log_weights[e.candidates + at(k)];
        }
        loss += kernels().softmax(scores + 1, n - 1, scores, weight * v.share);

        kernels().pool_bag(negatives_.data(), scores, n, D, grad);
        feature = v.features ? p.feature_ends[v.features - 1] : 0;
        for (int64_t k = 0; k < n; ++k)
            for (; feature < p.feature_ends[v.features + at(k)]; ++feature)
                global.add(p.features[feature].at, scores[k] * p.features[feature].x);
        dots_.resize(positives_.size());
        kernels().dots(grad, positives_.data(), std::ssize(positives_), D, dots_.data());
        global.add(v.alpha, dots_[0]);
        for (uint32_t k = v.bag; k < v.bag_end; ++k) global.add(p.bag_weights[k], dots_[1 + k - v.bag]);
        alphas[i] = global[v.alpha];
        grads[i] = grad;
    }
    kernels().pool_bag(grads, alphas, e.views, D, user_grads_.data() + b * padded(D));
    return loss;
}

// The terms of an item, in the order of events: of each view as a candidate, then as one of the latest items.
int64_t Learner::step_sequence_items(const LearnSettings& s, const RecordView& r) {
    const SequencePlan& p = sequence_;
    const int64_t D = dim();
    term_slots_.clear();
    term_coefs_.clear();
    bias_coefs_.clear();
    sources_.clear();
    const auto add = [this](uint32_t slot, float coef, float bias_coef, const float* source) {
        term_slots_.push_back(slot);
        term_coefs_.push_back(coef);
        bias_coefs_.push_back(bias_coef);
        sources_.push_back(source);
    };
    for (int64_t b = 0; b < end_ - begin_; ++b) {
        const SequencePlan::Event& e = p.events[at(b)];
        const int64_t n = e.end - e.candidates;
        for (int64_t k = 0; k < n; ++k)
            for (int i = 0; i < e.views; ++i) {
                const float coef = coefs_[at(2 * e.candidates + i * n + k)];
                add(p.slots[e.candidates + at(k)], coef, coef, queries_of_views_.data() + (2 * b + i) * padded(D));
            }
        for (int i = 0; i < e.views; ++i)
            for (uint32_t k = e.view[at(i)].bag; k < e.view[at(i)].bag_end; ++k)
                add(p.bag_slots[k], global[p.bag_weights[k]], 0.0f, query_grads_.data() + (2 * b + i) * padded(D));
    }
    groups_.build(term_slots_.data(), std::ssize(term_slots_));
    const UpdateTask update{s.optimizer,        D,    sources_.data(),  term_coefs_.data(),
                            bias_coefs_.data(), s.lr, kBiasRate * s.lr, s.l2};
    const int64_t skipped = update_items(update, 0, 0);
    std::lock_guard lock(items_.mutex());
    for (int64_t b = begin_; b < end_; ++b) {
        RowMeta& item = items_.meta(item_slots_[at(b - begin_)]);
        item.named(r.first_seq + static_cast<uint64_t>(b));
        if (!p.events[at(b - begin_)].known || item.users == UINT32_MAX) continue;
        catalogue_.had_by(static_cast<uint32_t>(item.ordinal), ++item.users);
    }
    return skipped;
}

// After the step of the micro-batch, in the order of events.
void Learner::learn_neighbours(const RecordView& r) {
    std::lock_guard lock(items_.mutex());
    for (int64_t b = begin_; b < end_; ++b) {
        const SequencePlan::Event& e = sequence_.events[at(b - begin_)];
        float by = r.weights ? r.weights[b] : 1.0f;
        for (uint32_t k = e.before; k < e.before_end; ++k, by *= Neighbours::kFurther) {
            items_.touch(sequence_.before_slots[k]);
            neighbours_of(sequence_.before_slots[k]).add(r.items[b], by);
        }
    }
}
