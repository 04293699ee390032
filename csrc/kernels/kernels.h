// The arithmetic of learning and ranking, as functions over raw pointers. No state, no files, no threads, no locks.
//
// Each instruction set fills one `Kernels` table (isa/isa_*.cpp) from the same source, isa/table_impl.h. All tables
// give the same bits: sixteen accumulators, one fixed tree, fma only where it is written, no libm.
//
// A row is float[dim] vector, then bias, then the optimizer's state (optimizer.h); what follows is the table's.
#pragma once
#include <sched.h>

#include <atomic>
#include <cstdint>

#include "kernels/groups.h"
#include "kernels/host_device.h"
#include "kernels/optimizer.h"

enum class Loss { softmax = 0, bpr = 1, logistic = 2, squared = 3 };

inline constexpr int kLosses = 4;

// Learns a value for each pair, instead of ranking the positive above negatives.
ROWTIDE_HD constexpr bool is_pointwise(Loss loss) { return loss == Loss::logistic || loss == Loss::squared; }

// One micro-batch before its update. Pointers to rows; a negative that is null is masked for every event.
// softmax and bpr rank the positive against negatives. Pointwise losses predict `values` by the score of the
// positive plus the event's offset; they have no negatives.
struct LossTask {
    Loss loss;
    int64_t events, negatives, dim;     // B, K, D
    const float* const* queries;        // [B] pooled user vectors, D floats each
    const float* const* positives;      // [B] item rows
    const float* const* negative_rows;  // softmax: [K], shared; bpr: [B, K]
    const float* weights;               // [B] or null for ones
    const float* values;                // [B] of pointwise losses; else null
    const float* offsets;               // [B] or null for zeros
    float* losses;                      // [B]
    float* query_grads;                 // [B, D] rows `grad_stride` apart
    int64_t grad_stride;
    float* positive_coefs;  // [B]    dL/d score of the positive
    float* negative_coefs;  // [B, K] dL/d score of each negative, 0 where masked (null, or the event's positive)
};

// What one optimizer step needs: term t adds coefs[t] * sources[t] to the gradient of its row's vector, and
// bias_coefs[t] to that of its bias.
struct UpdateTask {
    Optimizer optimizer;
    int64_t dim;
    const float* const* sources;  // [terms]
    const float* coefs;           // [terms]
    const float* bias_coefs;      // [terms], or null: biases stay as they are
    float lr, lr_bias, l2;
};

// Items to be scored: vectors [n, stride], biases [n]; `versions` has one counter for each 64 of them, odd while a
// writer is inside (null where nobody writes).
struct ScoreBlock {
    const float* vectors;
    const float* biases;
    const std::atomic<uint32_t>* versions;
    int64_t n, stride;
};

inline constexpr int64_t kItemsPerVersion = 64;
inline constexpr float kEps = 1e-8f;  // of Adagrad and Adam
inline constexpr float kBeta1 = 0.9f, kBeta2 = 0.999f;
inline constexpr int64_t kSegmentTerms = 64;

// Floats of a vector in whole blocks of sixteen.
ROWTIDE_HD constexpr int64_t padded_dim(int64_t dim) { return (dim + 15) / 16 * 16; }

// Between two looks at a version that is odd or has moved. A writer that was put to sleep inside needs this core.
static inline void wait_for_writer(int64_t* looks) {
    if (++*looks > 16) ::sched_yield();
}

struct Steps;
struct StepSpace;
struct StepTeam;

struct Kernels {
    const char* name;
    // out[B, dim] = sum of weights * rows of each bag
    void (*pool_bag)(const float* const* rows, const float* weights, int64_t n, int64_t dim, float* out);
    void (*loss_grads)(const LossTask& step);
    // One optimizer step on the rows of groups [from, to); rows[g] is the row of group g. Returns how many were left
    // unchanged because something was not finite. `scratch` has 3 * dim rounded up to 16 floats.
    int64_t (*update_groups)(const UpdateTask& step, const Groups& groups, int64_t from, int64_t to, float* const* rows,
                             float* scratch);
    // One step of a window, by a strand of a team (steps/learn_steps.h). Returns as update_groups does.
    int64_t (*learn_step)(const Steps& steps, int64_t step, const StepSpace& space, const StepTeam& team);
    float (*ln)(float x);  // of finite x >= 1
    // out[i] = query . rows[i]
    void (*dots)(const float* query, const float* const* rows, int64_t n, int64_t dim, float* out);
    // The scores of n negatives become dL / d score, that of the positive too; returns the event's loss.
    float (*softmax)(float* scores, int64_t n, float* positive, float weight);
    // mean += rates[i] * (rows[i] - mean), for each of n rows in turn
    void (*move_mean)(float* mean, const float* const* rows, const float* rates, int64_t n, int64_t dim);
    // A copy past the cache; `to` is aligned to 64 bytes, and what rounds dim up to 16 becomes zeros. Needs a fence.
    void (*stream_row)(float* to, const float* from, int64_t dim);
    // scores[i] = query . item i + bias i, for i in [from, to) with to - from <= 64 and one version
    void (*score_items)(const float* query, int64_t dim, const ScoreBlock& block, int64_t from, int64_t to,
                        float* scores);
    // out = x / |x|, or zeros where x is all zeros; any finite x, for it is first scaled by a power of two
    void (*unit)(const float* x, int64_t dim, float* out);
    // As score_items, with scores[i] = the cosine of `query`, a unit vector, and item i, in [-1, 1]; 0 if either is
    // zero
    void (*cosine_items)(const float* query, int64_t dim, const ScoreBlock& block, int64_t from, int64_t to,
                         float* scores);
    bool (*any_at_least)(const float* scores, int64_t n, float threshold);
};

const Kernels& kernels();              // the table in force
bool select_kernels(const char* isa);  // "avx512", "avx2" or "portable"; false where this CPU lacks it
bool kernels_available(const char* isa);
