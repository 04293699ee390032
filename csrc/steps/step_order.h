// The order between the steps of a window: for every reference to a row, who touched it before.
//
// One object serves windows of the same two tables one after the other, one thread at a time. No CUDA, no rows.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "memory/huge.h"

// The columns of a window, as in Steps.
struct StepColumns {
    Loss loss;
    int64_t n, batch_size, negatives;
    const int32_t *user_slots, *item_slots, *negative_slots;
};
// What is written: links of each reference (StepLinks).
struct StepOrderOut {
    int32_t *user_before, *user_next, *item_before, *item_next, *negative_before, *negative_next;
};

inline constexpr int64_t kDepthSteps = 8192;

class StepOrder {
  public:
    StepOrder(int64_t users, int64_t items);
    // Returns the number of steps on the longest chain that wait for each other, of the first kDepthSteps. -1: a slot
    // is out of range, and the links are not to be used.
    int64_t find(const StepColumns& columns, const StepOrderOut& out);
    int64_t users() const { return static_cast<int64_t>(users_.size()); }
    int64_t items() const { return static_cast<int64_t>(items_.size()); }

  private:
    // The last reference to a row: `stamp` counts steps over all windows, 0 before the first.
    struct Last {
        uint32_t stamp = 0;
        int32_t reference = 0;
    };
    struct Window;
    // Links the references of a step. Returns how many steps, this one included, wait for each other up to it. -1: a
    // slot is out of range.
    int32_t link_step(const Window& w, int64_t step);
    HugeVector<Last> users_, items_;
    std::vector<int32_t> levels_;
    uint32_t stamp_ = 1;  // of the next window's first step
};
