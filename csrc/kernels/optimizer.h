// The optimizers, and what each keeps with a row. The state travels with its row through every tier.
#pragma once
#include <cstdint>

enum class Optimizer { adagrad = 0, adam = 1, sgd = 2 };

inline constexpr int kOptimizers = 3;

// Floats that stand behind the bias of a row:
//   adagrad  sum of squares of the vector's gradients (their mean), of the bias'
//   adam     bias' first moment, bias' second moment, correction of first moments, of second moments,
//            first moments float[dim], second moments float[dim]
//   sgd      none
inline int64_t state_floats(Optimizer optimizer, int64_t dim) {
    switch (optimizer) {
        case Optimizer::adagrad:
            return 2;
        case Optimizer::adam:
            return 4 + 2 * dim;
        case Optimizer::sgd:
            return 0;
    }
    __builtin_unreachable();
}

// Floats of a row that has a vector: the vector, its bias, the state.
inline int64_t row_floats(Optimizer optimizer, int64_t dim) { return dim + 1 + state_floats(optimizer, dim); }
