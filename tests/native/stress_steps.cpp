// Windows of small steps under threads, without Python: four threads as blocks, and teams whose strands meet at a
// barrier as the half warps of a block do, against one step after the other.
//
//   stress_steps SECONDS [SEED]
//
// Every round draws a window: a loss, an optimizer, sizes, tables of very few rows (each step waits for the one before)
// up to many. Rows, mean and losses must be the same, bit for bit. Any difference is printed and ends the program with
// status 1; races and bad accesses are the sanitizers' to find.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/draws.h"
#include "steps/learn_steps.h"
#include "steps/step_order.h"
#include "stream.h"

namespace {

struct Draw {
    uint64_t seed, count = 0;
    int64_t below(int64_t n) { return static_cast<int64_t>(draw_below(seed, 1, count++, static_cast<uint64_t>(n))); }
    float real() { return noise(seed, 3, 1, static_cast<int64_t>(count++)); }
};

struct Columns {
    std::vector<int32_t> slots, before, next;
    explicit Columns(int64_t n) : slots(static_cast<size_t>(n)), before(slots), next(slots) {}
};

struct Round {
    std::vector<float> users, items, mean, losses;
    int64_t skipped = 0;
};

// Learns the window from the rows of `start`.
Round learned(Steps s, const Round& start, const StepRun& run) {
    Round out = start;
    std::vector<float> vectors(static_cast<size_t>(s.n * s.dim));
    s.users = out.users.data();
    s.items = out.items.data();
    s.mean = out.mean.data();
    s.losses = out.losses.data();
    s.vectors = vectors.data();
    out.skipped = learn_steps(s, run);
    return out;
}

void compare(const char* what, const std::vector<float>& got, const std::vector<float>& want, uint64_t seed) {
    for (size_t i = 0; i < want.size(); ++i)
        if (std::memcmp(&got[i], &want[i], sizeof(float))) wrong(what, static_cast<int64_t>(i), seed);
}

int64_t round_of(uint64_t seed) {
    Draw draw{seed};
    Steps s{};
    s.loss = static_cast<Loss>(draw.below(kLosses));
    s.optimizer = static_cast<Optimizer>(draw.below(kOptimizers));
    s.lr = 0.05f;
    s.l2 = draw.below(2) ? 0.01f : 0.0f;
    s.n = draw.below(600);
    s.batch_size = 1 + draw.below(draw.below(3) ? 3 : 40);
    s.negatives = s.pointwise() ? 0 : draw.below(draw.below(2) ? 4 : 40);
    s.dim = 1 + draw.below(70);
    s.row_floats = s.dim + 1 + state_floats(s.optimizer, s.dim);
    s.user_width = s.row_floats + draw.below(5);
    s.item_width = s.row_floats + draw.below(5);
    constexpr int64_t kRows[] = {2, 10, 100, 5000};
    const int64_t users = kRows[draw.below(4)], items = kRows[draw.below(4)];
    const int64_t all = s.shared() ? s.steps() * s.negatives : s.n * s.negatives;

    Columns user(s.n), item(s.n), negative(all);
    for (int32_t& slot : user.slots) slot = static_cast<int32_t>(draw.below(users));
    for (int32_t& slot : item.slots) slot = static_cast<int32_t>(draw.below(items));
    for (int32_t& slot : negative.slots) slot = static_cast<int32_t>(draw.below(items + 1)) - 1;
    StepOrder order(users, items);
    const StepOrderOut out{user.before.data(), user.next.data(),       item.before.data(),
                           item.next.data(),   negative.before.data(), negative.next.data()};
    order.find({s.loss, s.n, s.batch_size, s.negatives, user.slots.data(), item.slots.data(), negative.slots.data()},
               out);
    s.user_slots = user.slots.data();
    s.item_slots = item.slots.data();
    s.negative_slots = negative.slots.data();
    s.user_links = {out.user_before, out.user_next};
    s.item_links = {out.item_before, out.item_next};
    s.negative_links = {out.negative_before, out.negative_next};

    const auto n = static_cast<size_t>(s.n);
    std::vector<float> weights(n), values(n), offsets(n);
    std::vector<uint8_t> fresh(n), seen(static_cast<size_t>(users));
    for (size_t i = 0; i < n; ++i) {
        weights[i] = 1.0f + draw.real();
        values[i] = static_cast<float>(draw.below(2));
        offsets[i] = draw.real();
        uint8_t& met = seen[static_cast<size_t>(user.slots[i])];
        fresh[i] = !met && draw.below(2);  // not every user: some were there before
        met = 1;
    }
    if (draw.below(2)) s.weights = weights.data();
    if (draw.below(2)) s.fresh = fresh.data();
    if (s.pointwise()) s.values = values.data(), s.offsets = offsets.data();

    Round start;
    start.users.resize(static_cast<size_t>(users * s.user_width));
    start.items.resize(static_cast<size_t>(items * s.item_width));
    start.mean.resize(static_cast<size_t>(s.dim));
    start.losses.resize(n);
    for (float& x : start.users) x = 0.1f + 0.1f * draw.real();
    for (float& x : start.items) x = 0.1f + 0.1f * draw.real();

    const Round want = learned(s, start, {});
    for (const StepRun& run : {StepRun{4, 1, false}, StepRun{2, 2, true}, StepRun{1, 4, false}, StepRun{4, 1, true}}) {
        const Round got = learned(s, start, run);
        compare("a user's row", got.users, want.users, seed);
        compare("an item's row", got.items, want.items, seed);
        compare("the mean", got.mean, want.mean, seed);
        compare("a loss", got.losses, want.losses, seed);
        if (got.skipped != want.skipped) wrong("rows left as they were", got.skipped, seed);
    }
    return s.steps();
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
    auto seed = static_cast<uint64_t>(argc > 2 ? std::atoll(argv[2]) : 0);
    const auto began = std::chrono::steady_clock::now();
    int64_t rounds = 0, steps = 0;
    do {
        select_kernels(rounds % 3 == 0 ? "avx2" : rounds % 3 == 1 ? "portable" : "avx512");
        steps += round_of(seed++);
        ++rounds;
    } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < seconds);
    std::printf("stress_steps: %lld windows of %lld steps, each on four teams: all as it should be\n",
                static_cast<long long>(rounds), static_cast<long long>(steps));
    return 0;
}
