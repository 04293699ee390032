// What each user has had: the most recent distinct items, at most kMost, and when.
//
// Belongs to the rows of the users' table by slot (an Attachment): it is resident when the user's row is, is frozen
// with it and leaves with it. Entries stand in chunks of kChunk, the unit that is dirty and that LMDB holds. The writer
// changes it under the users' mutex; readers take that mutex.
#pragma once
#include <algorithm>
#include <unordered_map>

#include "memory/block_pool.h"
#include "memory/hash.h"
#include "table/warm.h"

struct HistoryEntry {
    int64_t item;
    uint64_t seq;
    uint32_t time;     // of the last time, in seconds since 1970, and one more; 0: not known
    uint32_t session;  // it was in: the user's sessions count from 1; 0: not known
    uint32_t mark;     // the caller's, of that session
    uint32_t place_and_times;

    // Which of the user's events was the last time, from 1; how often the user had the item, at most kMostTimes.
    uint32_t place() const { return place_and_times >> kTimesBits; }
    uint32_t times() const { return place_and_times & kMostTimes; }
    void set(uint32_t place, uint32_t times) {
        place_and_times = std::min(place, UINT32_MAX >> kTimesBits) << kTimesBits | std::min(times, kMostTimes);
    }
    static constexpr uint32_t kTimesBits = 6, kMostTimes = (1u << kTimesBits) - 1;
};
static_assert(sizeof(HistoryEntry) == 32);

// When an event was, as its user's history has it. The caller's mark of the session is 0 where there is none.
struct Moment {
    uint32_t time = 0, mark = 0;
};

// The entries of one user: n of them, in no order of time, and which is the newest. Good until the history changes.
struct HistoryView {
    const HistoryEntry* entries = nullptr;
    int64_t n = 0;
    const uint8_t* tags = nullptr;  // a byte of each item's hash, or null
    const HistoryEntry* newest = nullptr;

    int64_t find(int64_t item) const;  // n if it is not there
    static uint8_t tag(int64_t item) { return static_cast<uint8_t>(mix64(static_cast<uint64_t>(item)) >> 56); }
};

class History final : public Attachment {
  public:
    static constexpr int64_t kMost = 1024, kChunk = 64;

    History(Warm& users, int64_t budget_bytes) : users_(users), budget_(budget_bytes) { users.attach(this); }
    ~History() override { users_.attach(nullptr); }
    History(const History&) = delete;
    History& operator=(const History&) = delete;

    // Has memory at hand for what is added next, before the lock is taken.
    void prepare() { pool_.prepare(); }
    // The session of the event after `last`, a user's newest, null for none.
    static uint32_t session_of(const HistoryEntry* last, Moment when, float gap);
    // The entry of an event: `last` as above, `had`: what the user has had of the item, or null.
    static HistoryEntry entry_of(const HistoryEntry* last, const HistoryEntry* had, int64_t item, uint64_t seq,
                                 Moment when, float gap);
    // An event of a user; it begins a session where the one before was more than `gap` seconds ago, or had another
    // mark. Caller holds the lock.
    void add(uint32_t slot, int64_t item, uint64_t seq, Moment when, float gap);
    // Chunk after chunk. `changed`: LMDB does not have them so.
    void load(uint32_t slot, const HistoryEntry* entries, int64_t n, bool changed);
    // Ahead of add(), one after the other: what points to the entries, the first of them, the last.
    void prefetch(uint32_t slot) const {
        if (slot < blocks_.size()) __builtin_prefetch(&blocks_[slot]);
    }
    void prefetch_entries(uint32_t slot) const {
        if (slot < blocks_.size() && blocks_[slot]) __builtin_prefetch(blocks_[slot]);
    }
    void prefetch_last(uint32_t slot) const {
        if (const Block* b = block(slot); b && b->n > 3) {
            __builtin_prefetch(&b->entries[b->n]);
            if (b->tagged()) __builtin_prefetch(b->tags());
        }
    }
    // Takes items, rising, out of the histories of all users in RAM. Between records, while no epoch runs.
    void forget(const std::vector<int64_t>& items);
    // The entries of one user as they are, in no order of time. Caller holds the lock.
    HistoryView view(uint32_t slot) const;

    Warm& users() const { return users_; }
    void freeze() { parity_ ^= 1; }  // with Warm::freeze
    struct Chunk {
        int64_t user;
        uint8_t number;
        std::vector<HistoryEntry> entries;
    };
    // The dirty chunks of the frozen user in `slot`, as they were at the freeze. [epoch thread]
    void collect(uint32_t slot, std::vector<Chunk>* out);
    void thaw(const std::vector<uint32_t>& frozen, bool committed);

    void admitted(uint32_t slot) override;
    void keep_frozen(uint32_t slot) override;
    void freed(uint32_t slot) override;
    bool over_budget() const override { return bytes() > budget_; }
    int64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

  private:
    // A full block's entries that were had longest ago, the oldest last. Those that were had again since have a seq
    // above `until` and count no more; the others are still older than all that are not here.
    struct Oldest {
        uint64_t until;
        uint16_t n, at[128];
    };
    // Where there are many entries, `capacity` tags follow, a byte of each item's hash: a full list is searched in 17
    // lines of memory instead of 257. In the largest, Oldest comes last.
    struct Block {
        uint16_t n;
        uint16_t size;      // of the pool's
        uint16_t dirty[2];  // a bit per chunk, by the parity of the epoch
        uint16_t newest;    // which entry has the highest seq
        uint16_t unused[3];
        HistoryEntry entries[];

        bool tagged() const { return size >= kTagged; }
        uint8_t* tags() { return reinterpret_cast<uint8_t*>(entries + capacity(size)); }
        const uint8_t* tags() const { return reinterpret_cast<const uint8_t*>(entries + capacity(size)); }
        Oldest& oldest() { return *reinterpret_cast<Oldest*>(tags() + kMost); }
        void set(int64_t at, HistoryEntry e) {
            entries[at] = e;
            if (tagged()) tags()[at] = HistoryView::tag(e.item);
        }
        HistoryView view() const { return {entries, n, tagged() ? tags() : nullptr, n ? &entries[newest] : nullptr}; }
        int64_t take_oldest();  // of a full one
        void find_newest();
    };
    static constexpr int kTagged = 7;  // the first size that is
    static constexpr int64_t kHeader = 16, kEntry = sizeof(HistoryEntry);
    static constexpr int64_t capacity(int size) {
        return std::min<int64_t>(kMost, (BlockPool::bytes_of(size) - kHeader) / (kEntry + (size >= kTagged)));
    }
    static_assert(kMost / kChunk <= 16);
    static_assert(BlockPool::bytes_of(BlockPool::kSizes - 1) >=
                  kHeader + kMost * (kEntry + 1) + static_cast<int64_t>(sizeof(Oldest)));
    void append(uint32_t slot, HistoryEntry e);
    void release(Block* b);
    void copy_chunks(uint32_t slot, uint16_t mask, std::vector<Chunk>* out) const;
    Block* block(uint32_t slot) const { return slot < blocks_.size() ? blocks_[slot] : nullptr; }

    Warm& users_;
    int64_t budget_;
    BlockPool pool_;
    HugeVector<Block*> blocks_;
    std::unordered_map<uint32_t, std::vector<Chunk>> kept_;
    std::atomic<int64_t> bytes_{0};
    int parity_ = 0;
};
