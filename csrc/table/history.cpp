#include "table/history.h"

#include <cstring>
#include <numeric>
#include <stdexcept>

void History::admitted(uint32_t slot) {
    pool_.prepare();
    if (slot < blocks_.size()) return;
    HugeVector<Block*> grown(std::max<size_t>({1024, slot + size_t{1}, blocks_.size() * 3 / 2}), nullptr);
    std::copy(blocks_.begin(), blocks_.end(), grown.begin());
    std::lock_guard lock(users_.mutex());  // readers wait for the swap alone
    blocks_.swap(grown);
}

void History::release(Block* b) {
    bytes_ -= BlockPool::bytes_of(b->size);
    pool_.give(b, b->size);
}

void History::append(uint32_t slot, HistoryEntry e) {
    Block*& b = blocks_[slot];
    if (!b || b->n == capacity(b->size)) {
        const int size = b ? b->size + 1 : 0;
        auto* grown = static_cast<Block*>(pool_.take(size));
        if (b) {
            std::memcpy(static_cast<void*>(grown), b, static_cast<size_t>(kHeader + b->n * kEntry));
        } else {
            grown->n = grown->dirty[0] = grown->dirty[1] = 0;
        }
        grown->size = static_cast<uint16_t>(size);
        if (grown->tagged())
            for (int64_t at = 0; at < grown->n; ++at) grown->tags()[at] = tag(grown->entries[at].item);
        if (size == BlockPool::kSizes - 1) grown->oldest().n = 0;
        bytes_ += BlockPool::bytes_of(size);
        if (b) release(b);
        b = grown;
    }
    b->set(b->n++, e);
}

int64_t History::Block::find(int64_t item) const {
    if (!tagged()) {
        int64_t at = 0;
        while (at < n && entries[at].item != item) ++at;
        return at;
    }
    const uint8_t wanted = tag(item);
    const uint8_t *first = tags(), *end = first + n, *at = first;
    while (at < end) {
        at = static_cast<const uint8_t*>(std::memchr(at, wanted, static_cast<size_t>(end - at)));
        if (!at) break;
        if (entries[at - first].item == item) return at - first;
        ++at;
    }
    return n;
}

int64_t History::Block::take_oldest() {
    Oldest& o = oldest();
    while (o.n) {
        const uint16_t at = o.at[--o.n];
        if (entries[at].seq <= o.until) return at;
    }
    uint16_t all[kMost];
    std::iota(all, all + kMost, uint16_t{0});
    const auto newer = [this](uint16_t x, uint16_t y) { return entries[x].seq > entries[y].seq; };
    uint16_t* const from = all + kMost - std::size(o.at);
    std::nth_element(all, from, all + kMost, newer);
    std::sort(from, all + kMost, newer);
    std::copy(from, all + kMost, o.at);
    o.n = std::size(o.at);
    o.until = entries[o.at[0]].seq;
    return o.at[--o.n];
}

void History::add(uint32_t slot, int64_t item, uint64_t seq) {
    Block* b = block(slot);
    const int64_t n = b ? b->n : 0;
    int64_t at = b ? b->find(item) : 0;
    if (at == n && n < kMost) {
        append(slot, {item, seq});
        b = block(slot);
    } else {
        if (at == n) at = b->take_oldest();  // full: what was had longest ago makes room
        b->set(at, {item, seq});
    }
    b->dirty[parity_] = static_cast<uint16_t>(b->dirty[parity_] | (1u << (at / kChunk)));
}

void History::forget(const std::vector<int64_t>& items) {
    for (uint32_t slot = 0; slot < blocks_.size(); ++slot) {
        Block* b = blocks_[slot];
        const auto gone = [&](const HistoryEntry& e) { return std::binary_search(items.begin(), items.end(), e.item); };
        if (!b || std::none_of(b->entries, b->entries + b->n, gone)) continue;
        std::lock_guard lock(users_.mutex());
        users_.touch(slot);
        if (b->n == kMost) b->oldest().n = 0;
        // The last entry takes the place of one that goes: chunks stay full but for the last.
        for (int64_t at = 0; at < b->n;) {
            if (!gone(b->entries[at])) {
                ++at;
                continue;
            }
            b->set(at, b->entries[--b->n]);
            const unsigned changed = 1u << (at / kChunk) | 1u << (b->n / kChunk);
            b->dirty[parity_] = static_cast<uint16_t>(b->dirty[parity_] | changed);
        }
    }
}

void History::load(uint32_t slot, const HistoryEntry* entries, int64_t n) {
    std::lock_guard lock(users_.mutex());
    const Block* b = block(slot);
    if ((b ? b->n : 0) + n > kMost) throw std::invalid_argument("a history longer than there can be");
    for (int64_t i = 0; i < n; ++i) append(slot, entries[i]);
}

std::pair<const HistoryEntry*, int64_t> History::entries(uint32_t slot) const {
    const Block* b = block(slot);
    return b ? std::pair<const HistoryEntry*, int64_t>{b->entries, b->n} : std::pair<const HistoryEntry*, int64_t>{};
}

void History::copy_chunks(uint32_t slot, uint16_t mask, std::vector<Chunk>* out) const {
    const Block* b = block(slot);
    if (!b) return;
    for (int64_t c = 0; c < kMost / kChunk; ++c) {
        if (!(mask >> c & 1)) continue;
        const HistoryEntry* from = b->entries + c * kChunk;
        const int64_t n = std::clamp<int64_t>(b->n - c * kChunk, 0, kChunk);  // 0: what it had was forgotten
        out->push_back({users_.meta(slot).id, static_cast<uint8_t>(c), std::vector<HistoryEntry>(from, from + n)});
    }
}

void History::keep_frozen(uint32_t slot) {
    const Block* b = block(slot);
    // Nothing is kept where nothing is frozen: between History::thaw and Warm::thaw it would stay for the next epoch.
    if (b && b->dirty[parity_ ^ 1]) copy_chunks(slot, b->dirty[parity_ ^ 1], &kept_[slot]);
}

void History::collect(uint32_t slot, std::vector<Chunk>* out) {
    std::lock_guard lock(users_.mutex());
    users_.attached_written(slot);
    const auto kept = kept_.find(slot);
    if (kept != kept_.end()) {
        std::move(kept->second.begin(), kept->second.end(), std::back_inserter(*out));
        kept_.erase(kept);
    } else if (const Block* b = block(slot)) {
        copy_chunks(slot, b->dirty[parity_ ^ 1], out);
    }
}

void History::thaw(const std::vector<uint32_t>& frozen, bool committed) {
    for (size_t start = 0; start < frozen.size(); start += kLockRows * 16) {
        std::lock_guard lock(users_.mutex());
        for (size_t i = start; i < std::min(frozen.size(), start + kLockRows * 16); ++i) {
            Block* b = block(frozen[i]);
            if (!b) continue;
            if (!committed) b->dirty[parity_] = static_cast<uint16_t>(b->dirty[parity_] | b->dirty[parity_ ^ 1]);
            b->dirty[parity_ ^ 1] = 0;
        }
    }
    std::lock_guard lock(users_.mutex());
    kept_.clear();
}

void History::freed(uint32_t slot) {
    Block* b = block(slot);
    if (!b) return;
    release(b);
    blocks_[slot] = nullptr;
}
