// From id to a number below 2^32 - 1 (a slot, an ordinal), where the id itself stands with what the number names.
// Open addressing with linear probing, 4 bytes an entry, at most 3/4 full. Not thread-safe.
#pragma once
#include <cstdint>
#include <vector>

#include "mix.h"

class IdIndex {
  public:
    static constexpr uint32_t kNone = UINT32_MAX;

    IdIndex() : entries_(64, kNone) {}

    template <class IdOf>
    uint32_t find(int64_t id, IdOf id_of) const {
        for (size_t at = home(id);; at = next(at)) {
            const uint32_t e = entries_[at];
            if (e == kNone || id_of(e) == id) return e;
        }
    }
    // The id must not be there yet.
    template <class IdOf>
    void insert(int64_t id, uint32_t number, IdOf id_of) {
        if ((size_ + 1) * 4 > entries_.size() * 3) grow(id_of);
        place(id, number);
        ++size_;
    }
    // The id must be there. Entries behind the hole move up, so that no tombstones are needed.
    template <class IdOf>
    void erase(int64_t id, IdOf id_of) {
        size_t hole = home(id);
        while (id_of(entries_[hole]) != id) hole = next(hole);
        for (size_t at = next(hole); entries_[at] != kNone; at = next(at)) {
            const size_t want = home(id_of(entries_[at]));
            const size_t mask = entries_.size() - 1;
            if (((at - want) & mask) < ((at - hole) & mask)) continue;  // it would land before its home
            entries_[hole] = entries_[at];
            hole = at;
        }
        entries_[hole] = kNone;
        --size_;
    }
    void prefetch(int64_t id) const { __builtin_prefetch(&entries_[home(id)]); }
    uint32_t peek_home(int64_t id) const { return entries_[home(id)]; }
    int64_t size() const { return static_cast<int64_t>(size_); }
    int64_t bytes() const { return static_cast<int64_t>(entries_.size() * sizeof(uint32_t)); }

  private:
    size_t home(int64_t id) const { return mix64(static_cast<uint64_t>(id)) & (entries_.size() - 1); }
    size_t next(size_t at) const { return (at + 1) & (entries_.size() - 1); }
    void place(int64_t id, uint32_t number) {
        size_t at = home(id);
        while (entries_[at] != kNone) at = next(at);
        entries_[at] = number;
    }
    template <class IdOf>
    void grow(IdOf id_of) {
        std::vector<uint32_t> old(entries_.size() * 2, kNone);
        old.swap(entries_);
        for (uint32_t e : old)
            if (e != kNone) place(id_of(e), e);
    }

    std::vector<uint32_t> entries_;
    size_t size_ = 0;
};
