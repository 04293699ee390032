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
            grown->n = grown->dirty[0] = grown->dirty[1] = grown->newest = 0;
        }
        grown->size = static_cast<uint16_t>(size);
        if (grown->tagged())
            for (int64_t at = 0; at < grown->n; ++at) grown->tags()[at] = HistoryView::tag(grown->entries[at].item);
        if (size == BlockPool::kSizes - 1) grown->oldest().n = 0;
        bytes_ += BlockPool::bytes_of(size);
        if (b) release(b);
        b = grown;
    }
    b->set(b->n++, e);
}

int64_t HistoryView::find(int64_t item) const {
    if (!tags) {
        int64_t at = 0;
        while (at < n && entries[at].item != item) ++at;
        return at;
    }
    const uint8_t wanted = tag(item);
    const uint8_t *end = tags + n, *at = tags;
    while (at < end) {
        at = static_cast<const uint8_t*>(std::memchr(at, wanted, static_cast<size_t>(end - at)));
        if (!at) break;
        if (entries[at - tags].item == item) return at - tags;
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

void History::Block::find_newest() {
    newest = 0;
    for (uint16_t at = 1; at < n; ++at)
        if (entries[at].seq > entries[newest].seq) newest = at;
}

uint32_t History::session_of(const HistoryEntry* last, Moment when, float gap) {
    if (!last || !last->session) return 1;
    const bool silent =
        when.time && last->time && when.time > last->time && static_cast<float>(when.time - last->time) > gap;
    return last->session + (silent || when.mark != last->mark);
}

HistoryEntry History::entry_of(const HistoryEntry* last, const HistoryEntry* had, int64_t item, uint64_t seq,
                               Moment when, float gap) {
    HistoryEntry e{item, seq, when.time, session_of(last, when, gap), when.mark, 0};
    e.set(last ? last->place() + 1 : 1, had ? had->times() + 1 : 1);
    return e;
}

void History::add(uint32_t slot, int64_t item, uint64_t seq, Moment when, float gap) {
    Block* b = block(slot);
    const HistoryView before = view(slot);
    const int64_t n = before.n;
    int64_t at = before.find(item);
    const HistoryEntry now = entry_of(before.newest, at < n ? &b->entries[at] : nullptr, item, seq, when, gap);
    if (at == n && n < kMost) {
        append(slot, now);
        b = block(slot);
    } else {
        if (at == n) at = b->take_oldest();  // full: what was had longest ago makes room
        b->set(at, now);
    }
    b->newest = static_cast<uint16_t>(at);
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
        b->find_newest();
    }
}

void History::load(uint32_t slot, const HistoryEntry* entries, int64_t n, bool changed) {
    std::lock_guard lock(users_.mutex());
    const Block* before = block(slot);
    if ((before ? before->n : 0) + n > kMost) throw std::invalid_argument("a history longer than there can be");
    for (int64_t i = 0; i < n; ++i) append(slot, entries[i]);
    if (!n) return;
    Block* b = block(slot);
    b->find_newest();
    // Whichever epoch writes the user next, it writes all chunks.
    if (changed) b->dirty[0] = b->dirty[1] = static_cast<uint16_t>((1u << ((b->n + kChunk - 1) / kChunk)) - 1);
}

HistoryView History::view(uint32_t slot) const {
    const Block* b = block(slot);
    return b ? b->view() : HistoryView{};
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
