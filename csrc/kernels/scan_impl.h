// Scores and cosines of a block of items. A part of isa/table_impl.h, which includes it.
namespace ISA {
namespace {

void stream_row(float* to, const float* from, int64_t dim) {
    for (int64_t d = 0; d < dim; d += 16) stream(to + d, load(from + d, dim - d));
}

template <int64_t kDim>
void score_range_dim(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    V16 lanes[8];
    int64_t i = from;
    for (; i + 8 <= to; i += 8) {
        ROWTIDE_UNROLL(8)
        for (int j = 0; j < 8; ++j) {
            lanes[j] = dot_lanes<kDim>(query, b.vectors + (i + j) * b.stride, dim);
            // Row after row, for the compiler would take them block by block, and the hardware's prefetcher would not
            // see through it: 19.4 ms for 1 M items with AVX-512, where AVX2's rows in order took 9.7.
            asm volatile("" ::: "memory");
        }
        float dots[8];
        sum8(lanes, dots);
        for (int j = 0; j < 8; ++j) scores[i - from + j] = dots[j] + b.biases[i + j];
    }
    for (; i < to; ++i) scores[i - from] = dot<kDim>(query, b.vectors + i * b.stride, dim) + b.biases[i];
}

void score_range(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    ROWTIDE_FOR_DIM(dim, score_range_dim, query, dim, b, from, to, scores)
}

// A power of two that brings the largest of x into [1, 4); 0 where x is all zeros.
inline float scale_of(const float* x, int64_t dim) {
    V16 top16 = set1(0.0f);
    for (int64_t d = 0; d < dim; d += 16) {
        const V16 v = load(x + d, dim - d);
        top16 = max(max(v, sub(set1(0.0f), v)), top16);
    }
    float tops[16];
    store(tops, top16);
    float top = 0.0f;
    for (float t : tops) top = t > top ? t : top;
    if (top == 0.0f) return 0.0f;
    const uint32_t exponent = __builtin_bit_cast(uint32_t, top) >> 23;
    return __builtin_bit_cast(float, (exponent < 253 ? 254 - exponent : 1) << 23);
}

void unit(const float* x, int64_t dim, float* out) {
    const V16 scale = set1(scale_of(x, dim));
    V16 squares = set1(0.0f);
    for (int64_t d = 0; d < dim; d += 16) {
        const V16 v = mul(load(x + d, dim - d), scale);
        store(out + d, v, dim - d);
        squares = fma(v, v, squares);
    }
    const float square = sum(squares);
    const V16 norm = set1(square == 0.0f ? 1.0f : __builtin_sqrtf(square));
    for (int64_t d = 0; d < dim; d += 16) store(out + d, div(load(out + d, dim - d), norm), dim - d);
}

// Of an item whose squares over- or underflow: scaled first, which changes no other bit.
inline float scaled_cosine(const float* query, const float* item, int64_t dim) {
    const V16 scale = set1(scale_of(item, dim));
    V16 dots = set1(0.0f), squares = dots;
    for (int64_t d = 0; d < dim; d += 16) {
        const V16 v = mul(load(item + d, dim - d), scale);
        dots = fma(load(query + d, dim - d), v, dots);
        squares = fma(v, v, squares);
    }
    const float square = sum(squares);
    return square == 0.0f ? 0.0f : sum(dots) / __builtin_sqrtf(square);
}

// Dot product and squared norm in one pass over the item, so that both are of the same moment.
template <int64_t kDim>
void cosine_range_dim(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    constexpr int64_t kRun = 8;
    const int64_t D = kDim ? kDim : dim;
    for (int64_t i = from; i < to; i += kRun) {
        const int64_t n = std::min(kRun, to - i);
        V16 dots16[kRun], squares16[kRun];
        for (int64_t j = 0; j < kRun; ++j) {
            const float* item = b.vectors + (i + std::min(j, n - 1)) * b.stride;
            V16 dot = set1(0.0f), square = dot;
            for (int64_t d = 0; d < D; d += 16) {
                const V16 v = load(item + d, D - d);
                dot = fma(load(query + d, D - d), v, dot);
                square = fma(v, v, square);
            }
            dots16[j] = dot;
            squares16[j] = square;
        }
        float dots[kRun], squares[kRun];
        sum8(dots16, dots);
        sum8(squares16, squares);
        for (int64_t j = 0; j < n; ++j) {
            const bool plain = squares[j] > 0x1p-80f && squares[j] < 0x1p80f;
            const float c =
                plain ? dots[j] / __builtin_sqrtf(squares[j]) : scaled_cosine(query, b.vectors + (i + j) * b.stride, D);
            scores[i + j - from] = c > 1.0f ? 1.0f : c < -1.0f ? -1.0f : c;
        }
    }
}

void cosine_range(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    ROWTIDE_FOR_DIM(dim, cosine_range_dim, query, dim, b, from, to, scores)
}

// Again, until no writer was inside meanwhile.
template <class Range>
inline void of_one_moment(const ScoreBlock& b, int64_t from, Range range) {
    if (!b.versions) return range();
    const auto& version = b.versions[from / kItemsPerVersion];
    for (int64_t looks = 0;; wait_for_writer(&looks)) {
        const uint32_t before = version.load(std::memory_order_acquire);
        if (before & 1) continue;
        {
            const SeqlockRead read;
            range();
        }
        std::atomic_thread_fence(std::memory_order_acquire);
        if (version.load(std::memory_order_relaxed) == before) return;
    }
}

void score_items(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    of_one_moment(b, from, [&] { score_range(query, dim, b, from, to, scores); });
}

void cosine_items(const float* query, int64_t dim, const ScoreBlock& b, int64_t from, int64_t to, float* scores) {
    of_one_moment(b, from, [&] { cosine_range(query, dim, b, from, to, scores); });
}

bool any_over(const float* scores, int64_t n, float threshold) {
    const V16 t = set1(threshold);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        if (any_at_least(load(scores + i), t)) return true;
    for (; i < n; ++i)
        if (scores[i] >= threshold) return true;
    return false;
}

}  // namespace
}  // namespace ISA
