// Learns windows of consecutive micro-batches: plan() makes their rows resident, learn() runs the steps.
//
// The writer's thread only. plan() may be called again for the same window after rows were fetched or an epoch made
// room. What it computes depends on the record, the settings and the state before it alone: not on slots, windows or
// tiers.
#pragma once
#include <array>
#include <unordered_map>

#include "kernels/draws.h"
#include "kernels/kernels.h"
#include "kernels/mean.h"
#include "learn/companion.h"
#include "learn/context.h"
#include "learn/recent.h"
#include "table/catalogue.h"
#include "table/history.h"
#include "table/hot.h"
#include "table/warm.h"

struct LearnSettings {
    Loss loss;
    Optimizer optimizer;
    float lr, l2;
    int64_t negatives, batch_size;
    uint64_t seed;
    ContextSettings context{};
    int64_t recent_negatives = 0, own_negatives = 0;
    int64_t gate_events = 0;  // of a user, after which others are shown what he brought in

    // Does a step look at what the user has had? Then sequence.cpp learns it.
    bool sequence() const {
        return context.bag || context.repeats || context.neighbours || recent_negatives || own_negatives;
    }
    bool operator==(const LearnSettings&) const = default;
};

// Consecutive events of one record; `values` (labels or ratings) is null for losses that rank; `weights`, `times` and
// `marks` may be null (Moment says what they are). Event i has seq first_seq + i.
struct RecordView {
    const int64_t *users, *items;
    const float *values, *weights;
    int64_t n;
    uint64_t first_seq;
    const uint32_t *times = nullptr, *marks = nullptr;

    Moment moment(int64_t i) const { return {times ? times[i] : 0, marks ? marks[i] : 0}; }
};

struct Learned {
    double loss = 0;  // summed over events
    int64_t events = 0, new_users = 0, new_items = 0, skipped = 0, warm = 0, cold = 0;
};

// What the plan of a micro-batch found out for sequence.cpp, from histories as they are at each of its events.
struct SequencePlan {
    struct View {
        int alpha;              // the weight of the user's vector
        float share;            // of the event's loss
        uint32_t bag, bag_end;  // its part of bag_slots
        uint32_t features;      // the first of feature_ends, of its first candidate
    };
    struct Event {
        uint32_t candidates, end;     // its part of slots: the positive, then negatives
        uint32_t before, before_end;  // its part of before_slots
        int views;
        bool known;  // has a user who was known by then had the item for the first time?
        std::array<View, 2> view;
    };
    std::vector<Event> events;
    std::vector<HistoryEntry> entries;  // that the events will leave
    std::vector<uint32_t> slots, bag_slots, feature_ends;
    std::vector<uint32_t> before_slots;  // rows that get the event's item as a neighbour, the newest first
    std::vector<int> bag_weights;
    std::vector<float> log_weights;
    // Of an event's candidates: what the user has had of them, or null; how near they are.
    std::vector<const HistoryEntry*> had;
    std::vector<float> near;
    std::vector<Near::Item> near_alone;  // near, and not had
    std::vector<Feature> features;
    std::vector<HistoryEntry> later;
};

// Coordinate `d` of the vector of a new row; a user's is beside the running mean.
inline float user_noise(uint64_t seed, int64_t id, int64_t d) { return 0.01f * noise(seed, 1, id, d); }
inline float item_noise(uint64_t seed, int64_t id, int64_t d) { return 0.05f * noise(seed, 2, id, d); }

// What a pair is predicted to be before anything is known of either: the mean of the values so far; logistic: the log
// odds of a 1, with half an event of each kind beforehand. 0 for losses that rank. `value_sum` is of weight x value.
float base_score(Loss loss, double value_sum, double value_weight);

class Learner {
  public:
    Learner(Warm& users, Warm& items, Catalogue& catalogue, History& history)
        : users_(users),
          items_(items),
          catalogue_(catalogue),
          history_(history),
          mean(static_cast<size_t>(catalogue.dim())) {}
    ~Learner() {
        if (users_.planned_by == this) stand_on(nullptr);
    }
    Learner(const Learner&) = delete;
    Learner& operator=(const Learner&) = delete;

    // Rows that a micro-batch can need at most, per table.
    static int64_t users_needed(const LearnSettings& s) { return s.batch_size; }
    static int64_t items_needed(const LearnSettings& s) {
        if (s.sequence())
            return s.batch_size * (1 + s.negatives + s.recent_negatives + s.own_negatives + s.context.bag +
                                   (s.context.neighbours ? 2 * static_cast<int64_t>(Neighbours::kSources) : 0));
        return s.loss == Loss::softmax ? s.batch_size + s.negatives : s.batch_size * (1 + s.negatives);
    }

    enum class Plan { ready, fetch, blocked };
    // Plans the window that starts at event `from`. fetch: missing_users, missing_items and those of companions must be
    // given to the tables first. blocked: every row is dirty or pinned, an epoch must end first. Then call again.
    Plan plan(const LearnSettings& s, const RecordView& r, int64_t from);
    std::vector<uint32_t> missing_users, missing_items;  // slots marked kFetching
    // One more table that every event touches; before the first plan. It and its rule are kept alive by the caller.
    void accompany(Warm& table, KeyedBy keyed_by, const RowRule& rule) {
        companions_.push_back({&table, keyed_by, &rule});
    }
    const std::vector<Companion>& companions() const { return companions_; }
    // The missing rows that exist were filled. Rows that were not are new; false if an item was not.
    bool delivered();
    // Rows left the tables. The mean starts anew where no user is left.
    void rows_removed();
    Warm& users() const { return users_; }
    Warm& items() const { return items_; }
    // Learns the planned window and unpins it.
    Learned learn(const LearnSettings& s, const RecordView& r);
    // The same window where a device learns it, in three steps (learner_device.cpp). First what is random in new rows,
    // before they are copied there; a user's row wants the running mean of its moment added to its vector.
    void fill_fresh(const LearnSettings& s);
    // Then which places the events name. `fresh` [n]: 1 at the first event of a new user; `offsets` [n], for pointwise
    // losses: what the event's score adds to the user's bias. Negatives: -1 for none.
    struct DeviceRefs {
        int64_t *users, *items, *negatives;
        uint8_t* fresh;
        float* offsets;
    };
    int64_t negative_refs() const { return std::ssize(negative_slots_); }
    void device_refs(const LearnSettings& s, const RecordView& r, const Hot& users, const Hot& items,
                     const DeviceRefs& out) const;
    // Last, once the device has been told to learn it, what follows from the events alone; unpins the window. The
    // losses, the steps that were refused and the mean are the device's, and come in later.
    Learned device_marked(const LearnSettings& s, const RecordView& r, Hot& hot_users, Hot& hot_items);
    // Where the device may draw negatives by itself, for every item has a place in this tier; null: it may not.
    const Hot* draws_on = nullptr;
    // Would a window of the next `events` events have its negatives drawn there? Then its items are not planned, pinned
    // or marked, but for the positives: nothing may leave RAM or the tier in it, and who knows what was drawn marks it.
    bool may_draw(const LearnSettings& s, int64_t events) const;
    // Of the planned window, if it has them drawn: the items that there were before each step. Else empty.
    std::vector<int64_t> known_items;
    // Rows that a window may need at most, per table; what the tables can hold unless told otherwise.
    int64_t user_room = INT64_MAX, item_room = INT64_MAX;
    int64_t window_events() const { return end_ - begin_; }
    // Are the rows those of these settings?
    bool fits(const LearnSettings& s) const {
        const int64_t floats = row_floats(s.optimizer, dim());
        return floats == users_.layout().floats &&
               floats + Neighbours::floats(s.context.neighbours) == items_.layout().floats;
    }
    // Does a window stand ready that was planned for this record with these settings?
    bool planned(const LearnSettings& s, const RecordView& r) const {
        return ready_ && r.n == planned_n_ && s == planned_;
    }

  private:
    Warm &users_, &items_;
    Catalogue& catalogue_;
    History& history_;

  public:
    std::vector<float> mean;  // of the users' vectors, running over events (table state)
    uint64_t mean_count = 0;  // events in it
    // The values learned so far, weighted: their sum, and that of the weights (table state).
    double value_sum = 0, value_weight = 0;
    GlobalWeights global;  // table state; readers take the users' mutex
    RecentItems recent;    // table state
    // When the latest events were, of those that say so, in order (table state; the same mutex).
    std::vector<uint32_t> clock;
    static constexpr size_t kMostClock = 15;

  private:
    int64_t dim() const { return catalogue_.dim(); }
    void stand_on(const Learner* rows_of) {
        users_.planned_by = items_.planned_by = catalogue_.planned_by = rows_of;
        for (const Companion& c : companions_) c.table->planned_by = rows_of;
    }
    static constexpr uint32_t kNone = Warm::kNone;
    static constexpr uint64_t kNoOrdinal = UINT64_MAX;
    int64_t window_steps(const LearnSettings& s) const;
    void begin_window(const LearnSettings& s, const RecordView& r, int64_t from, int64_t end);
    bool plan_event(const RecordView& r, int64_t b, uint64_t* known);
    bool plan_negatives(const LearnSettings& s, const RecordView& r, int64_t b0, uint64_t before);
    void prefetch_plan(const RecordView& r, int64_t b) const;
    uint32_t resolve(Warm& table, int64_t id, std::vector<uint32_t>* missing, int64_t* made);
    uint32_t resolve_item(int64_t id, int64_t event, uint64_t* known);
    bool is_item(uint64_t ordinal, int64_t before_event) const;
    uint64_t draw(const LearnSettings& s, uint64_t seq, uint64_t k, uint64_t below, int64_t before_event) const;
    uint32_t resolve_ordinal(uint64_t ordinal);
    void first_sums(const LearnSettings& s, float* row) const;
    void make_fresh(const LearnSettings& s, const uint32_t* users, int64_t n_users, const uint32_t* items,
                    int64_t n_items);
    // Events [b0, b1) of the record, and what the window has planned for them.
    struct MicroBatch {
        int64_t b0, b1;
        const uint32_t *users, *items, *negatives;  // slots
        int64_t n_negatives;                        // of all events together
        bool shared;                                // one list of negatives for all events
        int64_t events() const { return b1 - b0; }
    };
    int64_t learn_batch(const LearnSettings& s, const RecordView& r, int64_t b0, int64_t b1, double* loss);
    void find_grads(const LearnSettings& s, const RecordView& r, const MicroBatch& m);
    int64_t step_items(const LearnSettings& s, const MicroBatch& m, uint64_t first_seq);
    int64_t step_users(const LearnSettings& s, const RecordView& r, const MicroBatch& m);
    void learn_companions(const RecordView& r, int64_t from, int64_t to);
    int64_t update_items(const UpdateTask& step, int64_t per_event, uint64_t first_seq);
    int64_t update_users(const LearnSettings& s, const UpdateTask& step, const RecordView& r, const MicroBatch& m);
    Plan plan_sequence(const LearnSettings& s, const RecordView& r, int64_t from);
    bool plan_views(const LearnSettings& s, const RecordView& r, int64_t b, uint64_t before);
    bool plan_candidates(const LearnSettings& s, uint64_t seq, int64_t b, uint64_t before);
    bool plan_near(int64_t item, bool* known);
    bool add_candidate(uint32_t slot, const HistoryEntry* had, float near, float log_weight);
    int64_t learn_sequence(const LearnSettings& s, const RecordView& r, double* loss);
    void find_sequence_grads(const LearnSettings& s, const RecordView& r);
    float learn_views(const LearnSettings& s, int64_t b, float weight);
    int64_t step_sequence_items(const LearnSettings& s, const RecordView& r);
    void learn_neighbours(const RecordView& r);
    Neighbours neighbours_of(uint32_t slot) const {
        return {items_.row(slot) + users_.layout().floats, planned_.context.neighbours};
    }
    void gather_rows(Warm& table);
    void count_values(const RecordView& r, int64_t b0, int64_t b1);
    void end_window(Learned* out);

    int64_t begin_ = 0, end_ = 0, made_users_ = 0, made_items_ = 0, fetched_ = 0;
    bool ready_ = false;
    LearnSettings planned_{};
    int64_t planned_n_ = 0;
    std::vector<uint32_t> user_slots_, item_slots_, negative_slots_;
    std::vector<Companion> companions_;
    std::vector<uint64_t> ordinals_;
    // Gaps of the catalogue that items of the window took: ordinal -> the event that brought the item.
    std::unordered_map<uint64_t, int64_t> taken_gaps_;
    // scratch of one micro-batch
    std::vector<const float*> queries_, positives_, negatives_, sources_;
    std::vector<float> losses_, query_grads_, coefs_, term_coefs_, offsets_, scratch_;
    std::vector<float> user_grads_, queries_of_views_, bias_coefs_, dots_;  // sequence.cpp's
    std::vector<uint32_t> term_slots_;
    std::vector<float*> rows_;
    Groups groups_;
    SequencePlan sequence_;
    Context context_;
    Near near_;
};
