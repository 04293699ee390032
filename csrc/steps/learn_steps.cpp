#include "steps/learn_steps.h"

#include <sched.h>

#include <atomic>
#include <barrier>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// What runs a window on CPU threads. Steps are taken in order from `next_`, so the first that is not done has its team
// at work, and waits for nobody.
class Window {
  public:
    Window(const Steps& steps, const StepRun& run)
        : s_(steps), run_(run), steps_(steps.steps()), done_(new std::atomic<bool>[static_cast<size_t>(steps_)]()) {}

    int64_t learn() {
        std::vector<std::unique_ptr<Team>> teams;
        std::vector<std::thread> threads;
        for (int i = 0; i < run_.threads; ++i) teams.push_back(std::make_unique<Team>(s_, run_));
        for (int i = run_.strands; i < run_.threads * run_.strands; ++i)
            threads.emplace_back(
                [this, i, &teams] { work(*teams[static_cast<size_t>(i / run_.strands)], i % run_.strands); });
        for (int i = 1; i < run_.strands; ++i) threads.emplace_back([this, i, &teams] { work(*teams[0], i); });
        work(*teams[0], 0);
        for (std::thread& thread : threads) thread.join();
        move_mean();
        return skipped_;
    }

  private:
    // One block of a GPU, as it were: who learns a step together, and where.
    struct Team {
        Team(const Steps& s, const StepRun& run) : barrier(run.strands) {
            const int64_t B = s.batch_size, references = B + s.negatives_of(B);
            const int64_t width = run.staged ? padded_dim(s.row_floats) : 0;
            const int64_t sizes[] = {
                B * width,       references * width,    B,
                B * s.negatives, B * padded_dim(s.dim), run.strands * room_floats(s.optimizer, s.dim)};
            int64_t total = 0;
            for (int64_t size : sizes) total += padded_dim(size);
            room = std::make_unique<float[]>(static_cast<size_t>(total));
            float* at = room.get();
            float** const parts[] = {&space.user_images,    &space.item_images, &space.positive_coefs,
                                     &space.negative_coefs, &space.query_grads, &space.strand_room};
            for (size_t i = 0; i < std::size(sizes); ++i) *parts[i] = at, at += padded_dim(sizes[i]);
            space.staged = run.staged;
            space.image_width = width;
        }
        StepSpace space{};
        std::unique_ptr<float[]> room;
        std::barrier<> barrier;
        int64_t step = 0;
    };

    void work(Team& team, int strand) {
        const auto meet = [](void* barrier) { static_cast<std::barrier<>*>(barrier)->arrive_and_wait(); };
        const StepTeam who{strand, run_.strands, run_.strands > 1 ? +meet : nullptr, &team.barrier};
        int64_t skipped = 0;
        for (;;) {
            if (strand == 0) take(team);
            who.sync();
            if (team.step >= steps_) break;
            skipped += kernels().learn_step(s_, team.step, team.space, who);
            who.sync();
            if (strand == 0) {
                done_[static_cast<size_t>(team.step)].store(true, std::memory_order_release);
                if (run_.threads == 1) move_mean();
            }
        }
        skipped_ += skipped;
    }

    // The next step, when what it needs is there.
    void take(Team& team) {
        const int64_t step = team.step = next_.fetch_add(1, std::memory_order_relaxed);
        if (step >= steps_) return;
        const int64_t e = s_.first_event(step), k = s_.first_negative(step), B = s_.events(step);
        StepSpace& w = team.space;
        w.user_slots = s_.user_slots + e;
        w.item_slots = s_.item_slots + e;
        w.negative_slots = s_.negative_slots + k;
        w.user_links = {s_.user_links.before + e, s_.user_links.next + e};
        w.item_links = {s_.item_links.before + e, s_.item_links.next + e};
        w.negative_links = {s_.negative_links.before + k, s_.negative_links.next + k};
        if (run_.threads == 1) return;  // one after the other anyway
        for (int64_t i = 0; i < B; ++i) wait_for(w.user_links.before[i]), wait_for(w.item_links.before[i]);
        for (int64_t i = 0; i < s_.negatives_of(B); ++i) wait_for(w.negative_links.before[i]);
        if (s_.fresh)
            for (int64_t i = 0; i < B; ++i)
                if (s_.fresh[e + i]) wait_for_mean(step);
    }

    void wait_for(int32_t step) {
        if (step < 0) return;
        const auto& done = done_[static_cast<size_t>(step)];
        for (int64_t looks = 0; !done.load(std::memory_order_acquire);) wait_for_writer(&looks);
    }

    void wait_for_mean(int64_t step) {
        for (int64_t looks = 0; in_mean_.load(std::memory_order_acquire) < step;) {
            move_mean();
            wait_for_writer(&looks);
        }
    }

    // Takes the mean as far as steps are done, in the order of events; whoever needs it does so. A step that reads the
    // mean is not done yet, so the mean stays before it meanwhile.
    void move_mean() {
        const std::unique_lock lock(mean_mutex_, std::try_to_lock);
        if (!lock) return;
        int64_t step = in_mean_.load(std::memory_order_relaxed);
        for (; step < steps_ && done_[static_cast<size_t>(step)].load(std::memory_order_acquire); ++step) {
            const int64_t first = s_.first_event(step);
            for (int64_t i = first; i < first + s_.events(step); ++i) {
                const float* vector = s_.vectors + i * s_.dim;
                const float rate = mean_rate(s_.mean_count + i + 1);
                kernels().move_mean(s_.mean, &vector, &rate, 1, s_.dim);
            }
        }
        in_mean_.store(step, std::memory_order_release);
    }

    const Steps& s_;
    const StepRun run_;
    const int64_t steps_;
    const std::unique_ptr<std::atomic<bool>[]> done_;
    std::atomic<int64_t> next_{0}, in_mean_{0}, skipped_{0};
    std::mutex mean_mutex_;
};

}  // namespace

int64_t learn_steps(const Steps& steps, const StepRun& run) { return Window(steps, run).learn(); }
