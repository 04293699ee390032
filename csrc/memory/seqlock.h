// A reader that looks at memory while a writer may be changing it, and throws away what it saw if a version moved.
//
// The C++ memory model calls the plain loads in between a data race, whatever becomes of their values. Making them
// atomic is no way out: no vector load is, and the scan over the catalogue lives on vector loads (copying each item
// through relaxed atomic words first made it 2.0 times slower at 10 k items and 2.6 at 1 M, dim 64). What holds instead
// is what compilers and machines do: the loads lie between an acquire load and an acquire fence, so they are neither
// hoisted nor sunk past the two looks at the version, and what a torn load gave is used for arithmetic alone, never as
// an address, an index or a count. ThreadSanitizer is told so for exactly these loads; the writer's stores, and
// everything else, it sees (tests/native/stress.cpp checks that no torn item comes out).
#pragma once

#if defined(__SANITIZE_THREAD__)
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif

// Stands while the loads run, between the two looks at the version.
class SeqlockRead {
  public:
#if defined(__SANITIZE_THREAD__)
    SeqlockRead() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
    ~SeqlockRead() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
#else
    SeqlockRead() {}
#endif
    SeqlockRead(const SeqlockRead&) = delete;
    SeqlockRead& operator=(const SeqlockRead&) = delete;
};
