// What several bindings check of a table or of a record.
#pragma once
#include "bindings/arrays.h"
#include "learn/learner.h"
#include "table/warm.h"

// Slots of a planned window are used without looking again: its rows must stay where they are.
inline void require_no_window(const Warm& w, const void* learner = nullptr) {
    require(!w.planned_by || w.planned_by == learner, "a window is planned on these rows");
}

inline void require_frozen(const Warm& w, int64_t from, int64_t n) {
    require(from >= 0 && n >= 0 && n <= std::ssize(w.frozen()) && from <= std::ssize(w.frozen()) - n,
            "not that many frozen rows");
}

// The columns of some events, kept alive; event i has seq first_seq + i.
struct EventColumns {
    Array<int64_t> users, items;
    MaybeArray<float> values, weights;
    uint64_t first_seq;
    MaybeArray<uint32_t> times, marks;

    RecordView view() const {
        return {users.data(), items.data(), data_or_null(values), data_or_null(weights),
                users.size(), first_seq,    data_or_null(times),  data_or_null(marks)};
    }
    void require_for(const LearnSettings& s) const {
        require(is_pointwise(s.loss) == values.has_value(), "values are for pointwise losses");
    }
};
