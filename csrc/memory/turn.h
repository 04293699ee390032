// A re-entrant lock that goes to whoever has waited longest, so that a writer who takes it again starves nobody.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

class Turn {
  public:
    void enter() {
        std::unique_lock lock(mutex_);
        const auto me = std::this_thread::get_id();
        if (depth_ && owner_ == me) {
            ++depth_;
            return;
        }
        const uint64_t ticket = next_++;
        changed_.wait(lock, [&] { return serving_ == ticket; });
        owner_ = me;
        depth_ = 1;
    }
    // False if it is not this thread's.
    bool leave() {
        std::lock_guard lock(mutex_);
        if (!depth_ || owner_ != std::this_thread::get_id()) return false;
        if (--depth_ == 0) {
            ++serving_;
            changed_.notify_all();
        }
        return true;
    }
    // Who has it and who waits for it.
    int64_t wanted() {
        std::lock_guard lock(mutex_);
        return static_cast<int64_t>(next_ - serving_);
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::thread::id owner_;
    int64_t depth_ = 0;
    uint64_t next_ = 0, serving_ = 0;
};
