// Planning a window: every id and every draw becomes a slot, rows that are in LMDB are asked for, new ones counted.
#include <algorithm>

#include "learn/learner.h"

namespace {
constexpr int64_t kWindowRefs = int64_t{1} << 19;  // references to item rows in a window, at most
constexpr uint64_t kRedraws = 16;                  // of a negative, where a draw hits a gap of the catalogue
constexpr int64_t kAhead = 12;                     // events, or draws, between prefetching and use
}  // namespace

// The slot of a row that may be anywhere, or be new: every table but that of items, whose ids the catalogue knows.
uint32_t Learner::resolve(Warm& table, int64_t id, std::vector<uint32_t>* missing, int64_t* made) {
    uint32_t slot = table.find(id);
    if (slot != kNone) {
        table.pin(slot);
        return slot;
    }
    const bool known_new = table.complete();
    slot = table.admit(id, known_new ? Warm::kFresh : Warm::kFetching);
    if (slot == kNone) return kNone;
    if (known_new) {
        ++table.total;
        ++*made;
    } else {
        missing->push_back(slot);
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

int64_t Learner::window_steps(const LearnSettings& s) const {
    const int64_t items = items_needed(s);
    int64_t steps = std::min({std::min(users_.capacity(), user_room) / s.batch_size,
                              std::min(items_.capacity(), item_room) / items, kWindowRefs / items});
    for (const Companion& c : companions_)
        if (c.keyed_by != KeyedBy::one) steps = std::min(steps, c.table->capacity() / s.batch_size);
    return std::max<int64_t>(1, steps);
}

bool Learner::may_draw(const LearnSettings& s, int64_t events) const {
    const int64_t most = items_.total + std::min(events, window_steps(s) * s.batch_size);
    return draws_on && s.loss == Loss::softmax && !s.sequence() && !catalogue_.gaps() &&
           draws_on->size() + made_items_ == items_.total && most <= std::min(items_.capacity(), draws_on->capacity());
}

void Learner::begin_window(const LearnSettings& s, const RecordView& r, int64_t from, int64_t end) {
    stand_on(this);
    ready_ = false;
    planned_ = s;
    planned_n_ = r.n;
    begin_ = from;
    end_ = end;
    user_slots_.resize(static_cast<size_t>(end_ - begin_));
    item_slots_.resize(static_cast<size_t>(end_ - begin_));
    negative_slots_.clear();
    for (Companion& c : companions_) c.slots.clear();
    known_items.clear();
    taken_gaps_.clear();
}

// Three distances: the index entries, then the ids that they name, then what the slots name.
void Learner::prefetch_plan(const RecordView& r, int64_t b) const {
    if (const int64_t i = b + 3 * kAhead; i < end_) users_.prefetch(r.users[i]), catalogue_.prefetch(r.items[i]);
    if (const int64_t i = b + 2 * kAhead; i < end_) {
        users_.prefetch_row(r.users[i]);
        items_.prefetch_ordinal(catalogue_.prefetch_id(r.items[i]));
    }
    if (const int64_t i = b + kAhead; i < end_) {
        users_.prefetch_pin(users_.guess(r.users[i]));
        items_.prefetch_pin(items_.slot_of_ordinal(catalogue_.guess(r.items[i])));
    }
}

// The rows that event b names. False: no room for one of them.
bool Learner::plan_event(const RecordView& r, int64_t b, uint64_t* known) {
    const uint32_t user = resolve(users_, r.users[b], &missing_users, &made_users_);
    const uint32_t item = resolve_item(r.items[b], b, known);
    if (user == kNone || item == kNone) return false;
    user_slots_[static_cast<size_t>(b - begin_)] = user;
    item_slots_[static_cast<size_t>(b - begin_)] = item;
    for (Companion& c : companions_) {
        int64_t made = 0;
        const uint32_t slot = resolve(*c.table, c.id_of(r.users[b], r.items[b]), &c.missing, &made);
        if (slot == kNone) return false;
        c.slots.push_back(slot);
    }
    return true;
}

// The negatives of the micro-batch that begins with event b0; `before`: the items that there were. False: no room.
bool Learner::plan_negatives(const LearnSettings& s, const RecordView& r, int64_t b0, uint64_t before) {
    const int64_t b1 = std::min(end_, b0 + s.batch_size), K = s.negatives;
    const bool shared = s.loss == Loss::softmax, take_all = before <= static_cast<uint64_t>(K);
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
        if (d + kAhead < draws) items_.prefetch_pin(items_.slot_of_ordinal(ordinals_[static_cast<size_t>(d + kAhead)]));
        const uint64_t ordinal = ordinals_[static_cast<size_t>(d)];
        const uint32_t slot = ordinal == kNoOrdinal ? kNone : resolve_ordinal(ordinal);
        if (slot == kNone && ordinal != kNoOrdinal) return false;
        negative_slots_.push_back(slot);
    }
    return true;
}

Learner::Plan Learner::plan(const LearnSettings& s, const RecordView& r, int64_t from) {
    if (s.sequence()) return plan_sequence(s, r, from);
    const int64_t end = std::min(r.n, from + window_steps(s) * s.batch_size);
    const bool drawn = may_draw(s, end - from);
    begin_window(s, r, from, end);
    // Items that existed before the window; grows as the window's own come in, also when it is planned again.
    uint64_t known = static_cast<uint64_t>(catalogue_.size());
    for (int64_t b0 = begin_; b0 < end_; b0 += s.batch_size) {
        const uint64_t before = known;
        for (int64_t b = b0; b < std::min(end_, b0 + s.batch_size); ++b) {
            prefetch_plan(r, b);
            if (!plan_event(r, b, &known)) return Plan::blocked;
        }
        if (drawn)
            known_items.push_back(static_cast<int64_t>(before));
        else if (!plan_negatives(s, r, b0, before))
            return Plan::blocked;
    }
    fetched_ += static_cast<int64_t>(missing_users.size() + missing_items.size());
    ready_ = missing_users.empty() && missing_items.empty() &&
             std::all_of(companions_.begin(), companions_.end(), [](const Companion& c) { return c.missing.empty(); });
    return ready_ ? Plan::ready : Plan::fetch;
}

bool Learner::delivered() {
    const auto make_rest = [](Warm& table, std::vector<uint32_t>* missing) {
        int64_t made = 0;
        for (uint32_t slot : *missing) {
            if (!(table.flags(slot) & Warm::kFetching)) continue;
            ++table.total;  // before the row counts as here: a reader must not take the table for complete
            table.mark(slot, Warm::kFresh);
            ++made;
        }
        missing->clear();
        return made;
    };
    const int64_t made = make_rest(users_, &missing_users);
    made_users_ += made;
    fetched_ -= made;
    for (Companion& c : companions_) make_rest(*c.table, &c.missing);
    const bool whole = std::none_of(missing_items.begin(), missing_items.end(),
                                    [this](uint32_t slot) { return items_.flags(slot) & Warm::kFetching; });
    missing_items.clear();
    return whole;
}
