// The Python module engine._cuda: pointers of device memory as integers, counts, a stream. engine.machine.backend is
// the only importer. It can be imported where there is no driver; missing() says so.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "cuda/learn_steps_cuda.h"

namespace py = pybind11;

namespace {

void require(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(std::string("_cuda: ") + what);
}

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// The counts of a window are checked here; that slots and links are those of StepOrder is the caller's to know.
Steps window(const py::dict& d) {
    const auto number = [&](const char* name) { return d[name].cast<int64_t>(); };
    const auto address = [&](const char* name) { return d[name].cast<uintptr_t>(); };
    const auto ints = [&](const char* name) { return at<const int32_t>(address(name)); };
    Steps s{};
    const int64_t loss = number("loss"), optimizer = number("optimizer");
    require(loss >= 0 && loss < kLosses && optimizer >= 0 && optimizer < kOptimizers, "no such loss or optimizer");
    s.loss = static_cast<Loss>(loss);
    s.optimizer = static_cast<Optimizer>(optimizer);
    s.lr = d["lr"].cast<float>();
    s.l2 = d["l2"].cast<float>();
    s.n = number("n");
    s.batch_size = number("batch_size");
    s.negatives = number("negatives");
    s.dim = number("dim");
    require(s.n >= 0 && s.n < INT32_MAX && s.batch_size > 0 && s.batch_size <= 65'536 && s.negatives >= 0 &&
                s.negatives <= 65'536 && s.dim > 0 && s.dim <= 65'536,
            "n, batch_size, negatives or dim out of range");
    s.row_floats = s.dim + 1 + state_floats(s.optimizer, s.dim);
    s.user_width = number("user_width");
    s.item_width = number("item_width");
    require(s.user_width >= s.row_floats && s.item_width >= s.row_floats, "rows have too few columns");
    s.users = at<float>(address("users"));
    s.items = at<float>(address("items"));
    s.user_slots = ints("user_slots");
    s.item_slots = ints("item_slots");
    s.negative_slots = ints("negative_slots");
    s.user_links = {ints("user_before"), ints("user_next")};
    s.item_links = {ints("item_before"), ints("item_next")};
    s.negative_links = {ints("negative_before"), ints("negative_next")};
    s.weights = at<const float>(address("weights"));
    s.values = at<const float>(address("values"));
    s.offsets = at<const float>(address("offsets"));
    s.fresh = at<const uint8_t>(address("fresh"));
    s.mean = at<float>(address("mean"));
    s.mean_count = number("mean_count");
    s.losses = at<float>(address("losses"));
    s.vectors = at<float>(address("vectors"));
    require(s.n == 0 || (s.users && s.items && s.user_slots && s.item_slots && s.user_links.before &&
                         s.item_links.before && s.mean && s.losses && s.vectors),
            "a null pointer");
    require(s.n == 0 || s.pointwise() == (s.values != nullptr), "values are for pointwise losses");
    return s;
}

py::tuple plan(const py::dict& columns, int64_t depth, int threads, int blocks) {
    const StepLaunch launch = plan_launch(window(columns), depth, threads, blocks);
    return py::make_tuple(launch.threads, launch.blocks, launch.staged, launch.block_bytes, launch.bytes);
}

void learn(const py::dict& columns, int64_t depth, int threads, int blocks, uintptr_t workspace, int64_t bytes,
           uintptr_t stream, bool each) {
    const Steps steps = window(columns);
    const StepLaunch launch = plan_launch(steps, depth, threads, blocks);
    require(bytes >= launch.bytes && workspace && workspace % 256 == 0, "the workspace is too small");
    py::gil_scoped_release nogil;
    launch_steps(steps, launch, at<void>(workspace), stream, each);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() =
        "Rowtide's CUDA kernels. Device pointers in, device memory written; engine.machine.backend is the only "
        "importer.";
    m.def("missing", &cuda_missing, "Empty where CUDA can be used, else why not.");
    m.def("plan_steps", &plan, py::arg("columns"), py::arg("depth"), py::arg("threads"), py::arg("blocks"),
          "(threads, blocks, staged, bytes of a block, bytes of the workspace)");
    m.def("learn_steps", &learn, py::arg("columns"), py::arg("depth"), py::arg("threads"), py::arg("blocks"),
          py::arg("workspace"), py::arg("bytes"), py::arg("stream"), py::arg("each"));
}
