// Reads an LMDB 0.9 data file as bytes, without LMDB, and says whether LMDB may map it.
//
// LMDB trusts its file: a damaged page can make it crash, loop or answer wrongly. check_pages walks everything that the
// newest meta page can reach, the main tree and the list of free pages, and looks at each page's header, node table and
// keys; with `values` also at the CRC that ends every value of the main tree. engine/cold/FORMAT.md says what it holds
// true. It reads with pread alone, so that neither a truncated file nor a bad disk block can raise a signal, and never
// writes. Any thread; no state between calls; never throws.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

struct PageCheck {
    bool ok = false;
    std::string message;  // what is wrong; empty when ok
    int64_t offset = -1;  // where in the file, in bytes; -1 when not known
    uint64_t file_bytes = 0;
    uint64_t page_size = 0;
    uint64_t txnid = 0;  // of the meta page that counts
    uint64_t last_page = 0;
    uint64_t used_pages = 0;  // of the main tree, overflow pages included
    uint64_t list_pages = 0;  // of the tree that lists the free pages
    uint64_t free_pages = 0;
    uint64_t lost_pages = 0;                                    // neither used nor free: harmless, but never used again
    uint64_t entries = 0;                                       // of the main tree
    std::array<uint64_t, 256> entries_by_table{};               // entries by the first byte of their key
    std::vector<std::pair<std::string, std::string>> metadata;  // with `values`: table 0, names and payloads
};

PageCheck check_pages(int fd, bool values);
