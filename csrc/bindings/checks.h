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

inline RecordView view(const Array<int64_t>& users, const Array<int64_t>& items, const MaybeArray<float>& values,
                       const MaybeArray<float>& weights, uint64_t first_seq) {
    const int64_t n = users.size();
    require(items.size() == n && (!values || values->size() == n) && (!weights || weights->size() == n),
            "columns must be [N]");
    return {users.data(), items.data(), data_or_null(values), data_or_null(weights), n, first_seq};
}
