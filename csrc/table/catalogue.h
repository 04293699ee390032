// The scoring copy of every item: vectors and biases by ordinal, and from id to ordinal.
//
// One writer thread; readers score beside it without waiting: each 64 items have a version that is odd while the writer
// is inside, and a reader that saw it move scores those items again. Chunks never move. An ordinal that is reserved but
// not yet shown is not scored, nor is one whose item was removed: a gap. New items take the lowest gap first. Readers
// use ordinals under a Hold: an ordinal is not given to another item while a Hold from before the removal is held, and
// an item in a gap is not shown while a Hold from before that is.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "kernels/kernels.h"
#include "memory/index.h"
#include "table/rows.h"

class Catalogue {
  public:
    static constexpr uint32_t kNone = IdIndex::kNone;

    explicit Catalogue(int64_t dim) : dim_(dim), stride_((dim + 15) / 16 * 16), chunks_(kChunks) {}
    ~Catalogue() {
        if (populating_.joinable()) populating_.join();
    }

    // --- writer
    uint32_t find(int64_t id) const {
        return index_.find(id, [this](uint32_t o) { return this->id(o); });
    }
    void prefetch(int64_t id) const { index_.prefetch(id); }
    uint32_t guess(int64_t id) const { return index_.guess(id); }
    uint32_t prefetch_id(int64_t id) const {  // later: what the index entry is compared with; returns the guess
        const uint32_t o = guess(id);
        if (o != kNone) __builtin_prefetch(&chunk(o).ids[o & (kItems - 1)]);
        return o;
    }
    uint32_t reserve(int64_t id);  // the lowest free ordinal, for an id that has none
    // Copies item rows (each: vector, then bias) here, for every reader; n <= kMostPublished. New items are not ranked
    // before show_new().
    static constexpr int64_t kMostPublished = 64;
    void publish(const uint32_t* ordinals, const float* const* rows, int64_t n);
    void show_new();  // items that were reserved and published are ranked from now on
    // At opening, before readers: n items are coming, the last with the ordinal end - 1; and whether all of them came.
    // If not, nothing of it can be used.
    void reserve_for(int64_t n, int64_t end);
    void restore(uint32_t ordinal, int64_t id, const float* row, uint32_t users);
    bool restored(int64_t n, int64_t end);
    bool restoring() const { return populating_.joinable(); }
    // One item of a later epoch, new ones in the order of ordinals; nobody reads meanwhile. False: not such an item, or
    // one that came when there were gaps.
    bool follow(uint64_t ordinal, int64_t id, const float* row, uint32_t users);
    // So many users that were known by then have had the item (RowMeta::users).
    void had_by(uint32_t ordinal, uint32_t users) {
        auto& had = chunk(ordinal).users[static_cast<size_t>(ordinal & (kItems - 1))];
        had.store(static_cast<uint8_t>(std::min<uint32_t>(users, 255)), std::memory_order_relaxed);
    }
    int64_t reserved() const { return reserved_; }
    // With nothing reserved that is not shown. What follows the last item is no gap: the catalogue gets shorter.
    void remove(uint32_t ordinal);
    // Grows whenever an ordinal begins or ends to mean an item, but for new ones at the end. [any thread]
    int64_t moves() const { return moves_.load(std::memory_order_acquire); }
    // Ordinals below size() without a shown item; when there are none, nobody needs to ask is_shown().
    int64_t gaps() const { return gaps_; }
    const void* planned_by = nullptr;  // the learner whose planned window stands on items here: none may be removed
    bool is_shown(int64_t ordinal) const { return state(ordinal).load(std::memory_order_relaxed) & kShown; }
    // Ids that are not ranked, be they items or not. hide and unhide say whether that changed anything.
    bool hide(int64_t id);
    bool unhide(int64_t id);
    // Grows whenever an item is hidden, or shown again. [any thread]
    int64_t flips() const { return flips_.load(std::memory_order_acquire); }

    // --- [any thread]
    int64_t size() const { return shown_.load(std::memory_order_acquire); }
    int64_t most() const { return most_.load(std::memory_order_acquire); }  // what size() ever was: has memory
    bool is_ranked(int64_t ordinal) const { return state(ordinal).load(std::memory_order_acquire) == kShown; }
    // At most 255.
    int users(int64_t ordinal) const {
        return chunk(ordinal).users[static_cast<size_t>(ordinal & (kItems - 1))].load(std::memory_order_relaxed);
    }
    // While one is held, ordinals mean the items that they meant. The writer waits for those that are older than a
    // removal before it uses an ordinal again.
    class Hold {
      public:
        explicit Hold(Catalogue& c) : catalogue_(&c), phase_(c.enter()) {}
        ~Hold() { release(); }
        Hold(const Hold&) = delete;
        Hold& operator=(const Hold&) = delete;
        void release() {
            if (catalogue_) catalogue_->leave(phase_);
            catalogue_ = nullptr;
        }

      private:
        Catalogue* catalogue_;
        int phase_;
    };
    int64_t id(int64_t ordinal) const { return chunk(ordinal).ids[ordinal & (kItems - 1)]; }
    // ordinals of ids, kNone where unknown or not yet shown
    void find_shared(const int64_t* ids, int64_t n, uint32_t* ordinals) const;
    // A consistent copy of one item's vector [dim] and bias.
    void read(int64_t ordinal, float* vector, float* bias) const;
    int64_t dim() const { return dim_; }
    int64_t stride() const { return stride_; }
    int64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
    void hidden(std::vector<int64_t>* ids) const;  // in no order
    // The block of items that `ordinal` stands in, for scoring; `first` is the ordinal of its first item.
    ScoreBlock block(int64_t ordinal, int64_t end, int64_t* first, const int64_t** ids) const;

  private:
    static constexpr int64_t kShift = 14, kItems = int64_t{1} << kShift, kChunks = int64_t{1} << 18;
    static constexpr uint8_t kTaken = 1, kShown = 2, kHidden = 4,
                             kFound = 8;  // a state is kShown alone where an item is ranked
    struct Chunk {
        explicit Chunk(int64_t stride) : memory(static_cast<size_t>(kItems * (stride * 4 + 4 + 8))) {
            vectors = reinterpret_cast<float*>(memory.data());
            biases = vectors + kItems * stride;
            ids = reinterpret_cast<int64_t*>(biases + kItems);
        }
        Pages memory;
        float* vectors;
        float* biases;
        int64_t* ids;
        std::array<std::atomic<uint32_t>, kItems / kItemsPerVersion> versions{};
        std::array<std::atomic<uint8_t>, kItems> states{}, users{};
    };
    std::atomic<uint32_t>& version(uint32_t ordinal) const {
        return chunk(ordinal).versions[static_cast<size_t>((ordinal & (kItems - 1)) / kItemsPerVersion)];
    }
    Chunk& chunk(int64_t ordinal) const { return *chunks_[static_cast<size_t>(ordinal >> kShift)]; }
    std::atomic<uint8_t>& state(int64_t ordinal) const {
        return chunk(ordinal).states[static_cast<size_t>(ordinal & (kItems - 1))];
    }
    void reach(int64_t ordinal);
    void index(int64_t id, uint32_t ordinal);
    void write(uint32_t ordinal, const float* row, bool streamed);
    uint32_t lowest_free();
    int enter();
    void leave(int phase);
    void wait_for_holds();

    int64_t dim_, stride_;
    std::vector<std::unique_ptr<Chunk>> chunks_;
    IdIndex index_;
    mutable std::mutex index_mutex_;
    int64_t reserved_ = 0, gaps_ = 0;
    std::vector<uint32_t> pending_;  // reserved, not shown
    std::vector<uint32_t> free_;     // a heap, the lowest on top; may name some that are no longer free
    bool removed_ = false;           // since the last wait_for_holds()
    std::unordered_set<int64_t> hidden_;
    mutable std::mutex hidden_mutex_;  // held by who changes hidden_, and by other threads
    std::thread populating_;
    std::atomic<int64_t> shown_{0}, bytes_{0}, moves_{0}, flips_{0}, most_{0};
    std::atomic<int> phase_{0};
    std::array<std::atomic<int64_t>, 2> holds_{};
};
