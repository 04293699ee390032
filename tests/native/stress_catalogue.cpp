// What can be ranked, under threads and without Python: items that are published, hidden, removed and come again where
// others were, beside readers of all kinds.
//
//   stress_catalogue SECONDS [SEED]
//
// All events have weight 0, so the vector of an item stays what it was made as: a function of its id. Whatever a reader
// gets by an ordinal must be that of the id that the ordinal was looked up for, however many items had it before. At
// the end ordinals and rows are those of a run without readers. Any difference is printed and ends the program with
// status 1; races and bad accesses are the sanitizers' to find.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "kernels/score_topk.h"
#include "stream.h"

namespace {

constexpr int64_t kEvents = 6000, kRecord = 100, kNegatives = 4, kTtl = 2000;
constexpr int64_t kNever = Stream::nth_item(kItems / 16);  // hidden from the beginning on: in no answer
using Bytes = std::vector<std::byte>;

Tables made() { return {Optimizer::adagrad, 4096, int64_t{1} << 40}; }

// The vectors of all items that there are, one after the other, with biases of 0.
class Truth {
  public:
    explicit Truth(uint64_t seed) : vectors_(kItems * kStride), biases_(kItems) {
        for (int64_t n = 0; n < kItems; ++n)
            for (int64_t d = 0; d < kDim; ++d) at(n)[d] = 0.05f * noise(seed, 2, Stream::nth_item(n), d);
    }
    static int64_t number(int64_t id) {
        return (id - Stream::nth_item(0)) / (Stream::nth_item(1) - Stream::nth_item(0));
    }
    const float* vector(int64_t id) const { return vectors_.data() + number(id) * kStride; }
    std::vector<float> scores(const float* query) const {
        std::vector<float> out(kItems);
        const ScoreBlock block{vectors_.data(), biases_.data(), nullptr, kItems, kStride};
        for (int64_t n = 0; n < kItems; n += kItemsPerVersion)
            kernels().score_items(query, kDim, block, n, std::min(kItems, n + kItemsPerVersion), out.data() + n);
        return out;
    }

  private:
    static constexpr int64_t kStride = (kDim + 15) / 16 * 16;
    float* at(int64_t n) { return vectors_.data() + n * kStride; }
    std::vector<float> vectors_, biases_;
};

// The writer: learns a record, then hides, shows and forgets.
class Writer {
  public:
    Writer(Tables& tables, const Stream& stream) : t_(tables), stream_(stream) { t_.catalogue.hide(kNever); }

    void run() {
        for (int64_t e = 0; e < kEvents; e += kRecord) {
            learn(e);
            const auto seq = static_cast<uint64_t>(e + kRecord);
            flip(seq);
            forget({stream_.user(seq + 1), stream_.user(seq + 2)}, some_items(seq));
            if (seq % kTtl == 0) expire(seq);
        }
    }

  private:
    void learn(int64_t e) {
        std::vector<int64_t> users, items;
        for (int64_t i = 1; i <= kRecord; ++i) {
            users.push_back(stream_.user(static_cast<uint64_t>(e + i)));
            items.push_back(stream_.item(static_cast<uint64_t>(e + i)));
        }
        const std::vector<float> weights(kRecord, 0.0f);
        const RecordView r{users.data(), items.data(), nullptr, weights.data(), kRecord, static_cast<uint64_t>(e + 1)};
        const LearnSettings s{Loss::bpr, Optimizer::adagrad, 0.1f, 0.0f, kNegatives, 1, stream_.seed};
        for (int64_t from = 0; from < kRecord;) {
            if (t_.learner.plan(s, r, from) != Learner::Plan::ready) wrong("no room", 0, r.first_seq);
            from += t_.learner.learn(s, r).events;
        }
        const uint32_t slot = t_.users.find(users.back());
        t_.users.name(slot, static_cast<uint64_t>(e + kRecord));
    }

    std::vector<int64_t> some_items(uint64_t seq) const {
        std::vector<int64_t> items;
        for (uint64_t k = 0; k < 1 + seq % 7; ++k) items.push_back(stream_.item(seq + k));
        std::sort(items.begin(), items.end());
        items.erase(std::unique(items.begin(), items.end()), items.end());
        return items;
    }

    void flip(uint64_t seq) {
        for (uint64_t k = 0; k < 3; ++k) {
            const int64_t item = stream_.item(seq + 10 + k);
            if (item == kNever) continue;
            if ((seq / kRecord + k) % 2)
                t_.catalogue.hide(item);
            else
                t_.catalogue.unhide(item);
        }
    }

    void forget(std::vector<int64_t> users, const std::vector<int64_t>& items) {
        remove(users, items);
        t_.history.forget(items);
    }
    void expire(uint64_t seq) {
        std::vector<int64_t> users, items;
        t_.users.untouched_since(seq - kTtl, &users);
        t_.items.untouched_since(seq - kTtl, &items);
        remove(users, items);
    }
    void remove(const std::vector<int64_t>& users, const std::vector<int64_t>& items) {
        for (int64_t id : items)
            if (const uint32_t o = t_.catalogue.find(id); o != Catalogue::kNone) t_.catalogue.remove(o);
        const int64_t had_users = t_.users.size(), had_items = t_.items.size();
        t_.users.remove(users.data(), std::ssize(users));
        t_.items.remove(items.data(), std::ssize(items));
        t_.users.rows_removed(had_users - t_.users.size());
        t_.items.rows_removed(had_items - t_.items.size());
        t_.learner.rows_removed();
    }

    Tables& t_;
    const Stream& stream_;
};

class Stress {
  public:
    explicit Stress(uint64_t seed) : stream_{seed}, truth_(seed) {}

    void run() {
        Writer writer(t_, stream_);
        std::vector<std::thread> readers;
        readers.emplace_back([this] { until_done([this](uint64_t n) { rank(n); }); });
        readers.emplace_back([this] { until_done([this](uint64_t n) { look_at_items(n); }); });
        readers.emplace_back([this] { until_done([this](uint64_t n) { look_at_rows(n); }); });
        writer.run();
        done_ = true;
        for (auto& thread : readers) thread.join();
        compare();
    }
    uint64_t looks() const { return looks_; }
    int64_t moves() const { return t_.catalogue.moves(); }

  private:
    template <class Look>
    void until_done(Look look) {
        for (uint64_t n = 0; !done_; ++n) look(mix64(n)), ++looks_;
    }

    // As the engine asks: how many items, then a hold, then what the filter names, then the best.
    void rank(uint64_t n) {
        int64_t shown = t_.catalogue.size();
        float query[kDim];
        for (float& x : query) x = noise(n, 9, 0, &x - query);
        constexpr int64_t kBest = 12, kOut = 20;
        int64_t out[kOut], ids[kBest], count;
        uint32_t found[kOut];
        float scores[kBest];
        for (uint64_t k = 0; k < kOut; ++k) out[k] = stream_.item(n + k);
        const Catalogue::Hold hold(t_.catalogue);
        shown = std::min(shown, t_.catalogue.size());
        t_.catalogue.find_shared(out, kOut, found);
        std::vector<int64_t> positions;
        for (uint32_t o : found)
            if (o < shown) positions.push_back(o);
        std::sort(positions.begin(), positions.end());
        const TopkTask task{.queries = query,
                            .query_biases = nullptr,
                            .n_queries = 1,
                            .query_stride = kDim,
                            .dim = kDim,
                            .n_items = shown,
                            .k = kBest,
                            .cosine = false,
                            .exclude = {true, positions.data(), nullptr, std::ssize(positions)},
                            .exclude_all = {},
                            .include = {},
                            .block = [&](int64_t at, int64_t* first,
                                         const int64_t** names) { return t_.catalogue.block(at, shown, first, names); },
                            .masked = [&](int64_t at) { return !t_.catalogue.is_ranked(at); },
                            .ids = ids,
                            .scores = scores,
                            .counts = &count};
        score_topk(task, 1);
        const std::vector<float> right = truth_.scores(query);
        for (int64_t i = 0; i < count; ++i) {
            if (ids[i] == kNever) wrong("a hidden item", ids[i], n);
            if (std::find(out, out + kOut, ids[i]) != out + kOut) wrong("an item that was to be left out", ids[i], n);
            if (scores[i] != right[static_cast<size_t>(Truth::number(ids[i]))]) wrong("another's score", ids[i], n);
        }
    }

    void look_at_items(uint64_t n) {
        const int64_t id = Stream::nth_item(static_cast<int64_t>(n % kItems));
        float row[kDim + 1];
        {
            const Catalogue::Hold hold(t_.catalogue);
            uint32_t o;
            t_.catalogue.find_shared(&id, 1, &o);
            if (o == Catalogue::kNone) return;
            t_.catalogue.read(o, row, row + kDim);
        }
        if (!std::equal(row, row + kDim, truth_.vector(id)) || row[kDim] != 0) wrong("another's vector", id, n);
    }

    void look_at_rows(uint64_t n) {
        const auto seq = static_cast<uint64_t>(1 + n % kEvents);
        Bytes row(static_cast<size_t>(t_.users.layout().stored_bytes));
        const auto check = [&](Warm& table, int64_t id, int64_t (Stream::*named)(uint64_t) const) {
            if (!table.peek(id, row.data())) return;
            RowMeta m{};
            std::memcpy(&m, row.data() + table.layout().meta_offset, 24);
            if (m.seq > kEvents || (m.seq && (stream_.*named)(m.seq) != id)) wrong("a row's seq", id, m.seq);
        };
        check(t_.users, stream_.user(seq), &Stream::user);
        check(t_.items, stream_.item(seq), &Stream::item);
        std::vector<int64_t> ids;
        t_.items.resident(&ids);
        for (int64_t id : ids)
            if (Stream::nth_item(Truth::number(id)) != id) wrong("a row of nothing", id, n);
        t_.catalogue.hidden(&ids);
        if (std::find(ids.begin(), ids.end(), kNever) == ids.end()) wrong("not hidden", kNever, n);
        if (t_.items.bytes() <= 0 || t_.items.dirty() < 0 || t_.catalogue.moves() < 0) wrong("a count", 0, n);
        std::lock_guard lock(t_.users.mutex());
        const int64_t user = stream_.user(seq);
        const uint32_t slot = t_.users.find(user);
        if (slot == Warm::kNone || (t_.users.flags(slot) & (Warm::kFresh | Warm::kFetching))) return;
        const auto [first, count, tags, newest] = t_.history.view(slot);
        for (int64_t i = 0; i < count; ++i)
            if (stream_.user(first[i].seq) != user || stream_.item(first[i].seq) != first[i].item)
                wrong("a history entry that never was", user, first[i].seq);
    }

    void compare() {
        Tables alone = made();
        Writer(alone, stream_).run();
        for (int64_t n = 0; n < kItems; ++n)
            if (const int64_t id = Stream::nth_item(n); t_.catalogue.find(id) != alone.catalogue.find(id))
                wrong("another ordinal", id, kEvents);
        std::vector<int64_t> ids, right;
        for (auto [table, other] : {std::pair{&t_.users, &alone.users}, std::pair{&t_.items, &alone.items}}) {
            table->resident(&ids), other->resident(&right);
            std::sort(ids.begin(), ids.end()), std::sort(right.begin(), right.end());
            if (ids != right) wrong("rows at the end", std::ssize(ids), kEvents);
            Bytes row(static_cast<size_t>(table->layout().stored_bytes)), want = row;
            for (int64_t id : ids) {
                table->peek(id, row.data()), other->peek(id, want.data());
                if (row != want) wrong("a row at the end", id, kEvents);
            }
        }
    }

    const Stream stream_;
    const Truth truth_;
    Tables t_ = made();
    std::atomic<uint64_t> looks_{0};
    std::atomic<bool> done_{false};
};

// Wide items, published over and over, each of one number: a reader that gets two numbers got a torn item. Items of
// a usual size are too short for that to happen often.
void publish_and_read() {
    constexpr int64_t kWide = 4096, kFew = 3;
    constexpr int kTimes = 4000;
    Catalogue catalogue(kWide);
    std::vector<float> row(kWide + 1, 0.0f);
    const float* rows[kFew] = {row.data(), row.data(), row.data()};
    uint32_t ordinals[kFew];
    for (int64_t i = 0; i < kFew; ++i) ordinals[i] = catalogue.reserve(i + 1);
    catalogue.publish(ordinals, rows, kFew);
    catalogue.show_new();
    std::atomic<bool> done{false};
    std::thread reading([&] {
        std::vector<float> seen(kWide + 1);
        for (int64_t n = 0; !done; n = (n + 1) % kFew) {
            catalogue.read(n, seen.data(), seen.data() + kWide);
            for (float x : seen)
                if (x != seen[0]) wrong("a torn item", n, 0);
        }
    });
    std::thread scoring([&] {
        std::vector<float> query(kWide, 0.0f);  // first minus last, plus bias minus middle: 0 for every whole item
        query[0] = 1, query[kWide / 2] = -1, query[kWide - 1] = -1;
        float scores[kFew];
        while (!done) {
            int64_t first;
            const int64_t* ids;
            const ScoreBlock block = catalogue.block(0, kFew, &first, &ids);
            kernels().score_items(query.data(), kWide, block, 0, kFew, scores);
            for (float x : scores)
                if (x != 0.0f) wrong("a torn score", 0, 0);
        }
    });
    for (int time = 1; time <= kTimes; ++time) {
        std::fill(row.begin(), row.end(), static_cast<float>(time));
        catalogue.publish(ordinals, rows, kFew);
    }
    done = true;
    reading.join();
    scoring.join();
}

// A catalogue filled as at opening, while another thread finds its memory; then readers beside publishing.
void restore_and_read() {
    constexpr int64_t kMany = 40'000;
    Catalogue catalogue(kDim);
    float row[kDim + 1];
    const auto make = [&](int64_t id, float x) { std::fill(row, row + kDim + 1, static_cast<float>(id) + x); };
    catalogue.reserve_for(kMany, kMany);
    for (int64_t id = 0; id < kMany; ++id) make(id, 0), catalogue.restore(static_cast<uint32_t>(id), id, row, 0);
    if (!catalogue.restored(kMany, kMany)) wrong("not restored", 0, 0);
    std::atomic<bool> done{false};
    std::thread reading([&] {
        float seen[kDim + 1];
        for (uint64_t n = 0; !done; ++n) {
            const auto id = static_cast<int64_t>(mix64(n) % kMany);
            uint32_t o;
            catalogue.find_shared(&id, 1, &o);
            catalogue.read(o, seen, seen + kDim);
            for (float x : seen)
                if (x != seen[0] || static_cast<int64_t>(x) != id) wrong("another's vector", id, 0);
        }
    });
    for (uint64_t n = 0; n < kMany; ++n) {
        const auto o = static_cast<uint32_t>(mix64(n) % kMany);
        make(o, 0.25f * static_cast<float>(n % 4));
        const float* from = row;
        catalogue.publish(&o, &from, 1);
    }
    done = true;
    reading.join();
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
    const auto first = static_cast<uint64_t>(argc > 2 ? std::atoll(argv[2]) : 0);
    const auto began = std::chrono::steady_clock::now();
    uint64_t rounds = 0, looks = 0;
    int64_t moves = 0;
    publish_and_read();
    restore_and_read();
    do {
        Stress stress(first + rounds++);
        stress.run();
        looks += stress.looks(), moves += stress.moves();
    } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < seconds);
    std::printf("stress_catalogue: %llu rounds of %lld events, %lld moves, %llu looks: all as it should be\n",
                static_cast<unsigned long long>(rounds), static_cast<long long>(kEvents), static_cast<long long>(moves),
                static_cast<unsigned long long>(looks));
    return 0;
}
