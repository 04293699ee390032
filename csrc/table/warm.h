// The warm tier of one table: rows in RAM, found by id, with the bookkeeping that epochs and eviction need.
//
// One writer thread at a time changes it; other threads may call the functions marked [any thread], which lock. The
// writer locks where it changes what they read, for at most kLockRows rows at a time, so that a reader never waits for
// a whole record and never sees half a row.
//
// No-steal: a dirty row leaves only after an epoch has committed it. freeze() makes the dirty rows of now the frozen
// set of an epoch; when the writer changes a frozen row, touch() first keeps a copy of it as it was.
#pragma once
#include <atomic>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "memory/index.h"
#include "table/rows.h"

inline constexpr int64_t kLockRows = 64;

// Something that belongs to the rows of a table by slot, and lives and is frozen with them.
class Attachment {
  public:
    virtual ~Attachment() = default;
    virtual void admitted(uint32_t slot) = 0;     // a row will come to the slot; the lock is not held
    virtual void keep_frozen(uint32_t slot) = 0;  // the frozen row is about to change: keep a copy
    virtual void freed(uint32_t slot) = 0;        // the row leaves RAM
    virtual bool over_budget() const = 0;         // rows should be evicted although there are free slots
};

// Someone who keeps copies of rows by slot elsewhere, in a device's memory, and lets go of them when they leave RAM.
class Copies {
  public:
    virtual ~Copies() = default;
    virtual void freed(uint32_t slot) = 0;
};

class Warm {
  public:
    static constexpr uint32_t kNone = IdIndex::kNone;
    static constexpr int64_t kOverheadBytes = 24;       // a row's share of index, flags and lists, at most
    static constexpr uint8_t kDirty0 = 1, kDirty1 = 2;  // changed in an epoch of that parity
    static constexpr uint8_t kWritten = 4;              // frozen, and already handed to the epoch: no copy needed
    static constexpr uint8_t kFresh = 8;                // a new row, not made yet
    static constexpr uint8_t kFetching = 16;            // its content is still in LMDB
    static constexpr uint8_t kAttachedWritten = 32;     // as kWritten, for what is attached: it is handed over later

    Warm(int64_t floats, int64_t capacity, bool ordinals);

    // --- the writer
    uint32_t find(int64_t id) const {
        return index_.find(id, [this](uint32_t s) { return slab_.meta(s).id; });
    }
    void prefetch(int64_t id) const { index_.prefetch(id); }
    uint32_t guess(int64_t id) const { return index_.guess(id); }
    void prefetch_row(int64_t id) const;
    void prefetch_ordinal(uint64_t ordinal) const {
        if (ordinal < slot_of_ordinal_.size()) __builtin_prefetch(&slot_of_ordinal_[ordinal]);
    }
    void prefetch_pin(uint32_t slot) const {
        if (slot != kNone) __builtin_prefetch(&pinned_[slot]);
    }
    void prefetch_meta(uint32_t slot) const { __builtin_prefetch(&slab_.meta(slot)); }
    void prefetch_flags(uint32_t slot) const { __builtin_prefetch(&flags_[slot]); }
    // All of a row, ahead of its step.
    void prefetch_slot(uint32_t slot) const {
        if (slot == kNone) return;
        const auto* r = reinterpret_cast<const std::byte*>(slab_.row(slot));
        for (int64_t at = 0; at < layout().stride; at += 64) __builtin_prefetch(r + at);
        __builtin_prefetch(&flags_[slot]);
    }
    // A slot for `id`, marked kFetching or kFresh and pinned; kNone if every row is dirty or pinned (an epoch is due).
    uint32_t admit(int64_t id, uint8_t mark);
    void pin(uint32_t slot) {
        if (!pinned_[slot]) pinned_[slot] = 1, pinned_list_.push_back(slot);
    }
    const std::vector<uint32_t>& pinned() const { return pinned_list_; }
    void unpin_all();
    void fill(uint32_t slot, const std::byte* stored);  // the content of a kFetching row
    void mark(uint32_t slot, uint8_t mark);             // kFetching -> kFresh
    void made(uint32_t slot);                           // kFresh is over; caller holds the lock
    void touch(uint32_t slot);                          // before a change; caller holds the lock
    uint8_t flags(uint32_t slot) const { return flags_[slot].load(std::memory_order_relaxed); }
    uint32_t slot_of_ordinal(uint64_t ordinal) const {
        return ordinal < slot_of_ordinal_.size() ? slot_of_ordinal_[ordinal] : kNone;
    }
    void set_ordinal(uint32_t slot, uint64_t ordinal);
    float* row(uint32_t slot) const { return slab_.row(slot); }
    RowMeta& meta(uint32_t slot) const { return slab_.meta(slot); }
    const RowLayout& layout() const { return slab_.layout(); }
    void attach(Attachment* a) { attachment_ = a; }
    void copied_by(Copies* c) { copies_ = c; }
    // What a row is worth keeping for: by seq of last use, each doubling of the count as much as kCountWorth events.
    // Results never depend on it, only the hit rate does.
    uint64_t worth(uint32_t slot) const {
        constexpr uint64_t kCountWorth = 4096;
        const RowMeta& m = meta(slot);
        return m.seq + (32 - static_cast<uint64_t>(__builtin_clz(m.count | 1))) * kCountWorth;
    }
    bool is_pinned(uint32_t slot) const { return pinned_[slot] != 0; }
    // It was handed to the epoch; caller holds the lock.
    void attached_written(uint32_t slot) { flags_[slot].fetch_or(kAttachedWritten, std::memory_order_relaxed); }

    // --- epochs
    void freeze();       // writer, between records
    void sort_frozen();  // epoch thread, once: by id
    const std::vector<uint32_t>& frozen() const { return frozen_list_; }
    int64_t sort_frozen_count() {
        sort_frozen();
        return static_cast<int64_t>(frozen_list_.size());
    }
    // Copies rows [from, from + n) of the sorted frozen set as they were at the freeze. [epoch thread]
    void collect(int64_t from, int64_t n, int64_t* ids, std::byte* stored);
    void thaw(bool committed);   // the epoch ended: rows are clean, or dirty again
    int64_t kept_bytes() const;  // copies held for the epoch [any thread]
    uint8_t dirty_bit() const { return parity_ ? kDirty1 : kDirty0; }
    uint8_t frozen_bit() const { return parity_ ? kDirty0 : kDirty1; }

    // --- [any thread]
    bool peek(int64_t id, std::byte* stored, uint32_t* slot = nullptr);  // false: not here
    std::mutex& mutex() { return mutex_; }
    int64_t size() const { return rows_here_.load(std::memory_order_relaxed); }
    int64_t dirty() const { return dirty_count_.load(std::memory_order_relaxed); }
    int64_t capacity() const { return capacity_; }
    bool ordinals() const { return ordinals_; }
    int64_t bytes() const;
    bool crowded() const { return crowded_.load(std::memory_order_relaxed); }  // nothing can leave before an epoch
    int64_t evicted() const { return evicted_.load(std::memory_order_relaxed); }
    void resident(std::vector<int64_t>* ids);  // of all rows here, in no order

    // --- removal: the writer, between records, while no epoch runs
    void remove(const int64_t* ids, int64_t n);  // those that are here; total is the caller's
    // An event that is not learned named the row; caller holds no lock.
    void name(uint32_t slot, uint64_t seq);
    // Of rows here that no event after `seq` has named, in no order.
    void untouched_since(uint64_t seq, std::vector<int64_t>* ids);

    // The learner whose planned window stands on rows here: until it is learned none may leave or lose its pin.
    const void* planned_by = nullptr;
    // Rows of the table, wherever they live: those that a planned window will make included, or as of the last window
    // that was learned (table state). The writer changes them.
    std::atomic<int64_t> total{0}, learned{0};
    void restore_rows(int64_t n) { total = learned = n; }  // at opening
    void rows_removed(int64_t n) { total = learned -= n; }
    // Is every row here? Slots that are still kFetching don't count: whether they have a row is not known yet.
    bool complete() const { return size() == total; }

  private:
    void grow_flags();
    void place_ordinal(uint32_t slot, uint64_t ordinal);
    bool evict_some();
    void evict(uint32_t slot);
    void release(uint32_t slot);

    Slab slab_;
    IdIndex index_;
    int64_t capacity_;
    bool ordinals_;
    Attachment* attachment_ = nullptr;
    Copies* copies_ = nullptr;
    mutable std::mutex mutex_;
    HugeVector<std::atomic<uint8_t>> flags_;
    HugeVector<uint8_t> pinned_;
    HugeVector<uint32_t> slot_of_ordinal_;
    std::vector<uint32_t> pinned_list_, free_, dirty_list_, frozen_list_;
    std::unordered_map<uint32_t, std::vector<std::byte>> kept_;
    int64_t high_water_ = 0, hand_ = 0;
    int parity_ = 0;
    std::atomic<int64_t> rows_here_{0}, dirty_count_{0}, evicted_{0}, ordinal_bytes_{0};
    std::atomic<bool> crowded_{false};
};
