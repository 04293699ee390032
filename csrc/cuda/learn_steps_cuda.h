// How a GPU learns a window of steps, for bindings_cuda.cpp. All pointers in Steps are the device's.
//
// Errors are std::runtime_error with CUDA's own words. Work is put on the stream; nothing waits for it.
#pragma once
#include <cstdint>

#include "steps/learn_steps.h"

// How a window is laid out on a GPU: found by plan_launch, for the current device.
struct StepLaunch {
    int threads, blocks;  // of a block; in all, one of them for the mean
    bool staged;          // a step's rows fit into shared memory
    int64_t block_bytes;  // of shared memory if staged, else of the workspace
    int64_t bytes;        // of the workspace
};

// `threads` and `blocks`: 0 for what suits the window. `depth`: of StepOrder, or 0 where unknown.
StepLaunch plan_launch(const Steps& steps, int64_t depth, int threads, int blocks);
// `workspace`: launch.bytes of memory, aligned to 256. Its first 8 bytes are then the number of rows left as they were.
// `each`: a launch for every step instead of one for all, to compare with.
void launch_steps(const Steps& steps, const StepLaunch& launch, void* workspace, uintptr_t stream, bool each);

// "" if CUDA can be used on this machine, else why not.
const char* cuda_missing();
