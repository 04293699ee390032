// A window of small steps in one launch: a block learns a step, its rows in shared memory between gradient and update.
//
// Blocks take steps in order from a counter. Who has taken one waits for the steps that its links name, a flag each,
// then reads every row once and writes it once. Only running blocks hold steps, and the first step that is not done
// waits for no other, so it cannot lock up however few blocks run at once. The first block of all keeps the mean
// instead.
//
// Order of memory: a step's threads meet, then one of them sets the flag with release; a waiter reads it with acquire,
// then its block meets: all that the step wrote is seen.
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "cuda/lanes_cuda.cuh"
#include "cuda/learn_steps_cuda.h"
#include "steps/learn_steps.h"
#include "steps/step_order.h"
#define ISA gpu

namespace gpu {
namespace {
constexpr int kStepRun = 4, kQueryBlocks = 1;
ROWTIDE_LANES void sum_run(const V16* lanes, float* sums) {
    ROWTIDE_UNROLL(4)
    for (int i = 0; i < kStepRun; ++i) sums[i] = sum(lanes[i]);
}
}  // namespace
}  // namespace gpu

#include "kernels/exp_log_impl.h"

#include "kernels/loss_rules_impl.h"
#include "kernels/optimizer_impl.h"

#include "steps/learn_steps_impl.h"

namespace gpu {
namespace {

constexpr int kMostThreads = 384;

// What the blocks of a launch share. All zero before the window's first launch.
struct Control {
    unsigned long long skipped;
    uint32_t tickets, steps_in_mean;
    uint32_t done[1];  // [steps]
};

// Where a block keeps a step: offsets in bytes from its shared memory, or from its part of the workspace.
struct Layout {
    bool staged, wide;  // wide: rows may be read 16 bytes at a time
    int64_t image_width, slots, user_images, item_images, positive_coefs, negative_coefs, query_grads, strand_room,
        bytes;
};

Layout layout_of(const Steps& s, int threads, bool staged) {
    const int64_t B = std::min(s.batch_size, s.n), references = B + s.negatives_of(B);
    Layout l{};
    l.staged = staged;
    l.wide = s.user_width % 4 == 0 && s.item_width % 4 == 0 && reinterpret_cast<uintptr_t>(s.users) % 16 == 0 &&
             reinterpret_cast<uintptr_t>(s.items) % 16 == 0;
    l.image_width = staged ? (s.row_floats + 3) / 4 * 4 : 0;
    int64_t at = 0;
    const auto part = [&](int64_t floats) {
        const int64_t from = at;
        at += (floats * 4 + 15) / 16 * 16;
        return from;
    };
    l.slots = part(3 * (B + references));
    l.user_images = part(B * l.image_width);
    l.item_images = part(references * l.image_width);
    l.positive_coefs = part(B);
    l.negative_coefs = part(B * s.negatives);
    l.query_grads = part(B * padded_dim(s.dim));
    l.strand_room = part(threads / 16 * room_floats(s.optimizer, s.dim));
    l.bytes = (at + 255) / 256 * 256;
    return l;
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* p) {
    uint32_t x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
__device__ __forceinline__ void store_release(uint32_t* p, uint32_t x) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
__device__ __forceinline__ void wait_until(const uint32_t* p, uint32_t least) {
    for (int looks = 0; load_acquire(p) < least; ++looks)
        if (looks > 32) __nanosleep(64);
}

struct Block {
    int strand, strands;
    bool wide;
    __device__ __forceinline__ void sync() const { __syncthreads(); }
    __device__ __forceinline__ void fetch(float* to, const float* from, int64_t floats) const {
        const int n = static_cast<int>(floats);
        if (wide) {  // up to three floats past the row: within its stride
            for (int i = lane() * 4; i < n; i += 64) __pipeline_memcpy_async(to + i, from + i, 16);
        } else {
            for (int i = lane(); i < n; i += 16) __pipeline_memcpy_async(to + i, from + i, 4);
        }
    }
    __device__ __forceinline__ void fetched() const {
        __pipeline_commit();
        __pipeline_wait_prior(0);
    }
};

// A step's slots and links are copied, a thread for each reference, which also waits for what the reference names.
// Gives where the rest goes.
__device__ __forceinline__ StepSpace open_step(const Steps& s, const Layout& l, unsigned char* base, const Control* c,
                                               int64_t step, bool waits) {
    const int B = static_cast<int>(s.events(step)), N = static_cast<int>(s.negatives_of(B));
    const int64_t e = s.first_event(step), k = s.first_negative(step);
    auto* users = reinterpret_cast<int32_t*>(base + l.slots);
    int32_t *items = users + 3 * B, *negatives = items + 3 * B;
    const auto open = [&](int32_t* to, int i, int n, const int32_t* slots, const StepLinks& links, int64_t at) {
        const int32_t before = links.before[at];
        to[i] = slots[at];
        to[n + i] = before;
        to[2 * n + i] = links.next[at];
        if (waits && before >= 0) wait_until(c->done + before, 1);
    };
    for (int i = threadIdx.x; i < 2 * B + N; i += blockDim.x) {
        if (i < N) {
            open(negatives, i, N, s.negative_slots, s.negative_links, k + i);
        } else if (i < N + B) {
            open(items, i - N, B, s.item_slots, s.item_links, e + i - N);
        } else {
            const int b = i - N - B;
            open(users, b, B, s.user_slots, s.user_links, e + b);
            if (waits && s.fresh && s.fresh[e + b]) wait_until(&c->steps_in_mean, static_cast<uint32_t>(step));
        }
    }
    const auto floats = [base](int64_t offset) { return reinterpret_cast<float*>(base + offset); };
    return {users,
            items,
            negatives,
            {users + B, users + 2 * B},
            {items + B, items + 2 * B},
            {negatives + N, negatives + 2 * N},
            l.staged,
            l.image_width,
            floats(l.user_images),
            floats(l.item_images),
            floats(l.positive_coefs),
            floats(l.negative_coefs),
            floats(l.query_grads),
            floats(l.strand_room)};
}

// Moves the mean over the events of steps [from, to), in their order. All threads of the block.
__device__ void move_mean(const Steps& s, int64_t from, int64_t to) {
    const int64_t first = s.first_event(from), end = s.first_event(to) < s.n ? s.first_event(to) : s.n;
    constexpr int kRun = 8;
    for (int64_t d = threadIdx.x; d < s.dim; d += blockDim.x) {
        float m = s.mean[d];
        for (int64_t e = first; e < end; e += kRun) {
            float x[kRun];
#pragma unroll
            for (int i = 0; i < kRun; ++i) x[i] = e + i < end ? __ldcg(s.vectors + (e + i) * s.dim + d) : 0.0f;
#pragma unroll
            for (int i = 0; i < kRun; ++i)
                if (e + i < end) m = __fmaf_rn(mean_rate(s.mean_count + e + i + 1), __fsub_rn(x[i], m), m);
        }
        s.mean[d] = m;
    }
}

// The mean follows the steps as they are done, in their order. It cannot pass a step that reads it: that is not done.
__device__ void keep_mean(const Steps& s, Control* c) {
    __shared__ int ready;
    const int64_t steps = s.steps();
    for (int64_t at = 0; at < steps;) {
        if (threadIdx.x == 0) ready = static_cast<int>(blockDim.x);
        __syncthreads();
        const int64_t step = at + threadIdx.x;
        if (step >= steps || !load_acquire(c->done + step)) atomicMin(&ready, static_cast<int>(threadIdx.x));
        __syncthreads();
        const int n = ready;
        __syncthreads();
        if (n == 0) {
            __nanosleep(100);
            continue;
        }
        move_mean(s, at, at + n);
        at += n;
        __syncthreads();
        if (threadIdx.x == 0) store_release(&c->steps_in_mean, static_cast<uint32_t>(at));
    }
}

// `only`: the one step of this launch, or -1 for all of the window.
template <int64_t kDim>
__global__ void __launch_bounds__(kMostThreads, 2)
    run_steps(const __grid_constant__ Steps s, const __grid_constant__ Layout l, Control* c, unsigned char* spill,
              int64_t only) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ uint32_t ticket;
    unsigned char* base = l.staged ? shared : spill + blockIdx.x * l.bytes;
    const Block team{static_cast<int>(threadIdx.x / 16), static_cast<int>(blockDim.x / 16), l.wide};
    const int64_t steps = s.steps();
    int64_t skipped = 0;
    for (;;) {
        int64_t step = only;
        if (only < 0) {
            if (threadIdx.x == 0) ticket = atomicAdd(&c->tickets, 1u);
            __syncthreads();
            step = static_cast<int64_t>(ticket) - 1;
            if (step >= steps) break;
            if (step < 0) {
                keep_mean(s, c);
                continue;
            }
        }
        const StepSpace w = open_step(s, l, base, c, step, only < 0);
        __syncthreads();
        skipped += learn_one_step<kDim>(s, step, w, team);
        __syncthreads();
        if (only >= 0) {
            move_mean(s, step, step + 1);
            break;
        }
        if (threadIdx.x == 0) store_release(c->done + step, 1);
    }
    if (skipped && lane() == 0) atomicAdd(&c->skipped, static_cast<unsigned long long>(skipped));
}

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // the next call must not find it again
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

using Kernel = void (*)(Steps, Layout, Control*, unsigned char*, int64_t);

Kernel kernel_of(int64_t dim) {
    switch (dim) {
        case 64:
            return run_steps<64>;
        case 128:
            return run_steps<128>;
        default:
            return run_steps<0>;
    }
}

int64_t control_bytes(const Steps& s) {
    return (static_cast<int64_t>(sizeof(Control)) + s.steps() * 4 + 255) / 256 * 256;
}

int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
}

}  // namespace
}  // namespace gpu

StepLaunch plan_launch(const Steps& s, int64_t depth, int threads, int blocks) {
    using namespace gpu;
    StepLaunch launch{};
    const int64_t rows = 2 * s.batch_size + s.negatives_of(s.batch_size);
    if (!threads) threads = rows >= 48 ? kMostThreads : rows >= 16 ? 256 : 64;
    if (threads < 32 || threads > kMostThreads || threads % 32)
        throw std::runtime_error("threads: wanted 32, 64, .., 384");
    launch.threads = threads;
    const Layout staged = layout_of(s, threads, true);
    const Kernel kernel = kernel_of(s.dim);
    cudaFuncAttributes own{};
    check(cudaFuncGetAttributes(&own, kernel), "cudaFuncGetAttributes");
    const int64_t room = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - static_cast<int64_t>(own.sharedSizeBytes);
    launch.staged = staged.bytes <= room;
    launch.block_bytes = launch.staged ? staged.bytes : layout_of(s, threads, false).bytes;
    const int shared = launch.staged ? static_cast<int>(launch.block_bytes) : 0;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(room)),
          "cudaFuncSetAttribute");
    int resident = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, static_cast<size_t>(shared)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    int64_t most = int64_t{resident} * attribute(cudaDevAttrMultiProcessorCount);
    // Blocks that could only wait would slow down those that work.
    if (depth) most = std::min(most, 8 + 8 * (std::min(s.steps(), kDepthSteps) / depth));
    most = std::min(most, s.steps());
    launch.blocks = blocks ? blocks : static_cast<int>(most) + 1;
    launch.bytes = control_bytes(s) + (launch.staged ? 0 : launch.blocks * launch.block_bytes);
    return launch;
}

void launch_steps(const Steps& s, const StepLaunch& launch, void* workspace, uintptr_t stream, bool each) {
    using namespace gpu;
    const auto on = reinterpret_cast<cudaStream_t>(stream);
    auto* control = static_cast<Control*>(workspace);
    auto* spill = static_cast<unsigned char*>(workspace) + control_bytes(s);
    check(cudaMemsetAsync(workspace, 0, static_cast<size_t>(control_bytes(s)), on), "cudaMemsetAsync");
    const int64_t steps = s.steps();
    if (!steps) return;
    const Layout layout = layout_of(s, launch.threads, launch.staged);
    const auto shared = static_cast<size_t>(launch.staged ? layout.bytes : 0);
    const Kernel kernel = kernel_of(s.dim);
    const auto threads = static_cast<unsigned>(launch.threads);
    if (!each) {
        kernel<<<static_cast<unsigned>(launch.blocks), threads, shared, on>>>(s, layout, control, spill, -1);
        check(cudaGetLastError(), "learn_steps");
        return;
    }
    for (int64_t step = 0; step < steps; ++step) kernel<<<1, threads, shared, on>>>(s, layout, control, spill, step);
    check(cudaGetLastError(), "learn_steps");
}

const char* cuda_missing() {
    int count = 0;
    if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
        cudaGetLastError();
        return cudaGetErrorString(status);
    }
    if (!count) return "no GPU";
    int device = 0, major = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)
        return cudaGetErrorString(cudaGetLastError());
    return major >= 8 ? "" : "the GPU's compute capability is below 8.0";
}
