// From id to a number below 2^32 - 1 (a slot, an ordinal), where the id itself stands with what the number names.
// Buckets of one cache line: twelve numbers and a byte of each id's hash, so that a look reads one line of the index
// and, but for one wrong guess in 255, no row but the one that is sought. A full bucket overflows into the next. At
// most 7/8 full: 6.1 to 12.2 bytes an id. Not thread-safe.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "memory/hash.h"
#include "memory/huge.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

class IdIndex {
  public:
    static constexpr uint32_t kNone = UINT32_MAX;

    IdIndex() : buckets_(4) {}

    template <class IdOf>
    uint32_t find(int64_t id, IdOf id_of) const {
        const Hash h = hash(id);
        for (size_t at = h.bucket;; at = next(at)) {
            const Bucket& b = buckets_[at];
            for (uint32_t m = b.matches(h.tag); m; m &= m - 1) {
                const uint32_t e = b.numbers[__builtin_ctz(m)];
                if (id_of(e) == id) return e;
            }
            if (!b.full()) return kNone;
        }
    }
    bool full() const { return (size_ + 1) * 8 > buckets_.size() * kNumbers * 7; }
    // The same ids with room for n in all. Takes long when they are many: an owner with readers makes it beside them,
    // and swaps it in under their lock.
    template <class IdOf>
    IdIndex grown(int64_t n, IdOf id_of) const {
        size_t buckets = buckets_.size();
        while (static_cast<size_t>(n) * 8 > buckets * kNumbers * 7) buckets *= 2;
        IdIndex larger(buckets);
        for (const Bucket& b : buckets_)
            for (int i = 0; i < b.count(); ++i) larger.place(larger.hash(id_of(b.numbers[i])), b.numbers[i]);
        larger.size_ = size_;
        return larger;
    }
    void swap(IdIndex& other) {
        buckets_.swap(other.buckets_);
        std::swap(size_, other.size_);
    }
    // The id must not be there yet, and the index not full.
    void insert(int64_t id, uint32_t number) {
        place(hash(id), number);
        ++size_;
    }
    // The id must be there. What had overflowed past the hole moves up, so that no tombstones are needed.
    template <class IdOf>
    void erase(int64_t id, IdOf id_of) {
        size_t at = hash(id).bucket;
        int i = buckets_[at].position(id, id_of);
        while (i < 0) at = next(at), i = buckets_[at].position(id, id_of);
        for (;;) {
            const bool was_full = buckets_[at].full();
            buckets_[at].remove(i);
            --size_;
            if (!was_full) return;
            // The first entry behind that is not in its home and may stand here.
            size_t from = at;
            bool found = false;
            while (!found) {
                from = next(from);
                const Bucket& b = buckets_[from];
                for (i = 0; i < b.count() && !found; ++i)
                    found = distance(hash(id_of(b.numbers[i])).bucket, from) >= distance(at, from);
                if (!found && !b.full()) return;
            }
            --i;
            buckets_[at].add(buckets_[from].tags[i], buckets_[from].numbers[i]);
            ++size_;
            at = from;
        }
    }
    void prefetch(int64_t id) const { __builtin_prefetch(&buckets_[hash(id).bucket]); }
    // A number that may well be the id's; kNone if none is likely.
    uint32_t guess(int64_t id) const {
        const Hash h = hash(id);
        const Bucket& b = buckets_[h.bucket];
        const uint32_t m = b.matches(h.tag);
        return m ? b.numbers[__builtin_ctz(m)] : kNone;
    }
    int64_t size() const { return static_cast<int64_t>(size_); }
    int64_t bytes() const { return static_cast<int64_t>(buckets_.size() * sizeof(Bucket)); }

  private:
    static constexpr int kNumbers = 12;
    struct Hash {
        size_t bucket;
        uint8_t tag;  // never 0
    };
    struct alignas(64) Bucket {
        uint32_t numbers[kNumbers] = {};
        uint8_t tags[16] = {};  // 0 where free; free ones last; the last four stay 0

        uint32_t matches(uint8_t tag) const {
#if defined(__SSE2__)
            const __m128i all = _mm_load_si128(reinterpret_cast<const __m128i*>(tags));
            return static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_set1_epi8(static_cast<char>(tag)))));
#else
            uint32_t m = 0;
            for (int i = 0; i < kNumbers; ++i) m |= static_cast<uint32_t>(tags[i] == tag) << i;
            return m;
#endif
        }
        bool full() const { return tags[kNumbers - 1] != 0; }
        int count() const {
            int n = 0;
            while (n < kNumbers && tags[n]) ++n;
            return n;
        }
        template <class IdOf>
        int position(int64_t id, IdOf id_of) const {
            for (int i = 0; i < count(); ++i)
                if (id_of(numbers[i]) == id) return i;
            return -1;
        }
        void add(uint8_t tag, uint32_t number) {
            const int n = count();
            numbers[n] = number;
            tags[n] = tag;
        }
        void remove(int i) {
            const int last = count() - 1;
            numbers[i] = numbers[last];
            tags[i] = tags[last];
            tags[last] = 0;
        }
    };

    Hash hash(int64_t id) const {
        const uint64_t h = mix64(static_cast<uint64_t>(id));
        return {h & (buckets_.size() - 1), static_cast<uint8_t>(1 + (h >> 32) % 255)};
    }
    size_t next(size_t at) const { return (at + 1) & (buckets_.size() - 1); }
    size_t distance(size_t from, size_t to) const { return (to - from) & (buckets_.size() - 1); }
    void place(Hash h, uint32_t number) {
        size_t at = h.bucket;
        while (buckets_[at].full()) at = next(at);
        buckets_[at].add(h.tag, number);
    }
    explicit IdIndex(size_t buckets) : buckets_(buckets) {}

    HugeVector<Bucket> buckets_;
    size_t size_ = 0;
};
