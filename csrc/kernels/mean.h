// The running mean of the users' vectors: what a new user begins with, and what a stranger is ranked by.
#pragma once
#include <cstdint>

#include "kernels/host_device.h"

inline constexpr int64_t kMeanHorizon = 4096;  // events over which the running mean forgets

// How much the mean moves towards the vector of its event number `count`, the first being 1.
ROWTIDE_HD inline float mean_rate(int64_t count) {
    return 1.0f / static_cast<float>(count < kMeanHorizon ? count : kMeanHorizon);
}
