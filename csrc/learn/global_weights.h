// The weights that every event shares: how much each of a user's latest items counts, and what it is worth to have had
// an item before. docs/how-it-works/sequence-model.md has the formulas.
//
// They stand still for a block of kBlock events, so that events that share no row do not wait for each other. The
// gradients of a block and their squares are summed in the order of events; then each weight takes one step of Adagrad.
// The writer's thread changes them.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

class GlobalWeights {
  public:
    // Where each weight stands. Piecewise linear ones have a weight at each whole number from 0; those of a state are
    // there twice: at a session's start, and inside.
    static constexpr int kSince = 0;     // [16] by log2(1 + events of the user since)
    static constexpr int kMinutes = 16;  // [32] by log2(1 + minutes since)
    static constexpr int kTimes = 48;    // [16] by 2 log2(times had)
    static constexpr int kSession = 64;  // had in this session
    static constexpr int kState = 65;    // floats of a state
    // By floor(log2(1 + items of the session so far)), 0..4; at a session's start of a stranger, of a newcomer.
    static constexpr int kAlpha = 2 * kState, kStranger = kAlpha + 5, kNewcomer = kAlpha + 6;
    static constexpr int kBag = kAlpha + 7, kMostBag = 16;  // [2, kMostBag] by state, by how many came after
    static constexpr int kNear = kBag + 2 * kMostBag;       // [10] by log2(1 + share as a neighbour / 0.002)
    static constexpr int kCount = kNear + 10;
    static constexpr int64_t kBlock = 256;

    GlobalWeights() : weights(kCount, 0.0f), squares(kCount, 0.01f), grads_(kCount, 0.0f), new_squares_(kCount, 0.0f) {
        for (int at = kAlpha; at < kBag; ++at) weights[static_cast<size_t>(at)] = at == kStranger ? 0.0f : 1.0f;
        for (int at = 0; at < 2 * kMostBag; ++at)
            weights[static_cast<size_t>(kBag + at)] = std::ldexp(1.0f, -(at % kMostBag));
    }
    float operator[](int at) const { return weights[static_cast<size_t>(at)]; }
    void add(int at, float grad) {
        grads_[static_cast<size_t>(at)] += grad;
        new_squares_[static_cast<size_t>(at)] += grad * grad;
    }
    // After a micro-batch that ended with event `seq` and began after `before`.
    void step_if_due(uint64_t before, uint64_t seq, float lr) {
        if (before / kBlock == seq / kBlock) return;
        for (size_t at = 0; at < kCount; ++at) {
            if (new_squares_[at] == 0.0f) continue;
            const float total = squares[at] + new_squares_[at];
            const float rate = lr * (at >= kAlpha && at < kNear ? kRateOfSums : kRate);
            const float moved = weights[at] - rate * grads_[at] / std::sqrt(total);
            if (std::isfinite(moved) && std::isfinite(total)) weights[at] = moved, squares[at] = total;
            grads_[at] = new_squares_[at] = 0.0f;
        }
    }
    // All of it, in one piece: weights, squares, and the block so far.
    std::vector<float> saved() const {
        std::vector<float> all;
        for (const auto* part : {&weights, &squares, &grads_, &new_squares_})
            all.insert(all.end(), part->begin(), part->end());
        return all;
    }
    void restore(const float* all) {
        for (auto* part : {&weights, &squares, &grads_, &new_squares_}) part->assign(all, all + kCount), all += kCount;
    }

    std::vector<float> weights, squares;

  private:
    // Beside the learning rate of items: of what items are worth, and of the weights of sums of rows.
    static constexpr float kRate = 0.5f, kRateOfSums = 0.1f;
    std::vector<float> grads_, new_squares_;
};
