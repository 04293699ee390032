#include "table/hot.h"

#include <algorithm>
#include <stdexcept>

Hot::Hot(Warm& warm, int64_t capacity, bool shown)
    : warm_(warm), capacity_(std::min<int64_t>(capacity, kNone)), shown_(shown) {
    warm.copied_by(this);
}

void Hot::add_changed(uint32_t place, Changed* to) const {
    const RowMeta& m = warm_.meta(slot_of_[place]);
    to->ids.push_back(m.id);
    to->ordinals.push_back(static_cast<int64_t>(m.ordinal));
    to->places.push_back(place);
}

Hot::Changed Hot::changed(bool only_left) const {
    Changed out = left_;
    if (!only_left)
        for (const uint32_t place : changed_list_)
            if (state_[place] & kChanged) add_changed(place, &out);
    return out;
}

void Hot::shown(bool only_left) {
    left_ = {};
    if (only_left) return;
    for (const uint32_t place : changed_list_) state_[place] &= static_cast<uint8_t>(~kChanged);
    changed_list_.clear();
}

void Hot::release(uint32_t place) {
    if (state_[place] & kChanged) add_changed(place, &left_);
    place_of_[slot_of_[place]] = kNone;
    slot_of_[place] = kNone;
    if (state_[place] & kAhead) --ahead_count_;
    state_[place] = 0;
    free_.push_back(place);
    --size_;
}

void Hot::freed(uint32_t slot) {
    if (at(slot) != kNone) release(at(slot));
}

// Frees the places of least worth in a run of candidates under the clock hand.
bool Hot::evict_some() {
    const int64_t want = std::clamp<int64_t>(capacity_ / 64, 1, 1024);
    std::vector<std::pair<uint64_t, uint32_t>> candidates;
    for (int64_t seen = 0; seen < high_water_ && static_cast<int64_t>(candidates.size()) < want * 4; ++seen) {
        if (++hand_ >= high_water_) hand_ = 0;
        const auto place = static_cast<uint32_t>(hand_);
        const uint32_t slot = slot_of_[place];
        if (slot != kNone && !warm_.is_pinned(slot)) candidates.emplace_back(warm_.worth(slot), place);
    }
    const auto n = std::min<size_t>(candidates.size(), static_cast<size_t>(want));
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(n), candidates.end());
    for (size_t i = 0; i < n; ++i) {
        const uint32_t place = candidates[i].second;
        if (state_[place] & kAhead) victims.add(slot_of_[place], place);
        release(place);
        ++evicted_;
    }
    return n > 0;
}

bool Hot::place() {
    loads.clear();
    victims.clear();
    if (std::ssize(warm_.pinned()) > capacity_) return false;
    for (const uint32_t slot : warm_.pinned()) {
        if (slot >= place_of_.size()) place_of_.resize(std::max<size_t>(slot + 1, place_of_.size() * 2), kNone);
        if (place_of_[slot] != kNone) continue;
        if (free_.empty() && high_water_ < capacity_) {
            free_.push_back(static_cast<uint32_t>(high_water_++));
            slot_of_.push_back(kNone);
            state_.push_back(0);
        }
        if (free_.empty()) evict_some();  // finds one: no more are pinned than there are places
        const uint32_t place = free_.back();
        free_.pop_back();
        place_of_[slot] = place;
        slot_of_[place] = slot;
        ++size_;
        loads.add(slot, place);
    }
    return true;
}

// Lists name what was ahead or changed once: they grow with places that are so again.
void Hot::forget_listed() {
    if (std::ssize(ahead_list_) > 2 * capacity_)
        std::erase_if(ahead_list_, [this](uint32_t place) { return !(state_[place] & kAhead); });
    if (std::ssize(changed_list_) > 2 * capacity_)
        std::erase_if(changed_list_, [this](uint32_t place) { return !(state_[place] & kChanged); });
}

void Hot::set_ahead(uint32_t place) {
    uint8_t& state = state_[place];
    if (shown_ && !(state & kChanged)) state |= kChanged, changed_list_.push_back(place);
    if (state & kAhead) return;
    state |= kAhead;
    ++ahead_count_;
    ahead_list_.push_back(place);
}

void Hot::touched(const int64_t* places, int64_t n) {
    forget_listed();
    constexpr int64_t kDistance = 16;
    const auto slot_at = [&](int64_t i) { return slot_of_[static_cast<size_t>(places[i])]; };
    for (int64_t i = 0; i < n; ++i)
        if (places[i] < 0 || places[i] >= std::ssize(slot_of_))
            throw std::invalid_argument("a place that is not there");
    for (int64_t from = 0; from < n; from += kLockRows) {
        const int64_t to = std::min(n, from + kLockRows);
        std::lock_guard lock(warm_.mutex());
        for (int64_t i = from; i < to; ++i) {
            if (i + kDistance < n && slot_at(i + kDistance) != kNone) warm_.prefetch_flags(slot_at(i + kDistance));
            if (slot_at(i) != kNone) warm_.touch(slot_at(i));
        }
    }
    // Only now: see Learner::device_marked.
    for (int64_t i = 0; i < n; ++i)
        if (slot_at(i) != kNone) set_ahead(static_cast<uint32_t>(places[i]));
}

std::vector<int64_t> Hot::ordinals(const Copy& rows) const {
    std::vector<int64_t> out;
    for (const uint32_t slot : rows.slots) {
        require_here(slot);
        out.push_back(static_cast<int64_t>(warm_.meta(slot).ordinal));
    }
    return out;
}

void Hot::learned() {
    forget_listed();
    const auto& pinned = warm_.pinned();
    constexpr size_t kDistance = 16;
    for (size_t i = 0; i < pinned.size(); ++i) {
        // Two distances: a slot's place, then what is known of the place.
        if (const size_t far = i + 2 * kDistance; far < pinned.size() && pinned[far] < place_of_.size())
            __builtin_prefetch(&place_of_[pinned[far]]);
        if (const size_t near = i + kDistance; near < pinned.size())
            if (const uint32_t place = at(pinned[near]); place != kNone) __builtin_prefetch(&state_[place], 1);
        const uint32_t place = at(pinned[i]);
        if (place == kNone) throw std::invalid_argument("a pinned row has no place");
        set_ahead(place);
    }
}

Hot::Copy Hot::rows_ahead() {
    std::sort(ahead_list_.begin(), ahead_list_.end());
    ahead_list_.erase(std::unique(ahead_list_.begin(), ahead_list_.end()), ahead_list_.end());
    std::erase_if(ahead_list_, [this](uint32_t place) { return !(state_[place] & kAhead); });
    Copy out;
    for (const uint32_t place : ahead_list_) out.add(slot_of_[place], place);
    return out;
}

Hot::Copy Hot::rows_ahead(const int64_t* ids, int64_t n) const {
    Copy out;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t slot = warm_.find(ids[i]);
        const uint32_t place = slot == kNone ? kNone : at(slot);
        if (place != kNone && state_[place] & kAhead) out.add(slot, place);
    }
    return out;
}

Hot::Copy Hot::pinned() const {
    Copy out;
    for (const uint32_t slot : warm_.pinned()) out.add(slot, at(slot));
    return out;
}

void Hot::require_here(uint32_t slot) const {
    if (warm_.meta(slot).id == -1) throw std::invalid_argument("a row that is not here any more");
}

void Hot::gather(const Copy& rows, int64_t width, float* out) const {
    constexpr int64_t kDistance = 8;
    for (int64_t i = 0; i < rows.size(); ++i) {
        if (i + kDistance < rows.size()) warm_.prefetch_slot(rows.slots[static_cast<size_t>(i + kDistance)]);
        float* to = out + i * width;
        const uint32_t slot = rows.slots[static_cast<size_t>(i)];
        require_here(slot);
        std::memcpy(to, warm_.row(slot), static_cast<size_t>(floats()) * 4);
        std::fill(to + floats(), to + width, 0.0f);
    }
}

void Hot::scatter(const Copy& rows, int64_t width, const float* in, Catalogue* catalogue) {
    for (int64_t from = 0; from < rows.size(); from += kLockRows) {
        const int64_t to = std::min(rows.size(), from + kLockRows);
        uint32_t ordinals[kLockRows];
        const float* published[kLockRows];
        {
            std::lock_guard lock(warm_.mutex());
            for (int64_t i = from; i < to; ++i) {
                const uint32_t slot = rows.slots[static_cast<size_t>(i)];
                require_here(slot);
                const uint64_t ordinal = warm_.meta(slot).ordinal;
                if (catalogue && ordinal >= static_cast<uint64_t>(catalogue->reserved()))
                    throw std::invalid_argument("an item that the catalogue does not have");
                std::memcpy(warm_.row(slot), in + i * width, static_cast<size_t>(floats()) * 4);
                ordinals[i - from] = static_cast<uint32_t>(ordinal);
                published[i - from] = in + i * width;
                const auto place = static_cast<size_t>(rows.places[static_cast<size_t>(i)]);
                if (place >= slot_of_.size()) throw std::invalid_argument("a place that is not there");
                if (slot_of_[place] != slot || !(state_[place] & kAhead)) continue;  // a victim, or named twice
                state_[place] &= static_cast<uint8_t>(~kAhead);
                --ahead_count_;
            }
        }
        if (catalogue) catalogue->publish(ordinals, published, to - from);
    }
}
