// Which terms of a micro-batch belong to the same row: groups in order of first sight, terms of one in their order.
#pragma once
#include <cstdint>
#include <vector>

class Groups {
  public:
    static constexpr uint32_t kEnd = UINT32_MAX;

    // Groups the n terms by slot; kEnd as a slot leaves its term out.
    void build(const uint32_t* slots, int64_t n) {
        size_t want = 16;
        while (want < static_cast<size_t>(n) * 2) want *= 2;
        if (table_.size() < want) table_.assign(want, Entry{}), generation_ = 0;
        if (++generation_ == 0) table_.assign(table_.size(), Entry{}), generation_ = 1;
        const size_t mask = want - 1;
        slot.clear();
        head.clear();
        tail_.clear();
        next.resize(static_cast<size_t>(n));
        for (int64_t t = 0; t < n; ++t) {
            const uint32_t s = slots[t];
            if (s == kEnd) continue;
            size_t at = (s * 0x9E3779B1u >> 7) & mask;
            while (table_[at].generation == generation_ && table_[at].slot != s) at = (at + 1) & mask;
            const auto term = static_cast<uint32_t>(t);
            next[static_cast<size_t>(t)] = kEnd;
            if (table_[at].generation == generation_) {
                const uint32_t g = table_[at].group;
                next[tail_[g]] = term;
                tail_[g] = term;
            } else {
                table_[at] = {generation_, s, static_cast<uint32_t>(slot.size())};
                slot.push_back(s);
                head.push_back(term);
                tail_.push_back(term);
            }
        }
    }
    int64_t size() const { return static_cast<int64_t>(slot.size()); }

    std::vector<uint32_t> slot, head;  // per group: its slot, its first term
    std::vector<uint32_t> next;        // per term: the next term of its group, or kEnd

  private:
    struct Entry {
        uint32_t generation = 0, slot = 0, group = 0;
    };
    std::vector<Entry> table_;
    std::vector<uint32_t> tail_;
    uint32_t generation_ = 0;
};
