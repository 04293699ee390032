// The kernels, once, over the V16 of the including file: it defines ISA (avx512, avx2, portable) and includes the lanes
// first. Everything is in an unnamed namespace: a function compiled for one instruction set must never serve another.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "kernels/host_device.h"
#include "kernels/kernels.h"
#include "memory/seqlock.h"
#include "steps/learn_steps.h"

namespace ISA {
namespace {
constexpr int kStepRun = 8, kQueryBlocks = 4;  // rows, blocks of sixteen floats that a strand has in hand at once
inline void sum_run(const V16* lanes, float* sums) { sum8(lanes, sums); }
}  // namespace
}  // namespace ISA

// Each group uses those above it.
#include "kernels/exp_log_impl.h"

#include "kernels/loss_rules_impl.h"
#include "kernels/optimizer_impl.h"
#include "kernels/pool_impl.h"

#include "kernels/losses_impl.h"
#include "kernels/pointwise_impl.h"
#include "kernels/scan_impl.h"
#include "kernels/update_rows_impl.h"
#include "steps/learn_steps_impl.h"

namespace ISA {
namespace {

template <int64_t kDim>
int64_t learn_step_dim(const Steps& steps, int64_t step, const StepSpace& space, const StepTeam& team) {
    return learn_one_step<kDim>(steps, step, space, team);
}

int64_t learn_step(const Steps& steps, int64_t step, const StepSpace& space, const StepTeam& team) {
    ROWTIDE_FOR_DIM(steps.dim, learn_step_dim, steps, step, space, team)
}

}  // namespace
}  // namespace ISA

#undef ROWTIDE_FOR_DIM

#define ROWTIDE_TEXT(name) #name
#define ROWTIDE_TEXT_OF(name) ROWTIDE_TEXT(name)

namespace ISA {

// Data and no function: a function here would be of this instruction set, and it would run before anybody has asked
// what the CPU has.
extern constinit const Kernels kTable = {
    .name = ROWTIDE_TEXT_OF(ISA),
    .pool_bag = pool_bag,
    .loss_grads = loss_grads,
    .update_groups = update_groups,
    .learn_step = learn_step,
    .ln = log1,
    .dots = dots,
    .softmax = softmax,
    .move_mean = move_mean,
    .stream_row = stream_row,
    .score_items = score_items,
    .unit = unit,
    .cosine_items = cosine_items,
    .any_at_least = any_over,
};

}  // namespace ISA

#undef ROWTIDE_TEXT
#undef ROWTIDE_TEXT_OF
