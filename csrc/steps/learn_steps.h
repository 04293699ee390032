// Many consecutive small optimizer steps in one call, at the bits of one step after the other.
//
// Two steps that share a row run in order; steps that share none may run side by side. StepOrder finds the order ahead
// of time: it says for every reference to a row which step before was the last to touch it. Steps are taken in order;
// who has taken one waits until those before it that it names are done. The first step that is not done waits for
// nobody, so this cannot lock up. One thing is touched by every event, the running mean of users: steps leave the
// users' vectors behind, and the mean follows them in the order of events. A step with a new user waits for the mean up
// to itself.
//
// An Engine on a CPU does not come here: learn/learner.cpp takes one step after the other. A GPU does, and so does the
// kernel learn_steps for callers of their own. This header is for the CPU and for CUDA, and has no containers. A step's
// arithmetic is in learn_steps_impl.h, how CPU threads run a window in learn_steps.cpp, how a GPU does in
// cuda/learn_steps.cu. Rows are float32 slabs, int64 counts; no ids, no files, no tables.
#pragma once
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/kernels.h"
#include "kernels/mean.h"

// How a step's reference to a row stands to the others of that row.
struct StepLinks {
    const int32_t* before;  // the last earlier step that touches the row; kNone; kAgain: not the step's first reference
    const int32_t* next;    // the step's next reference to the row, or kNone
    static constexpr int32_t kNone = -1, kAgain = -2;
};

// A window of steps. `n` events in steps of `batch_size`, the last may be short. References of a step: its users count
// from 0; of items, first the positives 0..B-1, then the negatives B.. .
struct Steps {
    Loss loss;
    Optimizer optimizer;
    float lr, l2;
    int64_t n, batch_size, negatives, dim, row_floats;  // row_floats: dim + 1 + the optimizer's state
    float* users;                                       // [U, user_width]
    float* items;                                       // [I, item_width]
    int64_t user_width, item_width;
    const int32_t* user_slots;      // [n]
    const int32_t* item_slots;      // [n]
    const int32_t* negative_slots;  // softmax [steps, K], shared by a step; bpr [n, K]; -1: none
    StepLinks user_links, item_links, negative_links;
    const float* weights;  // [n] or null for ones
    const float* values;   // [n], of pointwise losses
    const float* offsets;  // [n] or null for zeros, of pointwise losses: of an event's score, before the user's bias
    const uint8_t* fresh;  // [n] or null: 1 at the first event of a user that is new in this step
    float* mean;           // [dim]
    int64_t mean_count;    // events in the mean before the window
    float* losses;         // [n]
    float* vectors;        // [n, dim], scratch: the user's vector after the event's step

    ROWTIDE_HD int64_t steps() const { return (n + batch_size - 1) / batch_size; }
    ROWTIDE_HD int64_t first_event(int64_t step) const { return step * batch_size; }
    ROWTIDE_HD int64_t events(int64_t step) const {
        const int64_t left = n - step * batch_size;
        return left < batch_size ? left : batch_size;
    }
    ROWTIDE_HD bool shared() const { return loss == Loss::softmax; }
    ROWTIDE_HD bool pointwise() const { return is_pointwise(loss); }
    ROWTIDE_HD int64_t first_negative(int64_t step) const { return step * negatives * (shared() ? 1 : batch_size); }
    ROWTIDE_HD int64_t negatives_of(int64_t events) const { return shared() ? negatives : events * negatives; }
};

// Where a step keeps what it needs only until its end. Its slots and links are those of Steps, or a copy.
// `staged`: the rows are copied here first, one image for each reference, read from here, and written where they
// belong. Else they are read in place.
struct StepSpace {
    const int32_t *user_slots, *item_slots, *negative_slots;  // of this step
    StepLinks user_links, item_links, negative_links;
    bool staged;
    int64_t image_width;
    float *user_images, *item_images;  // [B, image_width], [B + negatives, image_width]
    float* positive_coefs;             // [B]
    float* negative_coefs;             // [B, K]
    float* query_grads;                // [B, padded dim]
    float* strand_room;                // [strands, room_floats]
};

// What a strand needs for one row: the new vector, and those that the optimizer keeps.
ROWTIDE_HD inline int64_t room_floats(Optimizer optimizer, int64_t dim) {
    return padded_dim(dim) * (1 + state_of(optimizer).vectors);
}

// Who works on one step: `strands` of them, each with sixteen lanes. On the CPU one thread alone, or (in tests) several
// that meet at a barrier, as the half warps of a block do on a GPU.
struct StepTeam {
    int strand, strands;
    void (*meet)(void*);
    void* barrier;
    void sync() const {
        if (meet) meet(barrier);
    }
    // A copy that is there after fetched() and sync().
    void fetch(float* to, const float* from, int64_t floats) const {
        for (int64_t i = 0; i < floats; ++i) to[i] = from[i];
    }
    void fetched() const {}
};

// How a window runs on the CPU. `threads` work side by side as the blocks of a GPU would. For tests: each of them a
// team of `strands` threads, with staged rows.
struct StepRun {
    int threads = 1, strands = 1;
    bool staged = false;
};

// Learns the window; returns how many rows were left as they were because something was not finite.
int64_t learn_steps(const Steps& steps, const StepRun& run);
