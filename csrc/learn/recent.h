// The items of the latest events: negatives are drawn from them, so that items are drawn as often as they are had.
//
// Items by ordinal. The writer's thread.
#pragma once
#include <cstdint>
#include <vector>

class RecentItems {
  public:
    static constexpr uint64_t kMost = 16'384;
    static constexpr uint32_t kGone = UINT32_MAX;  // in place of an item that was removed

    void add(uint32_t ordinal) {
        if (ring_.size() < kMost) {
            ring_.push_back(ordinal);
        } else {
            uint32_t& oldest = ring_[events_ % kMost];
            if (oldest != kGone) --counts_[oldest];
            oldest = ordinal;
        }
        count(ordinal);
        ++events_;
    }
    uint64_t size() const { return ring_.size(); }
    uint32_t at(uint64_t i) const { return ring_[i]; }
    // How many of the latest events had it.
    uint32_t times(uint32_t ordinal) const { return ordinal < counts_.size() ? counts_[ordinal] : 0; }
    // Takes out the items of which gone(ordinal) is true.
    template <class Gone>
    void remove(const Gone& gone) {
        for (uint32_t& ordinal : ring_)
            if (ordinal != kGone && gone(ordinal)) counts_[ordinal] = 0, ordinal = kGone;
    }
    const std::vector<uint32_t>& ring() const { return ring_; }
    uint64_t events() const { return events_; }
    void restore(std::vector<uint32_t> ring, uint64_t events) {
        ring_ = std::move(ring);
        events_ = events;
        counts_.clear();
        for (uint32_t ordinal : ring_)
            if (ordinal != kGone) count(ordinal);
    }

  private:
    void count(uint32_t ordinal) {
        if (ordinal >= counts_.size()) counts_.resize(ordinal + ordinal / 2 + 64);
        ++counts_[ordinal];
    }
    std::vector<uint32_t> ring_, counts_;
    uint64_t events_ = 0;
};
