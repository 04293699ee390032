#include "table/catalogue.h"

#include <algorithm>
#include <functional>
#include <span>

#include "memory/seqlock.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

// A catalogue larger than this is not in the cache anyway: writing past the cache spares reading each line first.
constexpr int64_t kStreamedFrom = int64_t{32} << 20;

void fence(bool streamed) {
    std::atomic_thread_fence(std::memory_order_release);
#if defined(__SSE2__)
    if (streamed) _mm_sfence();  // streamed stores are not ordered by a release
#else
    (void)streamed;
#endif
}

}  // namespace

void Catalogue::reach(int64_t ordinal) {
    auto& c = chunks_[static_cast<size_t>(ordinal >> kShift)];
    if (c) return;
    c = std::make_unique<Chunk>(stride_);
    bytes_ += static_cast<int64_t>(c->memory.bytes());
}

// The lowest ordinal without an item.
uint32_t Catalogue::lowest_free() {
    while (!free_.empty()) {
        std::pop_heap(free_.begin(), free_.end(), std::greater<>());
        const uint32_t o = free_.back();
        free_.pop_back();
        if (o < reserved_ && !state(o).load(std::memory_order_relaxed)) return o;
    }
    return static_cast<uint32_t>(reserved_++);
}

uint32_t Catalogue::reserve(int64_t id) {
    if (removed_) wait_for_holds();
    const uint32_t ordinal = lowest_free();
    reach(ordinal);
    state(ordinal).store(kTaken, std::memory_order_relaxed);
    pending_.push_back(ordinal);
    chunk(ordinal).ids[ordinal & (kItems - 1)] = id;
    had_by(ordinal, 0);
    index(id, ordinal);
    return ordinal;
}

void Catalogue::show_new() {
    // Who looked up filters must not meet an item that they could not find: first it can be found, and when all that
    // looked before have gone, it is ranked.
    bool again = false;
    for (const uint32_t o : pending_) {
        if (o >= most()) continue;
        state(o).store(kFound, std::memory_order_release);
        again = true;
    }
    if (again) {
        moves_.fetch_add(1, std::memory_order_release);
        wait_for_holds();
    }
    for (const uint32_t o : pending_) {
        if (o < size()) --gaps_;
        const bool hide = !hidden_.empty() && hidden_.contains(id(o));
        state(o).store(hide ? kShown | kHidden : kShown, std::memory_order_release);
    }
    pending_.clear();
    most_.store(std::max(most(), reserved_), std::memory_order_release);
    shown_.store(reserved_, std::memory_order_release);
}

void Catalogue::remove(uint32_t ordinal) {
    // In this order: an item that a filter names and that cannot be found must not be ranked any more.
    state(ordinal).store(0, std::memory_order_release);
    {
        std::lock_guard lock(index_mutex_);
        index_.erase(id(ordinal), [this](uint32_t o) { return this->id(o); });
    }
    moves_.fetch_add(1, std::memory_order_release);
    free_.push_back(ordinal);
    std::push_heap(free_.begin(), free_.end(), std::greater<>());
    removed_ = true;
    ++gaps_;
    while (reserved_ > 0 && !state(reserved_ - 1).load(std::memory_order_relaxed)) --reserved_, --gaps_;
    shown_.store(reserved_, std::memory_order_release);
}

bool Catalogue::hide(int64_t id) {
    {
        std::lock_guard lock(hidden_mutex_);
        if (!hidden_.insert(id).second) return false;
    }
    const uint32_t o = find(id);
    if (o != kNone) state(o).fetch_or(kHidden, std::memory_order_release);
    flips_.fetch_add(1, std::memory_order_release);
    return true;
}

bool Catalogue::unhide(int64_t id) {
    {
        std::lock_guard lock(hidden_mutex_);
        if (hidden_.erase(id) == 0) return false;
    }
    const uint32_t o = find(id);
    if (o != kNone) state(o).fetch_and(static_cast<uint8_t>(~kHidden), std::memory_order_release);
    flips_.fetch_add(1, std::memory_order_release);
    return true;
}

void Catalogue::hidden(std::vector<int64_t>* ids) const {
    std::lock_guard lock(hidden_mutex_);
    ids->assign(hidden_.begin(), hidden_.end());
}

// Pins are counted by phase. Who changed the phase waits until the old one's count is 0: those that come later are
// counted in the new one, and see the removals from before.
int Catalogue::enter() {
    for (;;) {
        const int phase = phase_.load();
        holds_[static_cast<size_t>(phase)].fetch_add(1);
        if (phase_.load() == phase) return phase;
        leave(phase);
    }
}

void Catalogue::leave(int phase) {
    auto& holds = holds_[static_cast<size_t>(phase)];
    if (holds.fetch_sub(1) == 1) holds.notify_all();
}

void Catalogue::wait_for_holds() {
    const int phase = phase_.load();
    phase_.store(phase ^ 1);
    auto& holds = holds_[static_cast<size_t>(phase)];
    for (int64_t n = holds.load(); n; n = holds.load()) holds.wait(n);
    removed_ = false;
}

void Catalogue::index(int64_t id, uint32_t ordinal) {
    if (index_.full()) {
        IdIndex larger = index_.grown(index_.size() + 1, [this](uint32_t o) { return this->id(o); });
        std::lock_guard lock(index_mutex_);  // readers wait for the swap alone
        index_.swap(larger);
    }
    std::lock_guard lock(index_mutex_);
    index_.insert(id, ordinal);
}

void Catalogue::write(uint32_t ordinal, const float* row, bool streamed) {
    Chunk& c = chunk(ordinal);
    const int64_t at = ordinal & (kItems - 1);
    float* to = c.vectors + at * stride_;
    if (streamed)
        kernels().stream_row(to, row, dim_);
    else
        std::memcpy(to, row, static_cast<size_t>(dim_) * 4);
    c.biases[at] = row[dim_];
}

void Catalogue::publish(const uint32_t* ordinals, const float* const* rows, int64_t n) {
    // One by one, a reader that comes upon the writer waits for one item. Streamed stores need fences, which wait for
    // memory: there all versions turn odd, all items are written, all turn even, with two fences for them all.
    const bool streamed = bytes_.load(std::memory_order_relaxed) > kStreamedFrom;
    const int64_t together = streamed ? n : 1;
    for (int64_t from = 0; from < n; from += together) {
        const std::span items(ordinals + from, static_cast<size_t>(together));
        for (uint32_t ordinal : items) {
            auto& v = version(ordinal);
            const uint32_t before = v.load(std::memory_order_relaxed);
            if (!(before & 1)) v.store(before + 1, std::memory_order_relaxed);
        }
        fence(streamed);
        for (int64_t i = from; i < from + together; ++i) write(ordinals[i], rows[i], streamed);
        fence(streamed);
        for (uint32_t ordinal : items) {
            auto& v = version(ordinal);
            const uint32_t before = v.load(std::memory_order_relaxed);
            if (before & 1) v.store(before + 1, std::memory_order_release);
        }
    }
}

void Catalogue::restore(uint32_t ordinal, int64_t id, const float* row, uint32_t users) {
    reach(ordinal);
    if (state(ordinal).load(std::memory_order_relaxed)) return;
    chunk(ordinal).ids[ordinal & (kItems - 1)] = id;
    state(ordinal).store(kTaken, std::memory_order_relaxed);
    pending_.push_back(ordinal);
    reserved_ = std::max<int64_t>(reserved_, ordinal + 1);
    had_by(ordinal, users);
    index(id, ordinal);
    write(ordinal, row, false);
}

void Catalogue::reserve_for(int64_t n, int64_t end) {
    IdIndex larger = index_.grown(n, [this](uint32_t o) { return this->id(o); });
    index_.swap(larger);
    if (end > 4 * n + kItems) return;  // mostly gaps
    for (int64_t ordinal = 0; ordinal < end; ordinal += kItems) reach(ordinal);
    // Finding the memory takes about as long as filling it, so one thread does the one while another does the other.
    try {
        populating_ = std::thread([this, end] {
            for (int64_t ordinal = 0; ordinal < end; ordinal += kItems) chunk(ordinal).memory.populate();
        });
    } catch (const std::exception&) {  // no thread to be had: whoever fills the memory finds it, too
    }
}

bool Catalogue::restored(int64_t n, int64_t end) {
    if (populating_.joinable()) populating_.join();
    if (std::ssize(pending_) != n || reserved_ != end) return false;
    show_new();
    for (int64_t o = 0; o < reserved_; ++o)
        if (chunks_[static_cast<size_t>(o >> kShift)] == nullptr || !state(o).load(std::memory_order_relaxed))
            reach(o), free_.push_back(static_cast<uint32_t>(o));  // rising: a heap
    gaps_ = std::ssize(free_);
    return true;
}

bool Catalogue::follow(uint64_t ordinal, int64_t id, const float* row, uint32_t users) {
    const auto at = static_cast<uint32_t>(ordinal);
    const auto known = static_cast<uint64_t>(reserved_);
    if (ordinal > known || find(id) != (ordinal < known ? at : kNone)) return false;
    if (ordinal == known && (gaps_ || reserve(id) != at)) return false;
    publish(&at, &row, 1);
    had_by(at, users);
    return true;
}

void Catalogue::find_shared(const int64_t* ids, int64_t n, uint32_t* ordinals) const {
    const int64_t shown = size();
    for (int64_t start = 0; start < n; start += 1024) {
        std::lock_guard lock(index_mutex_);
        for (int64_t i = start; i < std::min(n, start + 1024); ++i) {
            const uint32_t o = find(ids[i]);
            ordinals[i] = o != kNone && o < shown && state(o).load(std::memory_order_acquire) & ~kTaken ? o : kNone;
        }
    }
}

void Catalogue::read(int64_t ordinal, float* vector, float* bias) const {
    const Chunk& c = chunk(ordinal);
    const int64_t at = ordinal & (kItems - 1);
    const auto& version = c.versions[static_cast<size_t>(at / kItemsPerVersion)];
    for (int64_t looks = 0;; wait_for_writer(&looks)) {
        const uint32_t before = version.load(std::memory_order_acquire);
        if (before & 1) continue;
        {
            const SeqlockRead read;
            std::memcpy(vector, c.vectors + at * stride_, static_cast<size_t>(dim_) * 4);
            *bias = c.biases[at];
        }
        std::atomic_thread_fence(std::memory_order_acquire);
        if (version.load(std::memory_order_relaxed) == before) return;
    }
}

ScoreBlock Catalogue::block(int64_t ordinal, int64_t end, int64_t* first, const int64_t** ids) const {
    const Chunk& c = chunk(ordinal);
    *first = ordinal >> kShift << kShift;
    *ids = c.ids;
    return {c.vectors, c.biases, c.versions.data(), std::min(kItems, end - *first), stride_};
}
