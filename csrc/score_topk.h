// Exact top-k of queries over blocks of items: score down, then id up. Works on any storage that yields ScoreBlocks.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"

// Positions per query in CSR form, sorted within each query; null offsets: no such filter.
struct PositionLists {
    const int64_t* positions = nullptr;
    const int64_t* offsets = nullptr;
};

struct TopkTask {
    const float* queries;  // [Q, query_stride]
    int64_t n_queries, query_stride, dim, n_items, k;
    PositionLists exclude, include;  // exclude wins
    // The block that holds `position`: its first position and the ids of its items.
    std::function<ScoreBlock(int64_t position, int64_t* first, const int64_t** ids)> block;
    std::function<bool(int64_t position)> masked;  // in no answer; empty: none is
    int64_t* ids;                                  // [Q, k], -1 where there are fewer
    float* scores;                                 // [Q, k], -inf there
    int64_t* counts;                               // [Q]
};

// With threads > 1 the queries, or for few queries the items, are shared out; the answer is the same.
void score_topk(const TopkTask& task, int threads);
