// The optimizers, and what each keeps with a row. The state travels with its row through every tier.
#pragma once
#include <cstdint>

#include "kernels/host_device.h"

enum class Optimizer { adagrad = 0, adam = 1, sgd = 2 };

inline constexpr int kOptimizers = 3;

// What stands behind the bias of a row: floats, then vectors of dim floats.
//   adagrad  sum of squares of the vector's gradients (their mean), of the bias'
//   adam     bias' first moment, bias' second moment, correction of first moments, of second moments; first moments,
//            second moments
//   sgd      none
struct OptimizerState {
    int64_t floats, vectors;
};

ROWTIDE_HD constexpr OptimizerState state_of(Optimizer optimizer) {
    switch (optimizer) {
        case Optimizer::adagrad:
            return {2, 0};
        case Optimizer::adam:
            return {4, 2};
        case Optimizer::sgd:
            return {0, 0};
    }
    __builtin_unreachable();
}

constexpr int64_t state_floats(Optimizer optimizer, int64_t dim) {
    return state_of(optimizer).floats + state_of(optimizer).vectors * dim;
}

// Floats of a row that has a vector: the vector, its bias, the state.
inline int64_t row_floats(Optimizer optimizer, int64_t dim) { return dim + 1 + state_floats(optimizer, dim); }
