// What came soon after an item in the same session of a user: up to `most` items, and how often.
//
// They stand in the item's row, behind what its vector, its bias and its optimizer have: a total, then the counts, then
// the ids, 8 bytes each. A count of 0 ends them. What they hold follows from the events alone.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

class Neighbours {
  public:
    static constexpr int64_t kMost = 64;     // that a row may have
    static constexpr size_t kSources = 5;    // of a user's latest items, so many have neighbours that count
    static constexpr float kFurther = 0.5f;  // an item counts so much less than the one that came after it

    static constexpr int64_t floats(int64_t most) { return most ? 1 + 3 * most : 0; }
    // The opposite: how many those floats have room for; -1: nothing that so many floats can be.
    static constexpr int64_t most_of(int64_t floats) {
        const int64_t most = floats == 0 ? 0 : (floats - 1) / 3;
        return most <= kMost && Neighbours::floats(most) == floats ? most : -1;
    }
    // The part of a row that begins at `floats`, or of a copy of it.
    Neighbours(float* floats, int64_t most) : floats_(floats), most_(most) {}

    float total() const { return floats_[0]; }
    int64_t size() const {
        int64_t n = 0;
        while (n < most_ && count(n) > 0) ++n;
        return n;
    }
    float count(int64_t i) const { return floats_[1 + i]; }
    int64_t id(int64_t i) const {
        int64_t id;
        std::memcpy(&id, floats_ + 1 + most_ + 2 * i, sizeof id);
        return id;
    }
    // An event of `item` by so much. Where all places are taken it takes the least one, if that has no more; else that
    // one loses half of it: what comes again and again gets a place.
    void add(int64_t item, float by) {
        if (!(by > 0) || !(floats_[0] + by <= std::numeric_limits<float>::max())) return;
        floats_[0] += by;
        const int64_t n = size();
        int64_t least = 0;
        for (int64_t i = 0; i < n; ++i) {
            if (id(i) == item) {
                floats_[1 + i] += by;
                return;
            }
            if (count(i) < count(least)) least = i;
        }
        if (n < most_)
            set(n, item, by);
        else if (count(least) <= by)
            set(least, item, by);
        else
            floats_[1 + least] -= 0.5f * by;
    }
    bool has_any(const std::vector<int64_t>& rising) const {
        for (int64_t i = 0; i < size(); ++i)
            if (std::binary_search(rising.begin(), rising.end(), id(i))) return true;
        return false;
    }
    // Takes items out; the others keep their order.
    void remove(const std::vector<int64_t>& rising) {
        int64_t kept = 0;
        const int64_t n = size();
        for (int64_t i = 0; i < n; ++i)
            if (!std::binary_search(rising.begin(), rising.end(), id(i))) set(kept++, id(i), count(i));
        for (; kept < n; ++kept) set(kept, 0, 0.0f);
    }

  private:
    void set(int64_t i, int64_t id, float count) {
        floats_[1 + i] = count;
        std::memcpy(floats_ + 1 + most_ + 2 * i, &id, sizeof id);
    }
    float* floats_;
    int64_t most_;
};

// Items that are near to what a user had last, and how near, from 0 to 1: the neighbours of the latest items, each of
// them by its share of what came after.
class Near {
  public:
    struct Item {
        int64_t id;
        float share;
    };
    void clear() {
        items_.clear();
        places_.fill(0);
        weight_ = 1.0f;
        weights_ = 0.0f;
    }
    // The neighbours of the next of the latest items, the newest first.
    void add(const Neighbours& of) {
        if (of.total() > 0)
            for (int64_t i = 0, n = of.size(); i < n; ++i) add(of.id(i), weight_ * (of.count(i) / of.total()));
        weights_ += weight_;
        weight_ *= Neighbours::kFurther;
    }
    // After the last of them.
    void finish() {
        for (Item& item : items_) item.share = std::min(item.share / weights_, 1.0f);
    }
    const std::vector<Item>& items() const { return items_; }
    // Which of items() an item is; -1: it is not near.
    int64_t find(int64_t id) const { return items_.empty() ? -1 : int64_t{places_[slot(id)]} - 1; }
    // 0 for an item that is not near.
    float share(int64_t id) const {
        const int64_t at = find(id);
        return at < 0 ? 0.0f : items_[static_cast<size_t>(at)].share;
    }

  private:
    void add(int64_t id, float share) {
        if (!(share > 0)) return;
        uint16_t& place = places_[slot(id)];
        if (place) {
            items_[place - 1].share += share;
        } else {
            items_.push_back({id, share});
            place = static_cast<uint16_t>(items_.size());
        }
    }
    // Where an id stands in places_, or would.
    size_t slot(int64_t id) const {
        size_t at = (static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15) >> (64 - kBits);
        while (places_[at] && items_[places_[at] - 1].id != id) at = (at + 1) % kSlots;
        return at;
    }
    static constexpr size_t kBits = 10, kSlots = size_t{1} << kBits;
    static_assert(kSlots > 2 * Neighbours::kSources * Neighbours::kMost);
    std::vector<Item> items_;
    std::array<uint16_t, kSlots> places_{};  // in items_, from 1
    float weight_ = 1.0f, weights_ = 0.0f;
};
