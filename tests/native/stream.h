// What the stress programs share: a stream of events that are a function of their seq, and tables that learn it.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "learn/learner.h"

constexpr int64_t kDim = 20, kUsers = 300, kItems = 200;

[[noreturn]] inline void wrong(const char* what, int64_t id, uint64_t seq) {
    std::fprintf(stderr, "wrong: %s, id %lld, seq %llu\n", what, static_cast<long long>(id),
                 static_cast<unsigned long long>(seq));
    ::_exit(1);
}

struct Stream {
    uint64_t seed;
    // Skewed: half of the events fall to an eighth of the ids.
    int64_t pick(uint64_t seq, uint64_t salt, int64_t n) const {
        const uint64_t few = draw_below(seed, seq, salt, 2);
        return static_cast<int64_t>(
            draw_below(seed, seq, salt + 1, static_cast<uint64_t>(few ? std::max<int64_t>(1, n / 8) : n)));
    }
    static constexpr int64_t nth_item(int64_t n) { return n * 7 - 500; }
    int64_t user(uint64_t seq) const { return (pick(seq, 100, kUsers) - kUsers / 2) * (int64_t{1} << 40); }
    int64_t item(uint64_t seq) const { return nth_item(pick(seq, 200, kItems)); }
    float value(uint64_t seq) const { return static_cast<float>(draw_below(seed, seq, 300, 2)); }
};

struct Tables {
    Tables(Optimizer optimizer, int64_t room, int64_t histories)
        : users(row_floats(optimizer, kDim), room, false),
          items(row_floats(optimizer, kDim), room, true),
          catalogue(kDim),
          history(users, histories) {}
    Warm users, items;
    Catalogue catalogue;
    History history;
    Learner learner{users, items, catalogue, history};
};
