#include "steps/step_order.h"

#include <algorithm>

#include "steps/learn_steps.h"

namespace {
constexpr int64_t kAhead = 32;  // references between the prefetch of a row's last touch and the look at it
}

StepOrder::StepOrder(int64_t users, int64_t items)
    : users_(static_cast<size_t>(users)), items_(static_cast<size_t>(items)) {}

// What holds for all steps of a window. `base` is the stamp of the first, `negatives` counts those of all.
struct StepOrder::Window {
    const StepColumns& c;
    const StepOrderOut& out;
    Steps shape;
    uint32_t base;
    int64_t negatives, events_ahead;
};

// Inlined, so that what holds for all steps stays in registers: a window of one-event steps is linked 15 % slower else.
[[gnu::always_inline]] inline int32_t StepOrder::link_step(const Window& w, int64_t step) {
    const StepColumns& c = w.c;
    const StepOrderOut& out = w.out;
    const Steps& shape = w.shape;
    // What is written could be these numbers, for all that the compiler knows, so they are read once.
    const uint32_t base = w.base;
    const auto users = static_cast<uint32_t>(users_.size()), items = static_cast<uint32_t>(items_.size());
    const auto prefetch = [](const HugeVector<Last>& rows, int32_t slot) {
        if (static_cast<uint32_t>(slot) < rows.size()) __builtin_prefetch(&rows[static_cast<size_t>(slot)], 1);
    };
    const uint32_t now = base + static_cast<uint32_t>(step);
    const int64_t first = shape.first_event(step), B = shape.events(step);
    const int64_t first_negative = shape.first_negative(step), negatives = shape.negatives_of(B), all = w.negatives;
    int32_t level = 0;
    // Links reference `r` of a step's table; `next_of` gives where an earlier reference keeps its next.
    const auto touch = [&](Last& last, int64_t r, int32_t* before, auto next_of) {
        if (last.stamp == now) {
            *before = StepLinks::kAgain;
            *next_of(last.reference) = static_cast<int32_t>(r);
        } else if (last.stamp >= base) {
            *before = static_cast<int32_t>(last.stamp - base);
            if (step < kDepthSteps) level = std::max(level, levels_[last.stamp - base]);
        } else {
            *before = StepLinks::kNone;
        }
        last = {now, static_cast<int32_t>(r)};
    };
    int32_t* const user_next = out.user_next + first;
    int32_t* const item_next = out.item_next + first;
    int32_t* const negative_next = out.negative_next + first_negative;
    const auto next_item = [&](int32_t r) { return r < B ? item_next + r : negative_next + (r - B); };
    std::fill_n(user_next, B, StepLinks::kNone);
    std::fill_n(item_next, B, StepLinks::kNone);
    std::fill_n(negative_next, negatives, StepLinks::kNone);
    const auto touch_negatives = [&](int64_t from, int64_t to) {
        const int32_t* slots = c.negative_slots + first_negative;
        for (int64_t j = from; j < to; ++j) {
            if (first_negative + j + kAhead < all) prefetch(items_, slots[j + kAhead]);
            int32_t* const before = out.negative_before + first_negative + j;
            if (slots[j] == -1) {
                *before = StepLinks::kAgain;  // nothing to do for it
                continue;
            }
            if (static_cast<uint32_t>(slots[j]) >= items) return false;
            touch(items_[static_cast<size_t>(slots[j])], B + j, before, next_item);
        }
        return true;
    };
    for (int64_t b = 0; b < B; ++b) {
        if (const int64_t far = first + b + w.events_ahead; far < c.n)
            prefetch(users_, c.user_slots[far]), prefetch(items_, c.item_slots[far]);
        const auto user = static_cast<uint32_t>(c.user_slots[first + b]);
        const auto item = static_cast<uint32_t>(c.item_slots[first + b]);
        if (user >= users || item >= items) return -1;
        touch(users_[user], b, out.user_before + first + b, [&](int32_t r) { return user_next + r; });
        touch(items_[item], b, out.item_before + first + b, next_item);
        // Terms of one row are linked in the order of events, so bpr's negatives follow their event.
        if (!shape.shared() && !touch_negatives(b * c.negatives, (b + 1) * c.negatives)) return -1;
    }
    if (shape.shared() && !touch_negatives(0, negatives)) return -1;
    return level + 1;
}

int64_t StepOrder::find(const StepColumns& c, const StepOrderOut& out) {
    Window w{c, out, {}, 0, 0, 0};
    w.shape.loss = c.loss;
    w.shape.n = c.n;
    w.shape.batch_size = c.batch_size;
    w.shape.negatives = c.negatives;
    const int64_t steps = w.shape.steps();
    if (!steps) return 0;
    if (steps >= UINT32_MAX - stamp_) {
        std::fill(users_.begin(), users_.end(), Last{});
        std::fill(items_.begin(), items_.end(), Last{});
        stamp_ = 1;
    }
    w.base = stamp_;
    stamp_ += static_cast<uint32_t>(steps);  // also if the window is refused: its marks must not be taken for others'
    levels_.resize(static_cast<size_t>(std::min(steps, kDepthSteps)));
    w.negatives = w.shape.first_negative(steps - 1) + w.shape.negatives_of(w.shape.events(steps - 1));
    // Ahead of what is linked now, over the ends of steps: about as many references as memory can have under way.
    w.events_ahead = std::max<int64_t>(1, c.n * kAhead / std::max<int64_t>(1, c.n + w.negatives));
    int32_t depth = 0;
    for (int64_t step = 0; step < steps; ++step) {
        const int32_t level = link_step(w, step);
        if (level < 0) return -1;
        if (step >= kDepthSteps) continue;
        levels_[static_cast<size_t>(step)] = level;
        depth = std::max(depth, level);
    }
    return depth;
}
