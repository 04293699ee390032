// What a user's history says at one moment, for a step or for a list: which items count towards the user's vector, and
// what having had an item before is worth.
//
// Pure: it reads entries and weights, and changes nothing. No rows, no slots, no locks.
#pragma once
#include <array>
#include <vector>

#include "learn/global_weights.h"
#include "learn/neighbours.h"
#include "table/history.h"

struct ContextSettings {
    int64_t bag = 0;       // of the latest distinct items, so many count
    bool repeats = false;  // is it worth something to have had an item?
    float session_gap = 60;
    int64_t neighbours = 0;  // that an item's row has room for

    bool operator==(const ContextSettings&) const = default;
};

// What a weight is multiplied with.
struct Feature {
    int at;
    float x;
};

// The user as seen at one moment: `inside` a session, or at its start, as if its items had not been.
struct UserView {
    bool inside;
    int alpha;                             // the weight of the user's own vector
    std::vector<const HistoryEntry*> bag;  // newest first
    int bag_weight(size_t rank) const {
        return GlobalWeights::kBag + inside * GlobalWeights::kMostBag + static_cast<int>(rank);
    }
};

class Context {
  public:
    // `later`: what came after the history, oldest first. Both must stay where they are.
    void look(const ContextSettings& s, const HistoryView& history, const std::vector<HistoryEntry>& later, Moment now);
    // Has the user had something in this session?
    bool inside() const { return inside_; }
    UserView view(bool inside) const;
    // What the user has had of an item, or null.
    const HistoryEntry* had(int64_t item) const;
    // The items that the user has had, each once, in an order that follows from the log alone.
    int64_t count() const { return history_.n + std::ssize(new_); }
    int64_t item(int64_t i) const {
        return i < history_.n ? history_.entries[i].item : new_[static_cast<size_t>(i - history_.n)];
    }
    // As had(item(i)).
    const HistoryEntry* had_at(int64_t i) const { return later_->empty() ? &history_.entries[i] : had(item(i)); }
    // The user's latest distinct items whose neighbours count, newest first.
    std::vector<int64_t> sources() const;
    // Those of them in this session which an event of `item` comes after, newest first.
    std::vector<int64_t> before(int64_t item) const;
    // The user's last event before this moment, or null.
    const HistoryEntry* last() const { return later_->empty() ? history_.newest : &later_->back(); }
    // Adds what the entry of an item is worth in a view to `out`.
    void worth(const HistoryEntry& e, const UserView& v, std::vector<Feature>* out) const;
    // The same of an item that is near by so much, inside a session.
    static void worth_near(float share, std::vector<Feature>* out);

  private:
    bool in_session(const HistoryEntry& e) const { return e.session == session_; }

    ContextSettings s_;
    HistoryView history_;
    const std::vector<HistoryEntry>* later_ = nullptr;
    std::vector<int64_t> new_;  // items of later_ that the history has not, as it will have them
    std::vector<const HistoryEntry*> latest_, before_;  // newest first: of all, and of those before this session
    Moment now_;
    uint32_t session_ = 0, events_ = 0;
    int64_t in_session_ = 0;
    bool inside_ = false;
};

// log2 of x >= 1, from the logarithm of the kernels: the same bits everywhere, and 0 for 1.
float log2_of(float x);
float log2_of(uint32_t x);
