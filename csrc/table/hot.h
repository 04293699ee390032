// Which rows of a table have a place in a device's memory, and where: the slot index of the hot tier.
//
// Knows slots alone, never the device: the rows there are the caller's. A hot row has a slot in the warm tier, too,
// whose floats may be behind those on the device: the row is then `ahead`. A row that is ahead is dirty in the warm
// tier, so it cannot leave RAM before it was copied back. Not thread-safe: the owner's lock is held in every call, and
// in every call of the warm tier that may free a row.
#pragma once
#include <vector>

#include "table/catalogue.h"
#include "table/warm.h"

class Hot final : public Copies {
  public:
    static constexpr uint32_t kNone = Warm::kNone;
    struct Copy {                     // of a row, between RAM and the device
        std::vector<uint32_t> slots;  // in the warm tier
        std::vector<int64_t> places;  // on the device
        void clear() { slots.clear(), places.clear(); }
        void add(uint32_t slot, uint32_t place) { slots.push_back(slot), places.push_back(place); }
        int64_t size() const { return static_cast<int64_t>(slots.size()); }
    };

    // `shown`: somebody shows the rows elsewhere, and wants to know which have changed.
    Hot(Warm& warm, int64_t capacity, bool shown);
    ~Hot() override { warm_.copied_by(nullptr); }
    Hot(const Hot&) = delete;
    Hot& operator=(const Hot&) = delete;

    // Gives a place to every row that the warm tier has pinned: `loads` are those that had none, `victims` those that
    // lose theirs while they are ahead, to be copied back first. False, and nothing changed, where places are too few.
    bool place();
    Copy loads, victims;
    uint32_t at(uint32_t slot) const { return slot < place_of_.size() ? place_of_[slot] : kNone; }
    // The pinned rows are learned on the device: all of them are ahead.
    void learned();
    // So are rows that the device has named by itself; no matter which hold no row. From any thread.
    void touched(const int64_t* places, int64_t n);
    // The rows that are ahead, of all or of `ids`.
    Copy rows_ahead();
    Copy rows_ahead(const int64_t* ids, int64_t n) const;
    // The pinned rows.
    Copy pinned() const;
    std::vector<int64_t> ordinals(const Copy& rows) const;

    // Rows that were learned since they were last shown, by id and ordinal; in `places` until the next loads. Those
    // that have lost theirs since come first, and alone if `only_left`. shown(): they have been.
    struct Changed {
        std::vector<int64_t> ids, ordinals, places;
    };
    Changed changed(bool only_left) const;
    void shown(bool only_left);

    // Rows as the device has them, `width` floats each: vector, bias, optimizer state, zeros.
    void gather(const Copy& rows, int64_t width, float* out) const;
    // Copies back, a few rows at a time under the warm tier's lock, and they are ahead no more; items are published,
    // too.
    void scatter(const Copy& rows, int64_t width, const float* in, Catalogue* catalogue);

    Warm& warm() const { return warm_; }
    int64_t capacity() const { return capacity_; }
    int64_t size() const { return size_; }
    int64_t reached() const { return high_water_; }
    int64_t ahead() const { return ahead_count_; }
    int64_t evicted() const { return evicted_; }
    int64_t floats() const { return warm_.layout().meta_offset / 4; }

    void freed(uint32_t slot) override;

  private:
    bool evict_some();
    void set_ahead(uint32_t place);
    void forget_listed();
    void require_here(uint32_t slot) const;
    void release(uint32_t place);
    void add_changed(uint32_t place, Changed* to) const;

    Warm& warm_;
    int64_t capacity_;
    bool shown_;
    std::vector<uint32_t> place_of_;        // by slot of the warm tier
    std::vector<uint32_t> slot_of_, free_;  // by place
    static constexpr uint8_t kAhead = 1, kChanged = 2;
    std::vector<uint8_t> state_;          // by place
    std::vector<uint32_t> changed_list_;  // places; some may be changed no more
    Changed left_;                        // of those, the ones that have lost their places
    std::vector<uint32_t> ahead_list_;    // places; some may be ahead no more
    int64_t size_ = 0, ahead_count_ = 0, evicted_ = 0, high_water_ = 0, hand_ = 0;
};
