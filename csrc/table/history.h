// What each user has had: the most recent distinct items, at most kMost, with the seq of the last time.
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
    void add(uint32_t slot, int64_t item, uint64_t seq);               // caller holds the lock
    void load(uint32_t slot, const HistoryEntry* entries, int64_t n);  // chunk after chunk
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
    std::pair<const HistoryEntry*, int64_t> entries(uint32_t slot) const;

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
        HistoryEntry entries[];

        bool tagged() const { return size >= kTagged; }
        uint8_t* tags() { return reinterpret_cast<uint8_t*>(entries + capacity(size)); }
        const uint8_t* tags() const { return reinterpret_cast<const uint8_t*>(entries + capacity(size)); }
        Oldest& oldest() { return *reinterpret_cast<Oldest*>(tags() + kMost); }
        void set(int64_t at, HistoryEntry e) {
            entries[at] = e;
            if (tagged()) tags()[at] = tag(e.item);
        }
        int64_t find(int64_t item) const;  // n if it is not there
        int64_t take_oldest();             // of a full one
    };
    static constexpr int kTagged = 5;  // the first size that is
    static constexpr int64_t kHeader = 8, kEntry = sizeof(HistoryEntry);
    static constexpr int64_t capacity(int size) {
        return std::min<int64_t>(kMost, (BlockPool::bytes_of(size) - kHeader) / (kEntry + (size >= kTagged)));
    }
    static uint8_t tag(int64_t item) { return static_cast<uint8_t>(mix64(static_cast<uint64_t>(item)) >> 56); }
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
