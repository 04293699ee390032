// The C++ core under threads, without Python: one writer that learns, a thread that writes epochs, readers of all
// kinds.
//
//   stress SECONDS [SEED]
//
// The tables are so small that rows leave and come back all the time. Every event is a pure function of its seq, so a
// reader can tell from what it sees whether it is whole: a row's (seq, count) is that of one event, a history entry's
// (item, seq) too, and the floats of a row are among those that the same events gave when one thread learned them, one
// by one, with room for all. At the end every row must be the same, bit for bit. Any difference is printed and ends the
// program with status 1; leaks, races and bad accesses are the sanitizers' to find.
//
// Three companion tables stand beside users and items: by user, by item, and of one row (companions.h).
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>
#include <unordered_set>

#include "companions.h"
#include "kernels/score_topk.h"
#include "stream.h"

namespace {

constexpr int64_t kEvents = 6000, kRecord = 500, kRoom = 150, kNegatives = 4;
constexpr int64_t kSmallHistories = 96 * 128;  // bytes: the budget is felt
using Bytes = std::vector<std::byte>;

uint64_t hashed(int64_t id, const void* data, size_t n) {
    return std::hash<std::string_view>{}({static_cast<const char*>(data), n}) ^ mix64(static_cast<uint64_t>(id));
}

// LMDB's part: what epochs have committed. A reader that missed a row in RAM looks here, later.
struct Store {
    std::mutex mutex;
    std::map<const Warm*, std::map<int64_t, Bytes>> rows;
    std::map<std::pair<int64_t, uint8_t>, std::vector<HistoryEntry>> chunks;
};

// The optimizer changes from round to round, the loss from record to record, and with it how negatives are drawn.
struct Kinds {
    uint64_t seed;
    Optimizer optimizer;
    static Loss loss(int64_t event) { return static_cast<Loss>(event / kRecord % kLosses); }
    static int64_t negatives(int64_t event) { return is_pointwise(loss(event)) ? 0 : kNegatives; }
    LearnSettings settings(int64_t event) const {
        return {loss(event), optimizer, 0.1f, 0.001f, negatives(event), 1, seed};
    }
};

// What the events give when they are learned one by one.
struct Truth {
    std::vector<uint32_t> user_count, item_count;  // by seq: how many events had named its user, its item
    std::unordered_set<uint64_t> user_floats, item_floats, item_rows;
    std::map<int64_t, Bytes> users, items;  // at the end
    std::map<int64_t, std::vector<HistoryEntry>> histories;

    Truth(const Stream& stream, const Kinds& kinds) {
        Tables t(kinds.optimizer, 4096, int64_t{1} << 40);
        std::map<int64_t, uint32_t> had_user, had_item;
        user_count.push_back(0), item_count.push_back(0);
        Bytes row(static_cast<size_t>(t.users.layout().stored_bytes));
        const auto floats = static_cast<size_t>(t.users.layout().meta_offset);
        for (int64_t e = 0; e < kEvents; ++e) {
            const auto seq = static_cast<uint64_t>(e + 1);
            const int64_t user = stream.user(seq), item = stream.item(seq);
            const auto before = static_cast<uint64_t>(t.catalogue.size());
            const LearnSettings s = kinds.settings(e);
            const float value = stream.value(seq);
            const RecordView r{&user, &item, &value, nullptr, 1, seq};
            while (t.learner.plan(s, r, 0) != Learner::Plan::ready)
                if (!t.learner.delivered()) wrong("an item that is nowhere", item, seq);
            t.learner.learn(s, r);
            user_count.push_back(++had_user[user]), item_count.push_back(++had_item[item]);
            t.users.peek(user, row.data());
            user_floats.insert(hashed(user, row.data(), floats));
            const auto keep = [&](int64_t id) {
                if (!t.items.peek(id, row.data())) wrong("the item is gone", id, seq);
                item_rows.insert(hashed(id, row.data(), floats));
                item_floats.insert(hashed(id, row.data(), static_cast<size_t>(kDim + 1) * 4));
            };
            keep(item);
            const auto most = static_cast<uint64_t>(s.negatives);
            for (uint64_t k = 0; k < std::min(before, most); ++k)
                keep(
                    t.catalogue.id(static_cast<int64_t>(before <= most ? k : draw_below(stream.seed, seq, k, before))));
        }
        for (auto [table, out] : {std::pair{&t.users, &users}, std::pair{&t.items, &items}}) {
            std::vector<int64_t> ids;
            table->resident(&ids);
            for (int64_t id : ids) table->peek(id, row.data()), (*out)[id] = row;
        }
        for (const auto& [id, _] : users) {
            const auto [first, n, tags, newest] = t.history.view(t.users.find(id));
            histories[id] = {first, first + n};
        }
    }
};

class Stress {
  public:
    Stress(const Stream& stream, const Kinds& kinds, const Truth& truth)
        : stream_(stream), kinds_(kinds), truth_(truth), t_(kinds.optimizer, kRoom, kSmallHistories) {
        companions_.emplace_back(stream, KeyedBy::user, 3, kRoom * 2 / 3, kEvents);
        companions_.emplace_back(stream, KeyedBy::item, 37, kRoom / 2, kEvents);
        companions_.emplace_back(stream, KeyedBy::one, 1, 1, kEvents);
        for (SummedTable& c : companions_) c.join(&t_.learner), tables_.push_back(&c.table);
    }

    void run() {
        std::vector<std::thread> readers;
        readers.emplace_back([this] { until_done([this](uint64_t n) { rank(n, 1); }); });
        readers.emplace_back([this] { until_done([this](uint64_t n) { look_at_items(n); }); });
        readers.emplace_back([this] { until_done([this](uint64_t n) { look_at_rows(n); }); });
        readers.emplace_back([this] { until_done([this](uint64_t n) { count(n); }); });
        std::thread epochs([this] { write_epochs(); });
        write();
        finish_epoch();
        {
            std::lock_guard lock(epoch_mutex_);
            closing_ = true;
        }
        epoch_wakes_.notify_all();
        done_ = true;
        epochs.join();
        for (auto& thread : readers) thread.join();
        compare();
    }
    uint64_t looks() const { return looks_; }
    int64_t epochs() const { return epochs_; }
    int64_t evicted() const {
        int64_t n = 0;
        for (const Warm* table : tables_) n += table->evicted();
        return n;
    }

  private:
    template <class Look>
    void until_done(Look look) {
        for (uint64_t n = 0; !done_; ++n) look(mix64(n)), ++looks_;
    }

    // --- the writer

    void write() {
        std::vector<int64_t> users(kRecord), items(kRecord);
        std::vector<float> values(kRecord);
        uint64_t windows = 0;
        for (int64_t e = 0; e < kEvents; e += kRecord) {
            for (size_t i = 0; i < kRecord; ++i) {
                const uint64_t seq = static_cast<uint64_t>(e) + i + 1;
                users[i] = stream_.user(seq), items[i] = stream_.item(seq), values[i] = stream_.value(seq);
            }
            const RecordView r{users.data(), items.data(), values.data(),
                               nullptr,      kRecord,      static_cast<uint64_t>(e + 1)};
            const LearnSettings s = kinds_.settings(e);
            for (int64_t from = 0; from < kRecord;) {
                make_ready(s, r, from);
                from += t_.learner.learn(s, r).events;
                learned_ = e + from;
                if (t_.users.crowded() || t_.items.crowded() || ++windows % 3 == 0) begin_epoch(true);
            }
            begin_epoch(e / kRecord % 5 != 3);  // every fifth fails: its rows are dirty again
        }
    }

    // One epoch makes room, one delivery brings all rows: those that the window has in RAM are pinned meanwhile.
    void make_ready(const LearnSettings& s, const RecordView& r, int64_t from) {
        int epochs = 0, deliveries = 0;
        Learner::Plan plan;
        while ((plan = t_.learner.plan(s, r, from)) != Learner::Plan::ready) {
            if (plan == Learner::Plan::blocked) {
                if (epochs++) wrong("no room after an epoch", from, r.first_seq);
                begin_epoch(true);
                finish_epoch();
                continue;
            }
            if (deliveries++) wrong("a planned window's row left", from, r.first_seq);
            deliver();
            if (!t_.learner.delivered()) wrong("an item has no row", 0, r.first_seq);
        }
    }

    void deliver() {
        std::lock_guard lock(store_.mutex);
        for (uint32_t slot : std::vector(t_.learner.missing_users)) {
            const int64_t id = t_.users.meta(slot).id;
            for (uint8_t c = 0; c < 16; ++c)
                if (const auto chunk = store_.chunks.find({id, c}); chunk != store_.chunks.end())
                    t_.history.load(slot, chunk->second.data(), std::ssize(chunk->second), false);
        }
        fill(&t_.users, t_.learner.missing_users);
        fill(&t_.items, t_.learner.missing_items);
        for (const Companion& c : t_.learner.companions()) fill(c.table, c.missing);
    }
    void fill(Warm* table, const std::vector<uint32_t>& missing) {
        const auto& stored = store_.rows[table];
        for (uint32_t slot : missing)
            if (const auto found = stored.find(table->meta(slot).id); found != stored.end())
                table->fill(slot, found->second.data());
    }

    void begin_epoch(bool commits) {
        finish_epoch();
        frozen_at_ = learned_.load();
        for (Warm* table : tables_) table->freeze();
        t_.history.freeze();
        {
            std::lock_guard lock(epoch_mutex_);
            commits_ = commits, running_ = true;
        }
        epoch_wakes_.notify_all();
    }
    void finish_epoch() {
        std::unique_lock lock(epoch_mutex_);
        waiting_ = true;
        epoch_wakes_.wait(lock, [this] { return !running_; });
        waiting_ = false;
    }

    // --- the epochs' thread

    void write_epochs() {
        std::unique_lock lock(epoch_mutex_);
        for (;;) {
            epoch_wakes_.wait(lock, [this] { return running_ || closing_; });
            if (!running_) return;
            lock.unlock();
            write_epoch(commits_);
            lock.lock();
            running_ = false;
            ++epochs_;
            epoch_wakes_.notify_all();
        }
    }

    // Lets the writer learn a window that changes frozen rows, unless it waits for the epoch.
    void let_the_writer_on() const {
        for (const int64_t now = learned_; learned_ == now && !waiting_;) std::this_thread::yield();
    }
    void from_before_the_freeze(uint64_t seq, int64_t id) const {
        if (seq > static_cast<uint64_t>(frozen_at_)) wrong("in an epoch, but changed after its freeze", id, seq);
    }

    void write_epoch(bool commits) {
        let_the_writer_on();
        std::map<Warm*, std::map<int64_t, Bytes>> written;
        for (Warm* table : tables_) {
            const int64_t n = table->sort_frozen_count();
            const int64_t stored = table->layout().stored_bytes;
            constexpr int64_t kPart = 7;
            for (int64_t from = 0; from < n; from += kPart) {
                const int64_t part = std::min(kPart, n - from);
                std::vector<int64_t> ids(static_cast<size_t>(part));
                Bytes rows(static_cast<size_t>(part * stored));
                table->collect(from, part, ids.data(), rows.data());
                for (int64_t i = 0; i < part; ++i) {
                    uint64_t seq;
                    std::memcpy(&seq, rows.data() + i * stored + table->layout().meta_offset, sizeof seq);
                    from_before_the_freeze(seq, ids[static_cast<size_t>(i)]);
                }
                for (int64_t i = 0; i < part; ++i)
                    written[table][ids[static_cast<size_t>(i)]] =
                        Bytes(rows.begin() + i * stored, rows.begin() + (i + 1) * stored);
            }
        }
        std::vector<History::Chunk> chunks;
        let_the_writer_on();
        for (uint32_t slot : t_.users.frozen()) t_.history.collect(slot, &chunks);
        for (const History::Chunk& chunk : chunks)
            for (const HistoryEntry& entry : chunk.entries) from_before_the_freeze(entry.seq, chunk.user);
        if (commits) {
            std::lock_guard lock(store_.mutex);
            for (auto& [table, rows] : written)
                for (auto& [id, row] : rows) store_.rows[table][id] = std::move(row);
            for (auto& c : chunks) store_.chunks[{c.user, c.number}] = std::move(c.entries);
        }
        t_.history.thaw(t_.users.frozen(), commits);
        for (Warm* table : tables_) table->thaw(commits);
    }

    // --- the readers

    void rank(uint64_t n, int threads) {
        const int64_t shown = t_.catalogue.size();
        constexpr int64_t kQueries = 3, kBest = 12;
        float queries[kQueries * kDim];
        for (float& x : queries) x = noise(n, 9, 0, &x - queries);
        std::vector<int64_t> ids(kQueries * kBest), counts(kQueries);
        std::vector<float> scores(kQueries * kBest);
        const TopkTask task{.queries = queries,
                            .query_biases = nullptr,
                            .n_queries = kQueries,
                            .query_stride = kDim,
                            .dim = kDim,
                            .n_items = shown,
                            .k = kBest,
                            .cosine = n % 2 == 0,
                            .exclude = {},
                            .exclude_all = {},
                            .include = {},
                            .block = [&](int64_t at, int64_t* first,
                                         const int64_t** found) { return t_.catalogue.block(at, shown, first, found); },
                            .masked = [&](int64_t at) { return !t_.catalogue.is_ranked(at); },
                            .ids = ids.data(),
                            .scores = scores.data(),
                            .counts = counts.data()};
        score_topk(task, threads);
        for (int64_t q = 0; q < kQueries; ++q) {
            if (counts[static_cast<size_t>(q)] != std::min(kBest, shown)) wrong("too few items", q, n);
            for (auto i = static_cast<size_t>(q * kBest); i + 1 < static_cast<size_t>((q + 1) * kBest); ++i)
                if (!(scores[i] >= scores[i + 1]) || (ids[i] == ids[i + 1] && ids[i] != -1)) wrong("order", ids[i], n);
        }
    }

    void look_at_items(uint64_t n) {
        const int64_t shown = t_.catalogue.size();
        if (!shown) return;
        const auto o = static_cast<int64_t>(n % static_cast<uint64_t>(shown));
        float row[kDim + 1];
        t_.catalogue.read(o, row, row + kDim);
        const int64_t id = t_.catalogue.id(o);
        if (!truth_.item_floats.contains(hashed(id, row, sizeof row))) wrong("a torn item", id, n);
        uint32_t found;
        t_.catalogue.find_shared(&id, 1, &found);
        if (found != o) wrong("another ordinal", id, n);
    }

    void look_at_rows(uint64_t n) {
        const int64_t before = learned_;
        if (!before) return;
        const uint64_t seq = 1 + n % static_cast<uint64_t>(before);  // this event's rows must be somewhere
        const int64_t user = stream_.user(seq), item = stream_.item(seq);
        check(seen(&t_.users, user), user, true, seq);
        check(seen(&t_.items, item), item, false, seq);
        for (SummedTable& c : companions_) c.check(seen(&c.table, c.id_of(seq)).data(), c.id_of(seq), seq);
        std::lock_guard lock(t_.users.mutex());
        const uint32_t slot = t_.users.find(user);
        if (slot == Warm::kNone || (t_.users.flags(slot) & (Warm::kFresh | Warm::kFetching))) return;
        const auto [first, count, tags, newest] = t_.history.view(slot);
        bool had = false;
        for (int64_t i = 0; i < count; ++i) {
            if (stream_.user(first[i].seq) != user || stream_.item(first[i].seq) != first[i].item)
                wrong("a history entry that never was", user, first[i].seq);
            had |= first[i].item == item;
        }
        if (!had) wrong("an item missing in a history", user, seq);
    }

    Bytes seen(Warm* table, int64_t id) {
        Bytes row(static_cast<size_t>(table->layout().stored_bytes));
        if (table->peek(id, row.data())) return row;
        std::lock_guard lock(store_.mutex);
        const auto& stored = store_.rows[table];
        const auto found = stored.find(id);
        if (found == stored.end()) wrong("a row that is nowhere", id, 0);
        return found->second;
    }

    void check(const Bytes& row, int64_t id, bool user, uint64_t least) const {
        RowMeta m{};
        std::memcpy(&m, row.data() + t_.users.layout().meta_offset, 24);
        if (m.seq > kEvents || (user ? stream_.user(m.seq) : stream_.item(m.seq)) != id)
            wrong("a row's seq", id, m.seq);
        if (m.count != (user ? truth_.user_count : truth_.item_count)[m.seq]) wrong("a row's count", id, m.seq);
        if (m.seq < least) wrong("a row from before its last acknowledged event", id, m.seq);
        const auto& known = user ? truth_.user_floats : truth_.item_rows;
        if (!known.contains(hashed(id, row.data(), static_cast<size_t>(t_.users.layout().meta_offset))))
            wrong("a torn row", id, m.seq);
    }

    void count(uint64_t n) {
        std::vector<int64_t> ids;
        t_.users.resident(&ids);
        if (std::ssize(ids) > kRoom || t_.users.size() > kRoom || t_.users.total > kUsers) wrong("too many rows", 0, n);
        if (t_.users.bytes() <= 0 || t_.items.bytes() <= 0 || t_.users.kept_bytes() < 0 || t_.items.dirty() < 0 ||
            t_.history.bytes() < 0 || t_.catalogue.bytes() < 0 || !*kernels().name)
            wrong("a count", 0, n);
        for (int64_t id : ids)
            if (!truth_.users.contains(id)) wrong("a row of nobody", id, n);
        for (SummedTable& c : companions_) {
            c.table.resident(&ids);
            if (std::ssize(ids) > c.table.capacity() || c.table.total > c.total || c.table.bytes() <= 0 ||
                c.table.kept_bytes() < 0 || c.table.dirty() < 0)
                wrong("a count of a companion", 0, n);
        }
        std::lock_guard lock(t_.users.mutex());
        if (t_.learner.value_sum < 0 || t_.learner.value_sum > t_.learner.value_weight || t_.learner.mean.empty())
            wrong("what strangers get", 0, n);
    }

    // --- the end

    void compare() {
        for (auto [table, right] : {std::pair{&t_.users, &truth_.users}, std::pair{&t_.items, &truth_.items}}) {
            for (const auto& [id, want] : *right)
                if (seen(table, id) != want) wrong("a row at the end", id, kEvents);
            if (table->total != std::ssize(*right)) wrong("rows in all", table->total, kEvents);
        }
        for (SummedTable& c : companions_) {
            for (uint64_t seq = 1; seq <= kEvents; ++seq)  // no row may be older than its last event
                c.check(seen(&c.table, c.id_of(seq)).data(), c.id_of(seq), seq);
            if (c.table.total != c.total) wrong("rows of a companion in all", c.table.total, kEvents);
            if (c.total > c.table.capacity() && !c.table.evicted()) wrong("no companion's row left", 0, kEvents);
        }
        for (const auto& [id, want] : truth_.histories) {
            std::vector<HistoryEntry> found;
            if (const uint32_t slot = t_.users.find(id); slot != Warm::kNone) {
                const HistoryView view = t_.history.view(slot);
                found.assign(view.entries, view.entries + view.n);
            } else {
                for (uint8_t c = 0; c < 16; ++c)
                    if (const auto chunk = store_.chunks.find({id, c}); chunk != store_.chunks.end())
                        found.insert(found.end(), chunk->second.begin(), chunk->second.end());
            }
            const auto same = [](const auto& a, const auto& b) { return a.item == b.item && a.seq == b.seq; };
            if (!std::equal(found.begin(), found.end(), want.begin(), want.end(), same))
                wrong("a history", id, kEvents);
        }
    }

    const Stream& stream_;
    const Kinds& kinds_;
    const Truth& truth_;
    Store store_;
    std::deque<SummedTable> companions_;  // they outlive the learner
    Tables t_;
    std::vector<Warm*> tables_{&t_.users, &t_.items};
    std::atomic<int64_t> learned_{0};
    std::atomic<uint64_t> looks_{0};
    std::atomic<bool> done_{false};
    std::mutex epoch_mutex_;
    std::condition_variable epoch_wakes_;
    bool running_ = false, closing_ = false, commits_ = true;
    int64_t epochs_ = 0;
    std::atomic<int64_t> frozen_at_{0};
    std::atomic<bool> waiting_{false};
};

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
    const auto first = static_cast<uint64_t>(argc > 2 ? std::atoll(argv[2]) : 0);
    const auto began = std::chrono::steady_clock::now();
    uint64_t rounds = 0, looks = 0;
    int64_t epochs = 0, evicted = 0;
    do {
        select_kernels(rounds % 3 == 0 ? "avx2" : rounds % 3 == 1 ? "portable" : "avx512");
        const Kinds kinds{first + rounds, static_cast<Optimizer>(rounds % kOptimizers)};
        const Stream stream{first + rounds++};
        const Truth truth(stream, kinds);
        Stress stress(stream, kinds, truth);
        stress.run();
        looks += stress.looks(), epochs += stress.epochs(), evicted += stress.evicted();
    } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < seconds);
    std::printf("stress: %llu rounds of %lld events, %lld epochs, %lld rows evicted, %llu looks: all as it should be\n",
                static_cast<unsigned long long>(rounds), static_cast<long long>(kEvents),
                static_cast<long long>(epochs), static_cast<long long>(evicted),
                static_cast<unsigned long long>(looks));
    return 0;
}
