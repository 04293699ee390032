#include "table/warm.h"

#include <algorithm>

Warm::Warm(int64_t floats, int64_t capacity, bool ordinals)
    : slab_(RowLayout(floats), capacity), capacity_(capacity), ordinals_(ordinals) {}

void Warm::prefetch_row(int64_t id) const {
    const uint32_t s = index_.guess(id);
    if (s != kNone) __builtin_prefetch(&slab_.meta(s));
}

uint32_t Warm::admit(int64_t id, uint8_t mark) {
    // Whatever may take long, sweeps, fresh memory and a larger index, is done beside the readers: a slot that is not
    // in the index is the writer's own.
    // A sweep that found nothing is not repeated for every row: only an epoch can change that.
    if (attachment_ && !crowded_ && attachment_->over_budget()) crowded_ = !evict_some();
    if (free_.empty() && high_water_ == capacity_ && !evict_some()) return kNone;
    const bool used = !free_.empty();
    const auto slot = used ? free_.back() : static_cast<uint32_t>(high_water_);
    if (!used) {
        slab_.reach(slot);
        if (static_cast<size_t>(slot) == flags_.size()) grow_flags();
    }
    if (attachment_) attachment_->admitted(slot);
    if (index_.full()) {
        IdIndex larger = index_.grown(index_.size() + 1, [this](uint32_t s) { return slab_.meta(s).id; });
        std::lock_guard lock(mutex_);
        index_.swap(larger);
    }
    unpoison(row(slot), static_cast<size_t>(layout().meta_offset));
    // The id stays -1 until the slot is in use: who goes through all slots must not take it for a row's.
    std::memset(static_cast<void*>(row(slot)), 0, static_cast<size_t>(layout().stored_bytes));
    pin(slot);
    std::lock_guard lock(mutex_);
    if (used)
        free_.pop_back();
    else
        ++high_water_;
    meta(slot).id = id;
    flags_[slot] = mark;
    index_.insert(id, slot);
    if (!(mark & kFetching)) ++rows_here_;
    return slot;
}

// Atomics cannot be moved, so growing means new ones with the old values; under the lock, for an epoch changes them.
void Warm::grow_flags() {
    const size_t n = std::min<size_t>(std::max<size_t>(1024, flags_.size() * 2), static_cast<size_t>(capacity_));
    pinned_.resize(n);
    HugeVector<std::atomic<uint8_t>> grown(n);
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < flags_.size(); ++i) grown[i] = flags_[i].load(std::memory_order_relaxed);
    flags_.swap(grown);
}

void Warm::unpin_all() {
    for (uint32_t s : pinned_list_) pinned_[s] = 0;
    pinned_list_.clear();
}

// Evicts those of least worth in a run of candidates under the clock hand.
bool Warm::evict_some() {
    const int64_t want = std::clamp<int64_t>(capacity_ / 64, 1, 1024);
    std::vector<std::pair<uint64_t, uint32_t>> candidates;
    for (int64_t seen = 0; seen < high_water_ && static_cast<int64_t>(candidates.size()) < want * 4; ++seen) {
        if (++hand_ >= high_water_) hand_ = 0;
        const auto s = static_cast<uint32_t>(hand_);
        if (pinned_[s] || meta(s).id == -1 || flags(s) != 0) continue;
        candidates.emplace_back(worth(s), s);
    }
    if (candidates.empty()) return false;
    const auto n = std::min<size_t>(candidates.size(), static_cast<size_t>(want));
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(n), candidates.end());
    for (size_t start = 0; start < n; start += kLockRows) {
        std::lock_guard lock(mutex_);
        for (size_t i = start; i < std::min<size_t>(n, start + kLockRows); ++i) evict(candidates[i].second);
    }
    return true;
}

void Warm::evict(uint32_t slot) {
    release(slot);
    ++evicted_;
}

void Warm::release(uint32_t slot) {
    RowMeta& m = meta(slot);
    index_.erase(m.id, [this](uint32_t s) { return slab_.meta(s).id; });
    if (ordinals_) slot_of_ordinal_[m.ordinal] = kNone;
    if (attachment_) attachment_->freed(slot);
    if (copies_) copies_->freed(slot);
    m.id = -1;  // no row's id: marks a free slot
    free_.push_back(slot);
    poison(row(slot), static_cast<size_t>(layout().meta_offset));
    --rows_here_;
}

void Warm::set_ordinal(uint32_t slot, uint64_t ordinal) {
    meta(slot).ordinal = ordinal;  // nobody reads the row yet
    place_ordinal(slot, ordinal);
}

void Warm::place_ordinal(uint32_t slot, uint64_t ordinal) {
    if (slot_of_ordinal_.size() <= ordinal) {
        slot_of_ordinal_.resize(std::max<size_t>(ordinal + 1, slot_of_ordinal_.size() * 3 / 2), kNone);
        ordinal_bytes_ = static_cast<int64_t>(slot_of_ordinal_.capacity() * sizeof(uint32_t));
    }
    slot_of_ordinal_[ordinal] = slot;
}

void Warm::fill(uint32_t slot, const std::byte* stored) {
    {
        std::lock_guard lock(mutex_);
        std::memcpy(static_cast<void*>(row(slot)), stored, static_cast<size_t>(layout().stored_bytes));
        flags_[slot] = 0;
        ++rows_here_;
    }
    if (ordinals_) place_ordinal(slot, meta(slot).ordinal);
}

void Warm::mark(uint32_t slot, uint8_t mark) {
    std::lock_guard lock(mutex_);
    flags_[slot] = mark;
    ++rows_here_;
}

void Warm::made(uint32_t slot) { flags_[slot].fetch_and(static_cast<uint8_t>(~kFresh), std::memory_order_relaxed); }

void Warm::touch(uint32_t slot) {
    uint8_t f = flags(slot);
    if (f & frozen_bit()) {
        if (!(f & kWritten)) {
            const auto* bytes = reinterpret_cast<const std::byte*>(row(slot));
            kept_.try_emplace(slot, bytes, bytes + layout().stored_bytes);
            f |= kWritten;
        }
        if (attachment_ && !(f & kAttachedWritten)) {
            attachment_->keep_frozen(slot);
            f |= kAttachedWritten;
        }
    }
    if (!(f & dirty_bit())) {
        f |= dirty_bit();
        dirty_list_.push_back(slot);
        ++dirty_count_;
    }
    flags_[slot].store(f, std::memory_order_relaxed);
}

void Warm::freeze() {
    std::lock_guard lock(mutex_);
    parity_ ^= 1;
    frozen_list_.swap(dirty_list_);
    dirty_list_.clear();
    dirty_count_ = 0;
}

void Warm::sort_frozen() {
    // Frozen rows stay in their slots until thaw(), so their ids can be read without the lock.
    std::vector<std::pair<int64_t, uint32_t>> order;
    order.reserve(frozen_list_.size());
    for (uint32_t s : frozen_list_) order.emplace_back(meta(s).id, s);
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size(); ++i) frozen_list_[i] = order[i].second;
}

void Warm::collect(int64_t from, int64_t n, int64_t* ids, std::byte* stored) {
    const auto width = static_cast<size_t>(layout().stored_bytes);
    for (int64_t start = 0; start < n; start += kLockRows) {
        std::lock_guard lock(mutex_);
        for (int64_t i = start; i < std::min(n, start + kLockRows); ++i) {
            const uint32_t s = frozen_list_[static_cast<size_t>(from + i)];
            ids[i] = meta(s).id;
            const auto kept = kept_.find(s);
            const void* source = kept == kept_.end() ? static_cast<const void*>(row(s)) : kept->second.data();
            std::memcpy(stored + static_cast<size_t>(i) * width, source, width);
            if (kept != kept_.end()) kept_.erase(kept);
            flags_[s].fetch_or(kWritten, std::memory_order_relaxed);
        }
    }
}

void Warm::thaw(bool committed) {
    for (size_t start = 0; start < frozen_list_.size(); start += kLockRows * 16) {
        std::lock_guard lock(mutex_);
        const size_t end = std::min(frozen_list_.size(), start + kLockRows * 16);
        for (size_t i = start; i < end; ++i) {
            const uint32_t s = frozen_list_[i];
            const uint8_t before = flags(s);
            flags_[s] = static_cast<uint8_t>(before & ~(frozen_bit() | kWritten | kAttachedWritten));
            if (committed || (before & dirty_bit())) continue;
            flags_[s].fetch_or(dirty_bit(), std::memory_order_relaxed);
            dirty_list_.push_back(s);
            ++dirty_count_;
        }
    }
    std::lock_guard lock(mutex_);
    frozen_list_.clear();
    kept_.clear();
    crowded_ = false;
}

int64_t Warm::kept_bytes() const {
    std::lock_guard lock(mutex_);
    return static_cast<int64_t>(kept_.size()) * layout().stored_bytes;
}

bool Warm::peek(int64_t id, std::byte* stored, uint32_t* slot) {
    std::lock_guard lock(mutex_);
    const uint32_t s = find(id);
    if (s == kNone || (flags(s) & (kFresh | kFetching))) return false;
    std::memcpy(stored, row(s), static_cast<size_t>(layout().stored_bytes));
    if (slot) *slot = s;
    return true;
}

int64_t Warm::bytes() const {
    std::lock_guard lock(mutex_);
    // Rows up to the highest slot ever used: what lies beyond in the slab's last chunk was never touched.
    return high_water_ * layout().stride + index_.bytes() + std::ssize(flags_) * 2 +
           static_cast<int64_t>(dirty_list_.capacity() + frozen_list_.capacity()) * 4 + ordinal_bytes_;
}

void Warm::resident(std::vector<int64_t>* ids) {
    std::lock_guard lock(mutex_);
    ids->clear();
    for (int64_t s = 0; s < high_water_; ++s)
        if (meta(static_cast<uint32_t>(s)).id != -1 && !(flags(static_cast<uint32_t>(s)) & (kFresh | kFetching)))
            ids->push_back(meta(static_cast<uint32_t>(s)).id);
}

void Warm::remove(const int64_t* ids, int64_t n) {
    for (int64_t start = 0; start < n; start += kLockRows) {
        std::lock_guard lock(mutex_);
        for (int64_t i = start; i < std::min(n, start + kLockRows); ++i) {
            const uint32_t s = find(ids[i]);
            if (s == kNone) continue;
            flags_[s] = 0;
            release(s);
        }
    }
    std::lock_guard lock(mutex_);
    std::erase_if(dirty_list_, [this](uint32_t s) { return meta(s).id == -1; });
    dirty_count_ = std::ssize(dirty_list_);
    crowded_ = false;
}

void Warm::name(uint32_t slot, uint64_t seq) {
    std::lock_guard lock(mutex_);
    touch(slot);
    meta(slot).seq = std::max(meta(slot).seq, seq);
}

void Warm::untouched_since(uint64_t seq, std::vector<int64_t>* ids) {
    ids->clear();
    for (int64_t s = 0; s < high_water_; ++s) {
        const RowMeta& m = meta(static_cast<uint32_t>(s));
        if (m.id != -1 && m.seq <= seq) ids->push_back(m.id);
    }
}
