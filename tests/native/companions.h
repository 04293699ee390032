// The companion tables of the stress program, and what their rows must hold: sums over the events that touched them.
#pragma once
#include <cstring>
#include <unordered_map>
#include <vector>

#include "stream.h"

// Every float has sums of its own, so that a row of which a part is older shows. They are whole and small: exact.
struct SumRule final : RowRule {
    static int64_t first(int64_t id, int64_t f) {
        return static_cast<int64_t>((static_cast<uint64_t>(id) + static_cast<uint64_t>(f)) % 61);
    }
    static int64_t addend(uint64_t seq, int64_t f) {
        return static_cast<int64_t>((seq + static_cast<uint64_t>(f)) % 64);
    }
    // Adds, as learn() does: so a row that was no zeros, or is made twice, shows too.
    void make(float* row, int64_t floats, int64_t id) const override {
        for (int64_t f = 0; f < floats; ++f) row[f] += static_cast<float>(first(id, f));
    }
    void learn(float* row, int64_t floats, const Event& event) const override {
        for (int64_t f = 0; f < floats; ++f)
            row[f] += event.weight * static_cast<float>(addend(event.seq, f)) + event.value;
    }
};

// One of the tables, and its rows as the stream alone says.
class SummedTable {
  public:
    SummedTable(const Stream& stream, KeyedBy keyed_by, int64_t floats, int64_t room, int64_t events)
        : table(floats, room, false), stream_(stream), keyed_by_(keyed_by), after_(1) {
        std::unordered_map<int64_t, Sums> now;
        for (uint64_t seq = 1; seq <= static_cast<uint64_t>(events); ++seq) {
            const int64_t id = id_of(seq);
            Sums& row = now[id];
            if (!row.count++)
                for (int64_t f = 0; f < floats; ++f) row.floats.push_back(SumRule::first(id, f));
            const auto value = static_cast<int64_t>(stream.value(seq));
            for (int64_t f = 0; f < floats; ++f) row.floats[static_cast<size_t>(f)] += SumRule::addend(seq, f) + value;
            after_.push_back(row);
        }
        total = std::ssize(now);
    }
    void join(Learner* learner) { learner->accompany(table, keyed_by_, rule_); }

    int64_t id_of(uint64_t seq) const {
        return keyed_by_ == KeyedBy::user ? stream_.user(seq) : keyed_by_ == KeyedBy::item ? stream_.item(seq) : 0;
    }
    // Is it the row of `id` as one of its events left it, the one of `least` or a later one?
    void check(const std::byte* row, int64_t id, uint64_t least) const {
        RowMeta m{};
        std::memcpy(&m, row + table.layout().meta_offset, 24);
        if (m.seq < least || m.seq >= after_.size() || id_of(m.seq) != id) wrong("a companion's seq", id, m.seq);
        const Sums& right = after_[m.seq];
        if (m.count != right.count) wrong("a companion's count", id, m.seq);
        for (size_t f = 0; f < right.floats.size(); ++f) {
            float found;
            std::memcpy(&found, row + f * sizeof found, sizeof found);
            if (found != static_cast<float>(right.floats[f])) wrong("a companion's sum", id, m.seq);
        }
    }

    Warm table;
    int64_t total;  // rows at the end

  private:
    struct Sums {
        uint32_t count = 0;
        std::vector<int64_t> floats{};
    };
    const Stream& stream_;
    KeyedBy keyed_by_;
    SumRule rule_;
    std::vector<Sums> after_;  // by seq: the row that the event touched
};
