// A window that is learned on a device: what the host does before and after. The arithmetic is the device's; what is
// random in new rows, what events name, histories and table states are as in learner.cpp.
#include <algorithm>
#include <stdexcept>
#include <unordered_set>

#include "learn/learner.h"

void Learner::fill_fresh(const LearnSettings& s) {
    const int64_t D = dim();
    if (made_users_)
        for (const uint32_t slot : users_.pinned())
            if (users_.flags(slot) & Warm::kFresh)
                for (int64_t d = 0; d < D; ++d) users_.row(slot)[d] = user_noise(s.seed, users_.meta(slot).id, d);
    if (made_items_)
        for (const uint32_t slot : items_.pinned())
            if (items_.flags(slot) & Warm::kFresh)
                for (int64_t d = 0; d < D; ++d) items_.row(slot)[d] = item_noise(s.seed, items_.meta(slot).id, d);
}

void Learner::device_refs(const LearnSettings& s, const RecordView& r, const Hot& users, const Hot& items,
                          const DeviceRefs& out) const {
    const auto n = static_cast<size_t>(end_ - begin_);
    const auto place = [](const Hot& hot, uint32_t slot) {
        if (hot.at(slot) == kNone) throw std::invalid_argument("a row of the window has no place");
        return int64_t{hot.at(slot)};
    };
    for (size_t i = 0; i < n; ++i) out.users[i] = place(users, user_slots_[i]);
    for (size_t i = 0; i < n; ++i) out.items[i] = place(items, item_slots_[i]);
    for (size_t k = 0; k < negative_slots_.size(); ++k)
        out.negatives[k] = negative_slots_[k] == kNone ? -1 : place(items, negative_slots_[k]);
    std::fill_n(out.fresh, n, uint8_t{0});
    if (made_users_) {
        std::unordered_set<uint32_t> seen;
        for (size_t i = 0; i < n; ++i)
            if (users_.flags(user_slots_[i]) & Warm::kFresh) out.fresh[i] = seen.insert(user_slots_[i]).second;
    }
    if (!is_pointwise(s.loss)) return;
    double sum = value_sum, weight = value_weight;
    for (int64_t b0 = begin_; b0 < end_; b0 += s.batch_size) {
        const int64_t b1 = std::min(end_, b0 + s.batch_size);
        std::fill(out.offsets + (b0 - begin_), out.offsets + (b1 - begin_), base_score(s.loss, sum, weight));
        for (int64_t b = b0; b < b1; ++b) {
            const double w = r.weights ? r.weights[b] : 1.0;
            sum += w * r.values[b];
            weight += w;
        }
    }
}

Learned Learner::device_marked(const LearnSettings& s, const RecordView& r, Hot& hot_users, Hot& hot_items) {
    Learned out;
    // Rows that the events of a micro-batch share are touched once for all of them: nothing else changes them
    // meanwhile.
    for (Warm* table : {&users_, &items_}) {
        const auto& pinned = table->pinned();
        for (size_t from = 0; from < pinned.size(); from += kLockRows) {
            const size_t to = std::min(pinned.size(), from + kLockRows);
            for (size_t i = to; i < std::min(pinned.size(), to + kLockRows); ++i) table->prefetch_flags(pinned[i]);
            std::lock_guard lock(table->mutex());
            for (size_t i = from; i < to; ++i) {
                if (table->flags(pinned[i]) & Warm::kFresh) table->made(pinned[i]);
                table->touch(pinned[i]);
            }
        }
    }
    // Only now, for who brings RAM up to date must not change a frozen row of which no copy is kept.
    hot_users.learned();
    hot_items.learned();
    for (int64_t from = begin_; from < end_; from += kLockRows) {
        const int64_t to = std::min(end_, from + kLockRows);
        std::lock_guard lock(items_.mutex());
        for (int64_t b = from; b < to; ++b)
            items_.meta(item_slots_[static_cast<size_t>(b - begin_)]).named(r.first_seq + static_cast<uint64_t>(b));
    }
    for (int64_t from = begin_; from < end_; from += kLockRows) {
        const int64_t to = std::min(end_, from + kLockRows);
        const uint32_t* users = user_slots_.data() - begin_;
        for (int64_t b = to; b < std::min(end_, to + kLockRows); ++b) history_.prefetch(users[b]);
        history_.prepare();
        std::lock_guard lock(users_.mutex());
        for (int64_t b = from; b < to; ++b) {
            const uint64_t seq = r.first_seq + static_cast<uint64_t>(b);
            users_.meta(users[b]).named(seq);
            history_.add(users[b], r.items[b], seq, r.moment(b), s.context.session_gap);
        }
    }
    {
        std::lock_guard lock(users_.mutex());
        mean_count += static_cast<uint64_t>(end_ - begin_);
    }
    if (r.values) count_values(r, begin_, end_);
    learn_companions(r, begin_, end_);
    end_window(&out);
    return out;
}
