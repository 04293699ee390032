// Exact top-k of queries over blocks of items: score down, then id up, and those that rank last behind all others.
// Works on any storage that yields ScoreBlocks.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/kernels.h"

// A set of positions for each query, rising: in CSR form, or one of `n` positions for all where `offsets` is null.
struct PositionLists {
    bool given = false;  // is there such a filter?
    const int64_t* positions = nullptr;
    const int64_t* offsets = nullptr;
    int64_t n = 0;
    std::span<const int64_t> of(int64_t query) const {
        if (!offsets) return {positions, static_cast<size_t>(n)};
        return {positions + offsets[query], positions + offsets[query + 1]};
    }
};

struct TopkTask {
    const float* queries;       // [Q, query_stride]; unit vectors where `cosine`
    const float* query_biases;  // [Q], added to all scores of a query; null for none
    int64_t n_queries, query_stride, dim, n_items, k;
    bool cosine;  // by the cosine to the query, without the bias; else by query . vector + bias
    PositionLists exclude, exclude_all, include;  // what either excludes is left out, included or not; so is >= n_items
    PositionLists raised{};                       // for each query, whose scores there is something to add to,
    const float* raises = nullptr;                // and what, as its positions and offsets stand
    // The block that holds `position`: its first position and the ids of its items.
    std::function<ScoreBlock(int64_t position, int64_t* first, const int64_t** ids)> block;
    std::function<bool(int64_t position)> masked;  // in no answer; empty: none is
    std::function<bool(int64_t position)> last{};  // behind all others, but where raised; empty: none is
    int64_t* ids;                                  // [Q, k], -1 where there are fewer
    float* scores;                                 // [Q, k], -inf there
    int64_t* counts;                               // [Q]
};

// The rows of x [n, dim] as unit vectors, for `cosine`.
std::vector<float> unit_vectors(const float* x, int64_t n, int64_t dim);

// With threads > 1 the queries, or for few queries the items, are shared out; the answer is the same.
void score_topk(const TopkTask& task, int threads);
