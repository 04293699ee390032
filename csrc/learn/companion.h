// Tables beside users and items of which every event touches one row, and the rules of their rows.
//
// A rule is pure: what a row holds follows from its id and from the events that touched it, in their order. So it does
// not show in a row how events were cut into windows, or what was in RAM.
#pragma once
#include "table/warm.h"

struct Event {
    int64_t user, item;
    float value, weight;  // 1 where the record has none
    uint64_t seq;
};

class RowRule {
  public:
    virtual ~RowRule() = default;
    // The floats of a new row of `id`; they are zeros before.
    virtual void make(float* row, int64_t floats, int64_t id) const = 0;
    // What an event does to the row that it touches, after the step that learned the event.
    virtual void learn(float* row, int64_t floats, const Event& event) const = 0;
};

// By what an event finds its row: the user's id, the item's, or 0 for a table of one row.
enum class KeyedBy { user, item, one };

struct Companion {
    Warm* table;
    KeyedBy keyed_by;
    const RowRule* rule;
    // Of the planned window: the slot of each event, and slots marked kFetching.
    std::vector<uint32_t> slots{}, missing{};

    int64_t id_of(int64_t user, int64_t item) const {
        return keyed_by == KeyedBy::user ? user : keyed_by == KeyedBy::item ? item : 0;
    }
};
