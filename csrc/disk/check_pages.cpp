#include "disk/check_pages.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "disk/crc32c.h"

namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "LMDB files are in the byte order of their machine");

constexpr uint32_t kMagic = 0xBEEFC0DE;
constexpr uint32_t kVersion = 1;
constexpr uint64_t kNoPage = ~uint64_t{0};
constexpr uint64_t kPageHeader = 16;
constexpr uint64_t kNodeHeader = 8;
constexpr uint64_t kMetaBytes = kPageHeader + 136;
constexpr uint64_t kMaxKey = 511;
constexpr int kMaxDepth = 32;  // LMDB's cursors hold no more
constexpr uint64_t kRun = 64;  // neighbouring leaf pages read at once

enum PageFlags : uint16_t { kBranch = 0x01, kLeaf = 0x02, kOverflow = 0x04, kMeta = 0x08 };
constexpr uint16_t kBigData = 0x01;          // node flag: the value is on overflow pages
constexpr uint16_t kFreeListFlags = 0x4008;  // of the tree of free pages: keys are native u64; MDB_NOSUBDIR

template <typename T>
T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

struct Damage {
    std::string message;
    int64_t offset;
};

struct Tree {  // LMDB's record of one tree, as it lies in a meta page
    uint32_t pad;
    uint16_t flags, depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
};
static_assert(sizeof(Tree) == 48);

struct Meta {
    Tree free_list, main;
    uint64_t last_page, txnid;
    uint32_t page_size() const { return free_list.pad; }
};

struct Key {
    const uint8_t* data = nullptr;  // null: no bound
    uint64_t size = 0;
};

int compare_bytes(const Key& a, const Key& b) {
    const int c = std::memcmp(a.data, b.data, std::min(a.size, b.size));
    return c ? c : (a.size < b.size ? -1 : a.size > b.size);
}

int compare_numbers(const Key& a, const Key& b) {
    const auto x = load<uint64_t>(a.data), y = load<uint64_t>(b.data);
    return x < y ? -1 : x > y;
}

class Walk {
  public:
    Walk(int fd, bool values, PageCheck& out) : fd_(fd), values_(values), out_(out) {}

    void file() {
        struct stat st{};
        if (::fstat(fd_, &st) != 0) throw Damage{std::string("cannot stat: ") + std::strerror(errno), -1};
        if (!S_ISREG(st.st_mode)) throw Damage{"not a regular file", -1};
        size_ = static_cast<uint64_t>(st.st_size);
        out_.file_bytes = size_;
        const Meta meta = newest_meta();
        out_.page_size = psize_;
        out_.txnid = meta.txnid;
        out_.last_page = last_ = meta.last_page;
        // The file may end before its last page if the pages missing are free, and each free page is 8 bytes on a page
        // that is there. So a larger number than this is a lie, and would be the size of the bitmap below.
        const uint64_t pages = size_ / psize_;
        if (last_ < 1 || last_ >= pages + size_ / 8) throw Damage{"last page number out of range", 0};
        seen_.reset(new uint64_t[last_ / 64 + 1]());
        branches_.resize(kMaxDepth);
        for (auto& page : branches_) page.reset(new uint8_t[psize_]);
        leaves_.reset(new uint8_t[psize_ * kRun]);
        starts_.resize(psize_ / 128 + 1);

        tree(meta.main, false);
        out_.used_pages = counted_pages();
        out_.entries = entries_;
        tree(meta.free_list, true);
        out_.list_pages = counted_pages();
        out_.lost_pages = last_ + 1 - 2 - out_.used_pages - out_.list_pages - out_.free_pages;
    }

  private:
    [[noreturn]] void damaged(uint64_t page, const std::string& what) const {
        throw Damage{"page " + std::to_string(page) + ": " + what, static_cast<int64_t>(page * psize_)};
    }

    void read(uint64_t at, uint64_t n, uint8_t* out) const {
        while (n) {
            const ssize_t got = ::pread(fd_, out, n, static_cast<off_t>(at));
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) throw Damage{std::string("cannot read: ") + std::strerror(errno), static_cast<int64_t>(at)};
            if (got == 0) throw Damage{"the file ends too early", static_cast<int64_t>(at)};
            at += static_cast<uint64_t>(got);
            out += got;
            n -= static_cast<uint64_t>(got);
        }
    }

    Meta meta_at(uint64_t index, uint64_t at) {
        uint8_t page[kMetaBytes];
        const auto offset = static_cast<int64_t>(at);
        if (size_ == 0) throw Damage{"the file is empty", 0};
        if (at + kMetaBytes > size_) throw Damage{"the file ends within a meta page", offset};
        read(at, kMetaBytes, page);
        const uint8_t* m = page + kPageHeader;
        if (load<uint32_t>(m) != kMagic) throw Damage{"not an LMDB meta page", offset};
        if (load<uint32_t>(m + 4) != kVersion) throw Damage{"not LMDB's data version 1", offset};
        if (load<uint64_t>(page) != index || load<uint16_t>(page + 10) != kMeta)
            throw Damage{"wrong header of a meta page", offset};
        Meta meta;
        meta.free_list = load<Tree>(m + 24);
        meta.main = load<Tree>(m + 72);
        meta.last_page = load<uint64_t>(m + 120);
        meta.txnid = load<uint64_t>(m + 128);
        const uint32_t ps = meta.page_size();
        if (ps < 512 || ps > 32768 || (ps & (ps - 1))) throw Damage{"impossible page size", offset};
        if (load<uint64_t>(m + 8) != 0 || meta.free_list.flags != kFreeListFlags || meta.main.flags != 0)
            throw Damage{"flags that the engine never sets", offset};
        return meta;
    }

    // Transaction n is written to meta page n % 2, so the two differ by one (a new file has two zeros). Anything else
    // is damage, and LMDB, which takes the larger number, might take the wrong one.
    Meta newest_meta() {
        const Meta a = meta_at(0, 0);
        psize_ = a.page_size();
        const Meta b = meta_at(1, psize_);
        if (b.page_size() != psize_)
            throw Damage{"the meta pages disagree on the page size", static_cast<int64_t>(psize_)};
        const bool fresh = a.txnid == 0 && b.txnid == 0;
        const bool paired = a.txnid % 2 == 0 && b.txnid % 2 == 1 && (a.txnid + 1 == b.txnid || b.txnid + 1 == a.txnid);
        if (!fresh && !paired) throw Damage{"the transaction numbers of the meta pages do not follow each other", 0};
        return a.txnid < b.txnid ? b : a;
    }

    void mark(uint64_t page, const char* as) {
        if (page < 2 || page > last_) damaged(page & 0xffffffffffff, std::string("number out of range, as ") + as);
        uint64_t& word = seen_[page / 64];
        const uint64_t bit = uint64_t{1} << (page % 64);
        if (word & bit) damaged(page, std::string("reached twice, now as ") + as);
        word |= bit;
    }

    void read_pages(uint64_t first, uint64_t count, uint8_t* out) const {
        if ((first + count) * psize_ > size_) damaged(first, "beyond the end of the file, which was truncated");
        read(first * psize_, count * psize_, out);
    }

    uint64_t counted_pages() const { return branch_pages_ + leaf_pages_ + overflow_pages_; }

    void tree(const Tree& record, bool is_free_list) {
        free_list_ = is_free_list;
        branch_pages_ = leaf_pages_ = overflow_pages_ = entries_ = 0;
        if (record.depth > kMaxDepth) throw Damage{"a tree deeper than LMDB allows", 0};
        depth_ = record.depth;
        if ((record.root == kNoPage) != (depth_ == 0)) throw Damage{"depth and root of a tree disagree", 0};
        if (depth_ == 1) leaves({&record.root, 1}, [](uint64_t) { return Key{}; });
        if (depth_ > 1) branch(record.root, 1, Key{}, Key{});
        if (branch_pages_ != record.branch_pages || leaf_pages_ != record.leaf_pages ||
            overflow_pages_ != record.overflow_pages || entries_ != record.entries)
            throw Damage{"a tree does not have the pages or entries that its meta page counts", 0};
    }

    struct Children {
        const uint64_t* pages;
        uint64_t count;
    };

    // The nodes of a branch or leaf page lie packed from `upper` to the page's end, in any order; the table after the
    // header gives their order. Checks that table and nodes match one to one, so that every later look stays in the
    // page.
    uint64_t node_table(const uint8_t* page, uint64_t number, uint16_t flags) {
        if (load<uint64_t>(page) != number) damaged(number, "carries another page's number");
        if (load<uint16_t>(page + 10) != flags) damaged(number, "is of the wrong kind");
        const uint64_t lower = load<uint16_t>(page + 12), upper = load<uint16_t>(page + 14);
        if (lower < kPageHeader || lower % 2 || upper % 2 || lower > upper || upper > psize_)
            damaged(number, "impossible bounds");
        const uint64_t count = (lower - kPageHeader) / 2;
        std::fill(starts_.begin(), starts_.end(), 0);
        uint64_t found = 0;
        for (uint64_t at = upper; at < psize_; ++found) {
            if (at + kNodeHeader > psize_) damaged(number, "a node crosses the end of the page");
            const uint8_t* node = page + at;
            uint64_t bytes = kNodeHeader + load<uint16_t>(node + 6);
            if (flags == kLeaf) {
                const auto kind = load<uint16_t>(node + 4);
                if (kind & ~kBigData) damaged(number, "a node of a kind that the engine never writes");
                bytes += kind == kBigData ? 8 : load<uint32_t>(node);
            }
            bytes += bytes & 1;
            if (bytes > psize_ - at) damaged(number, "a node crosses the end of the page");
            starts_[at / 128] |= uint64_t{1} << (at / 2 % 64);
            at += bytes;
        }
        if (found != count) damaged(number, "nodes and node table disagree");
        for (uint64_t i = 0; i < count; ++i) {
            const uint64_t at = load<uint16_t>(page + kPageHeader + 2 * i);
            const uint64_t bit = uint64_t{1} << (at / 2 % 64);
            if (at % 2 || at >= psize_ || !(starts_[at / 128] & bit)) damaged(number, "the node table points astray");
            starts_[at / 128] &= ~bit;
        }
        return count;
    }

    static const uint8_t* node_at(const uint8_t* page, uint64_t i) {
        return page + load<uint16_t>(page + kPageHeader + 2 * i);
    }

    Key key_of(const uint8_t* node, uint64_t number) const {
        const Key key{node + kNodeHeader, load<uint16_t>(node + 6)};
        if (key.size == 0 || key.size > kMaxKey || (free_list_ && key.size != 8))
            damaged(number, "impossible key size");
        return key;
    }

    int compare(const Key& a, const Key& b) const { return free_list_ ? compare_numbers(a, b) : compare_bytes(a, b); }

    // Keys rise strictly and lie in [low, high).
    void in_order(const Key& key, Key& previous, const Key& low, const Key& high, uint64_t number) const {
        if (previous.data ? compare(previous, key) >= 0 : low.data && compare(key, low) < 0)
            damaged(number, "keys out of order");
        if (high.data && compare(key, high) >= 0) damaged(number, "a key beyond its page's range");
        previous = key;
    }

    void branch(uint64_t number, int level, Key low, Key high) {
        mark(number, "a branch page");
        const uint8_t* page = branches_[static_cast<size_t>(level - 1)].get();
        read_pages(number, 1, branches_[static_cast<size_t>(level - 1)].get());
        const uint64_t count = node_table(page, number, kBranch);
        if (count < (free_list_ ? 1u : 2u)) damaged(number, "a branch page with too few children");
        ++branch_pages_;
        std::vector<uint64_t> children(count);
        Key previous;
        for (uint64_t i = 0; i < count; ++i) {
            const uint8_t* node = node_at(page, i);
            children[i] = load<uint32_t>(node) | uint64_t{load<uint16_t>(node + 4)} << 32;
            if (i) in_order(key_of(node, number), previous, low, high, number);  // the first key stands for `low`
        }
        const auto separator = [&](uint64_t i) {
            return i == 0 ? low : i == count ? high : key_of(node_at(page, i), number);
        };
        if (level + 1 == depth_) {
            leaves({children.data(), count}, separator);
        } else {
            for (uint64_t i = 0; i < count; ++i) branch(children[i], level + 1, separator(i), separator(i + 1));
        }
    }

    template <typename Separator>
    void leaves(Children children, const Separator& separator) {
        for (uint64_t i = 0; i < children.count; ++i) mark(children.pages[i], "a leaf page");
        const auto run_from = [&](uint64_t i) {
            uint64_t n = 1;
            while (n < kRun && i + n < children.count && children.pages[i + n] == children.pages[i] + n) ++n;
            return n;
        };
        // All requests to the disk at once: one after the other would be a seek per page on a cold file.
        for (uint64_t i = 0, n; i < children.count; i += n) {
            n = run_from(i);
            ::posix_fadvise(fd_, static_cast<off_t>(children.pages[i] * psize_), static_cast<off_t>(n * psize_),
                            POSIX_FADV_WILLNEED);
        }
        for (uint64_t i = 0, n; i < children.count; i += n) {
            n = run_from(i);
            read_pages(children.pages[i], n, leaves_.get());
            for (uint64_t j = 0; j < n; ++j)
                leaf(leaves_.get() + j * psize_, children.pages[i + j], separator(i + j), separator(i + j + 1));
        }
    }

    void leaf(const uint8_t* page, uint64_t number, Key low, Key high) {
        const uint64_t count = node_table(page, number, kLeaf);
        if (count == 0) damaged(number, "a leaf page without entries");
        ++leaf_pages_;
        entries_ += count;
        Key previous;
        for (uint64_t i = 0; i < count; ++i) {
            const uint8_t* node = node_at(page, i);
            const Key key = key_of(node, number);
            in_order(key, previous, low, high, number);
            const uint8_t* data = key.data + key.size;
            const uint64_t bytes = load<uint32_t>(node);
            if (load<uint16_t>(node + 4) == kBigData) data = overflow(load<uint64_t>(data), bytes);
            if (free_list_) {
                free_pages(data, bytes, number, load<uint64_t>(key.data));
            } else {
                ++out_.entries_by_table[key.data[0]];
                if (values_ && (bytes < 4 || load<uint32_t>(data + bytes - 4) !=
                                                 crc32c(data, bytes - 4, crc32c(key.data, key.size))))
                    damaged(number, "the value of node " + std::to_string(i) + " fails its checksum");
                if (values_ && key.data[0] == 0)
                    out_.metadata.emplace_back(std::string(key.data + 1, key.data + key.size),
                                               std::string(data, data + bytes - 4));
            }
        }
    }

    // Returns the value's bytes; where nobody looks at them, only the header is read.
    const uint8_t* overflow(uint64_t first, uint64_t bytes) {
        uint8_t header[kPageHeader];
        mark(first, "an overflow page");
        if (first * psize_ + kPageHeader > size_) damaged(first, "beyond the end of the file, which was truncated");
        read(first * psize_, kPageHeader, header);
        const uint64_t pages = load<uint32_t>(header + 12);
        if (load<uint64_t>(header) != first) damaged(first, "carries another page's number");
        if (load<uint16_t>(header + 10) != kOverflow) damaged(first, "is of the wrong kind");
        if (pages == 0 || pages > last_ + 1 - first || pages * psize_ < kPageHeader + bytes)
            damaged(first, "impossible number of overflow pages");
        if ((first + pages) * psize_ > size_) damaged(first, "beyond the end of the file, which was truncated");
        for (uint64_t i = 1; i < pages; ++i) mark(first + i, "an overflow page");
        overflow_pages_ += pages;
        if (!free_list_ && !values_) return nullptr;
        value_.resize(bytes);
        read(first * psize_ + kPageHeader, bytes, value_.data());
        return value_.data();
    }

    // A record of the free list: a count, then so many page numbers, falling. It may have room for more.
    void free_pages(const uint8_t* data, uint64_t bytes, uint64_t number, uint64_t txnid) {
        if (txnid == 0 || txnid > out_.txnid) damaged(number, "free pages of an impossible transaction");
        const uint64_t count = bytes < 8 ? kNoPage : load<uint64_t>(data);
        if (bytes < 8 || count > bytes / 8 - 1) damaged(number, "impossible number of free pages");
        uint64_t above = kNoPage;
        for (uint64_t i = 1; i <= count; ++i) {
            const auto page = load<uint64_t>(data + 8 * i);
            if (page >= above) damaged(number, "free pages out of order");
            mark(page, "a free page");
            above = page;
        }
        out_.free_pages += count;
    }

    const int fd_;
    const bool values_;
    PageCheck& out_;
    uint64_t size_ = 0, psize_ = 0, last_ = 0;
    bool free_list_ = false;
    int depth_ = 0;
    uint64_t branch_pages_ = 0, leaf_pages_ = 0, overflow_pages_ = 0, entries_ = 0;
    std::unique_ptr<uint64_t[]> seen_;  // one bit per page
    std::vector<std::unique_ptr<uint8_t[]>> branches_;
    std::unique_ptr<uint8_t[]> leaves_;
    std::vector<uint64_t> starts_;  // of one page: a bit per even offset where a node begins
    std::vector<uint8_t> value_;
};

}  // namespace

PageCheck check_pages(int fd, bool values) {
    PageCheck out;
    try {
        Walk(fd, values, out).file();
        out.ok = true;
    } catch (const Damage& damage) {
        out.message = damage.message;
        out.offset = damage.offset;
    } catch (const std::exception& e) {
        out.message = std::string("cannot check: ") + e.what();
    }
    return out;
}
