// How often ids have been seen that have no row: a count-min sketch (Cormode, Muthukrishnan 2005) with conservative
// update (Estan, Varghese 2002), which never counts too few. Table state: a function of the log alone. Writer only.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "memory/hash.h"

class Sightings {
  public:
    static constexpr size_t kRows = 4, kWidth = size_t{1} << 18;

    // Counts one more sighting; returns how many there were, 255 at most.
    uint8_t see(uint64_t seed, uint64_t table, int64_t id) {
        cells.resize(kRows * kWidth);
        const uint64_t h = mix64(mix64(seed ^ (table << 56)) ^ static_cast<uint64_t>(id));
        std::array<uint8_t*, kRows> at;
        for (size_t r = 0; r < kRows; ++r) at[r] = &cells[r * kWidth + (mix64(h + r) & (kWidth - 1))];
        const uint8_t least = **std::min_element(at.begin(), at.end(), [](auto* a, auto* b) { return *a < *b; });
        if (least == UINT8_MAX) return least;
        for (uint8_t* cell : at) *cell = std::max<uint8_t>(*cell, least + 1);
        return least + 1;
    }
    // What is long ago counts half.
    void halve() {
        for (uint8_t& cell : cells) cell >>= 1;
    }
    // Which of n events are learned: those both of whose ids have a row, or have been seen `after` times with this one.
    // known: whether they had a row before the first event.
    void admit(uint64_t seed, const int64_t* users, const int64_t* items, const bool* users_known,
               const bool* items_known, int64_t n, uint8_t after, bool* learned) {
        std::unordered_set<int64_t> made_users, made_items;
        for (int64_t i = 0; i < n; ++i) {
            const bool user = users_known[i] || made_users.contains(users[i]) || see(seed, 1, users[i]) >= after;
            const bool item = items_known[i] || made_items.contains(items[i]) || see(seed, 2, items[i]) >= after;
            learned[i] = user && item;
            if (!learned[i]) continue;
            if (!users_known[i]) made_users.insert(users[i]);
            if (!items_known[i]) made_items.insert(items[i]);
        }
    }

    std::vector<uint8_t> cells;  // none before the first sighting
};
