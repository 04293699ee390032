// Mutates LMDB data files and gives them to check_pages, for a stated time: guided by the branches that it takes.
//
//   fuzz_pages SECONDS SEED FILE...
//
// check_pages and what it calls are compiled with -fsanitize-coverage=trace-pc: an input that takes a branch after
// another for the first time is kept and mutated further, so that the search goes on behind each check that it has
// passed. The sanitizers find bad accesses; what is checked here is that a file is never accepted with counts that do
// not add up, that looking at values never accepts more, and that no input takes long. An input that is at fault is
// left behind in `fuzz-pages-input.mdb`, and ends the program.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "disk/check_pages.h"
#include "kernels/draws.h"

namespace {

constexpr size_t kMap = size_t{1} << 16;
uint8_t hit[kMap];
size_t fresh;  // first hits since the last reset
uintptr_t last;

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
    const auto here = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    const size_t edge = mix64(here ^ last << 1) & (kMap - 1);
    last = here;
    if (!hit[edge]) hit[edge] = 1, ++fresh;
}

namespace {

using Bytes = std::vector<uint8_t>;
constexpr size_t kPage = 4096, kMost = 512 * kPage;

struct Random {
    uint64_t seed, n = 0;
    uint64_t below(uint64_t limit) { return draw_below(seed, 0, n++, limit ? limit : 1); }
};

template <class T>
void put(Bytes& data, size_t at, T value) {
    if (at + sizeof value <= data.size()) std::memcpy(data.data() + at, &value, sizeof value);
}
template <class T>
T get(const Bytes& data, size_t at) {
    T value{};
    if (at + sizeof value <= data.size()) std::memcpy(&value, data.data() + at, sizeof value);
    return value;
}

// A place worth changing: in a meta page, a page's header, its node table, a node's header, or anywhere.
size_t place(const Bytes& data, Random& r) {
    const size_t pages = std::max<size_t>(1, data.size() / kPage), page = r.below(pages) * kPage;
    switch (r.below(6)) {
        case 0:
            return r.below(2) * kPage + r.below(152);
        case 1:
            return page + r.below(16);
        case 2:
            return page + 16 + r.below(64);
        case 3: {
            const size_t nodes = (std::min<size_t>(get<uint16_t>(data, page + 12), kPage) - 16) / 2;
            return page + get<uint16_t>(data, page + 16 + 2 * r.below(nodes)) % kPage + r.below(24);
        }
        case 4:
            return page + r.below(kPage);
        default:
            return r.below(data.size());
    }
}

void mutate(Bytes& data, const std::vector<Bytes>& corpus, Random& r) {
    static constexpr uint64_t kTelling[] = {0,
                                            1,
                                            2,
                                            7,
                                            8,
                                            15,
                                            16,
                                            0xfe,
                                            0xff,
                                            0x100,
                                            0xfff,
                                            0x1000,
                                            0x7fff,
                                            0x8000,
                                            0xfffe,
                                            0xffff,
                                            0x7fffffff,
                                            0x80000000,
                                            0xffffffff,
                                            0x7fffffffffffffff,
                                            0x8000000000000000,
                                            0xffffffffffffffff};
    for (uint64_t times = 1 + r.below(4); times; --times) {
        if (data.size() < kPage) data.resize(kPage);
        const size_t pages = data.size() / kPage, at = place(data, r) % data.size();
        uint8_t* page = data.data() + r.below(pages) * kPage;
        const uint8_t* other = data.data() + r.below(pages) * kPage;
        switch (r.below(11)) {
            case 0:
            case 1:
                data[at] ^= static_cast<uint8_t>(1 << r.below(8));
                break;
            case 2:
                data[at] = static_cast<uint8_t>(r.below(256));
                break;
            case 3:
            case 4: {
                const uint64_t x = kTelling[r.below(std::size(kTelling))];
                r.below(2)   ? put(data, at & ~size_t{1}, static_cast<uint16_t>(x))
                : r.below(2) ? put(data, at & ~size_t{1}, static_cast<uint32_t>(x))
                             : put(data, at, x);
                break;
            }
            case 5:  // a number a little larger or smaller
                put(data, at & ~size_t{1},
                    static_cast<uint16_t>(get<uint16_t>(data, at & ~size_t{1}) + r.below(9) - 4));
                break;
            case 6:  // another page's number
                put(data, at & ~size_t{1}, static_cast<uint32_t>(r.below(pages + 2)));
                break;
            case 7:
                std::memmove(page, other, kPage);
                break;
            case 8: {  // a page of another file, its number put right
                const Bytes& donor = corpus[r.below(corpus.size())];
                if (donor.size() < kPage) break;
                std::memcpy(page, donor.data() + r.below(donor.size() / kPage) * kPage, kPage);
                put(data, static_cast<size_t>(page - data.data()), static_cast<uint64_t>(page - data.data()) / kPage);
                break;
            }
            case 9:
                if (r.below(4))
                    std::memset(page, 0, kPage);
                else
                    data.resize(r.below(data.size()));
                break;
            default:
                if (data.size() + 8 * kPage <= kMost) data.insert(data.end(), other, other + kPage);
        }
    }
}

constexpr const char* kInput = "fuzz-pages-input.mdb";

[[noreturn]] void failed(const char* why) {
    std::fprintf(stderr, "fuzz_pages: %s; the input is in %s\n", why, kInput);
    std::exit(1);
}

bool add_up(const PageCheck& c) {
    uint64_t by_table = 0;
    for (uint64_t n : c.entries_by_table) by_table += n;
    return c.used_pages + c.list_pages + c.free_pages + c.lost_pages + 2 == c.last_page + 1 && by_table == c.entries &&
           c.message.empty();
}

// Whether the file was accepted, with the CRCs of values looked at.
bool checked(const Bytes& data, int fd) {
    if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, data.data(), data.size(), 0) != static_cast<ssize_t>(data.size()))
        failed("cannot write it");
    const auto began = std::chrono::steady_clock::now();
    last = 0;
    const PageCheck pages = check_pages(fd, false);
    const PageCheck values = check_pages(fd, true);
    if (std::chrono::steady_clock::now() - began > std::chrono::seconds(5)) failed("took more than 5 seconds");
    if ((pages.ok && !add_up(pages)) || (values.ok && !add_up(values))) failed("accepted, but does not add up");
    if (values.ok && !pages.ok) failed("accepted only when its values are looked at");
    if (pages.ok == pages.message.size() > 0) failed("neither sound nor damaged");
    return values.ok;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) return std::fputs("fuzz_pages SECONDS SEED FILE...\n", stderr), 2;
    const double seconds = std::atof(argv[1]);
    Random r{static_cast<uint64_t>(std::atoll(argv[2]))};
    const int fd = ::open(kInput, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    std::vector<Bytes> corpus;
    for (int i = 3; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        if (!checked(corpus.back(), fd)) failed("a sound file was refused");
    }
    const size_t given = corpus.size();
    uint64_t runs = 0, accepted = 0, edges = fresh;
    const auto began = std::chrono::steady_clock::now();
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < seconds) {
        Bytes data = corpus[r.below(r.below(2) ? corpus.size() : given)];
        mutate(data, corpus, r);
        fresh = 0;
        accepted += checked(data, fd);
        ++runs;
        edges += fresh;
        if (fresh) corpus.push_back(std::move(data));
    }
    std::printf("fuzz_pages: %llu files, %llu accepted, %zu kept for a new branch, %llu branches\n",
                static_cast<unsigned long long>(runs), static_cast<unsigned long long>(accepted), corpus.size() - given,
                static_cast<unsigned long long>(edges));
    ::unlink(kInput);
    return 0;
}
