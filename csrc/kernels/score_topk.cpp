#include "kernels/score_topk.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <thread>

namespace {

struct Candidate {
    float score;
    bool last;  // behind all that are not
    int64_t id;
    bool operator<(const Candidate& other) const {  // better first
        if (last != other.last) return other.last;
        return score > other.score || (score == other.score && id < other.id);
    }
};

// The best k so far: a heap with the worst of them on top.
class Best {
  public:
    explicit Best(int64_t k) : k_(static_cast<size_t>(k)) {}
    float threshold() const { return threshold_; }
    void offer(const Candidate& c) {
        if (std::isnan(c.score)) return;
        if (heap_.size() < k_) {
            heap_.push_back(c);
            std::push_heap(heap_.begin(), heap_.end());
        } else if (c < heap_.front()) {
            std::pop_heap(heap_.begin(), heap_.end());
            heap_.back() = c;
            std::push_heap(heap_.begin(), heap_.end());
        }
        if (heap_.size() == k_ && !heap_.front().last) threshold_ = heap_.front().score;
    }
    void take(const Best& other) {
        for (const Candidate& c : other.heap_) offer(c);
    }
    std::vector<Candidate> sorted() {
        std::sort_heap(heap_.begin(), heap_.end());
        return std::move(heap_);
    }

  private:
    size_t k_;
    float threshold_ = -std::numeric_limits<float>::infinity();
    std::vector<Candidate> heap_;
};

bool holds(const PositionLists& lists, int64_t query, int64_t position) {
    if (!lists.given) return false;
    const auto list = lists.of(query);
    return std::binary_search(list.begin(), list.end(), position);
}
bool excluded(const TopkTask& t, int64_t query, int64_t position) {
    if (t.masked && t.masked(position)) return true;
    return holds(t.exclude, query, position) || holds(t.exclude_all, query, position);
}

bool ranks_last(const TopkTask& t, int64_t query, int64_t position) {
    return t.last && t.last(position) && !holds(t.raised, query, position);
}

// The scores of items [from, to) of one block.
void score_items(const TopkTask& t, int64_t query, const ScoreBlock& block, int64_t from, int64_t to, float* scores) {
    const auto score = t.cosine ? kernels().cosine_items : kernels().score_items;
    score(t.queries + query * t.query_stride, t.dim, block, from, to, scores);
    if (t.query_biases)
        for (int64_t i = 0; i < to - from; ++i) scores[i] += t.query_biases[query];
}

// Adds to the scores of items [from, to) what is to be added.
void raise(const TopkTask& t, int64_t query, int64_t from, int64_t to, float* scores) {
    if (!t.raised.given) return;
    const auto list = t.raised.of(query);
    for (auto at = std::lower_bound(list.begin(), list.end(), from); at != list.end() && *at < to; ++at)
        scores[*at - from] += t.raises[&*at - t.raised.positions];
}

// All items in [from, to) for queries [q0, q1). Items are the outer loop, in runs that stay in the cache for all
// queries.
void scan(const TopkTask& t, int64_t q0, int64_t q1, int64_t from, int64_t to, Best* best) {
    constexpr int64_t kRun = 8 * kItemsPerVersion;
    const auto any_at_least = kernels().any_at_least;
    float scores[kItemsPerVersion];
    for (int64_t at = from; at < to;) {
        int64_t first;
        const int64_t* ids;
        const ScoreBlock block = t.block(at, &first, &ids);
        const int64_t end = std::min({to, first + block.n, at - at % kRun + kRun});
        for (int64_t q = q0; q < q1; ++q) {
            Best& b = best[q - q0];
            for (int64_t i = at; i < end;) {
                const int64_t stop = std::min(end, i - (i - first) % kItemsPerVersion + kItemsPerVersion);
                score_items(t, q, block, i - first, stop - first, scores);
                raise(t, q, i, stop, scores);
                if (any_at_least(scores, stop - i, b.threshold())) {
                    for (int64_t j = i; j < stop; ++j)
                        if (scores[j - i] >= b.threshold() && !excluded(t, q, j))
                            b.offer({scores[j - i], ranks_last(t, q, j), ids[j - first]});
                }
                i = stop;
            }
        }
        at = end;
    }
}

void scan_included(const TopkTask& t, int64_t q, Best* best) {
    float found;
    for (int64_t at : t.include.of(q)) {
        if (at >= t.n_items || excluded(t, q, at)) continue;
        int64_t first;
        const int64_t* ids;
        const ScoreBlock block = t.block(at, &first, &ids);
        score_items(t, q, block, at - first, at - first + 1, &found);
        raise(t, q, at, at + 1, &found);
        best->offer({found, ranks_last(t, q, at), ids[at - first]});
    }
}

void write(const TopkTask& t, int64_t q, Best& best) {
    const std::vector<Candidate> found = best.sorted();
    const auto n = static_cast<int64_t>(found.size());
    for (int64_t i = 0; i < t.k; ++i) {
        t.ids[q * t.k + i] = i < n ? found[static_cast<size_t>(i)].id : -1;
        t.scores[q * t.k + i] = i < n ? found[static_cast<size_t>(i)].score : -std::numeric_limits<float>::infinity();
    }
    t.counts[q] = n;
}

void answer(const TopkTask& t, int64_t q0, int64_t q1) {
    // Side by side: so many that their heaps stay in the cache, and never more than a fixed amount of memory.
    const int64_t together = std::clamp<int64_t>((int64_t{1} << 20) / t.k, 1, 64);
    for (int64_t q = q0; q < q1; q += together) {
        const int64_t end = std::min(q1, q + together);
        std::vector<Best> best(static_cast<size_t>(end - q), Best(t.k));
        if (t.include.given) {
            for (int64_t i = q; i < end; ++i) scan_included(t, i, &best[static_cast<size_t>(i - q)]);
        } else {
            scan(t, q, end, 0, t.n_items, best.data());
        }
        for (int64_t i = q; i < end; ++i) write(t, i, best[static_cast<size_t>(i - q)]);
    }
}

}  // namespace

std::vector<float> unit_vectors(const float* x, int64_t n, int64_t dim) {
    std::vector<float> out(static_cast<size_t>(n * dim));
    for (int64_t i = 0; i < n; ++i) kernels().unit(x + i * dim, dim, out.data() + i * dim);
    return out;
}

void score_topk(const TopkTask& t, int threads) {
    constexpr int64_t kWorthAThread = int64_t{1} << 22;  // floats: about a millisecond of work
    const int64_t work = t.n_queries * t.n_items * t.dim;
    const int64_t workers = std::clamp<int64_t>(std::min<int64_t>(threads, work / kWorthAThread), 1, 256);
    if (workers == 1 || t.include.given) return answer(t, 0, t.n_queries);
    std::vector<std::thread> pool;
    pool.reserve(static_cast<size_t>(workers));
    std::vector<std::exception_ptr> errors(static_cast<size_t>(workers));
    auto run = [&](int64_t w, auto part) {
        auto work = [&errors, w, part] {
            try {
                part(w);
            } catch (...) {
                errors[static_cast<size_t>(w)] = std::current_exception();
            }
        };
        try {
            pool.emplace_back(work);
        } catch (const std::exception&) {  // no thread to be had: it is done here
            work();
        }
    };
    std::vector<std::vector<Best>> partial;
    if (t.n_queries >= workers * 4) {
        auto part = [&](int64_t w) { answer(t, t.n_queries * w / workers, t.n_queries * (w + 1) / workers); };
        for (int64_t w = 0; w < workers; ++w) run(w, part);
    } else {
        partial.assign(static_cast<size_t>(workers), std::vector<Best>(static_cast<size_t>(t.n_queries), Best(t.k)));
        auto part = [&](int64_t w) {
            scan(t, 0, t.n_queries, t.n_items * w / workers, t.n_items * (w + 1) / workers,
                 partial[static_cast<size_t>(w)].data());
        };
        for (int64_t w = 0; w < workers; ++w) run(w, part);
    }
    for (auto& thread : pool) thread.join();
    for (auto& e : errors)
        if (e) std::rethrow_exception(e);
    if (partial.empty()) return;
    for (int64_t q = 0; q < t.n_queries; ++q) {
        Best all(t.k);
        for (auto& p : partial) all.take(p[static_cast<size_t>(q)]);
        write(t, q, all);
    }
}
