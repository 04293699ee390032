// Windows of small steps for Python: their order, and how the CPU learns them. Slots are int32 here.
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "kernels/float_mode.h"
#include "steps/learn_steps.h"
#include "steps/step_order.h"

namespace py = pybind11;

namespace {

using Slots = Array<int32_t>;

// The negatives that a window of `n` events has slots for.
int64_t negatives_in(Loss loss, int64_t n, int64_t batch_size, int64_t negatives) {
    require(n >= 0 && n < INT32_MAX && batch_size > 0 && batch_size <= 65'536 && negatives >= 0 && negatives <= 65'536,
            "n, batch_size or negatives out of range");
    return negatives * (loss == Loss::softmax ? (n + batch_size - 1) / batch_size : n);
}

int64_t find_order(StepOrder& order, int loss, int64_t batch_size, int64_t negatives, const Slots& users,
                   const Slots& items, const Slots& negative_slots, Slots user_before, Slots user_next,
                   Slots item_before, Slots item_next, Slots negative_before, Slots negative_next) {
    const StepColumns columns{checked_loss(loss), users.size(), batch_size,           negatives,
                              users.data(),       items.data(), negative_slots.data()};
    const int64_t n = columns.n, all = negatives_in(columns.loss, n, batch_size, negatives);
    require(items.size() == n && negative_slots.size() == all, "slots must be [n], [n], and one for each negative");
    require(user_before.size() == n && user_next.size() == n && item_before.size() == n && item_next.size() == n &&
                negative_before.size() == all && negative_next.size() == all,
            "links must be as many as slots");
    const StepOrderOut out{user_before.mutable_data(), user_next.mutable_data(),       item_before.mutable_data(),
                           item_next.mutable_data(),   negative_before.mutable_data(), negative_next.mutable_data()};
    py::gil_scoped_release nogil;
    return order.find(columns, out);
}

void require_slots(const Slots& slots, int64_t rows, int32_t least) {
    for (int64_t i = 0; i < slots.size(); ++i)
        require(slots.data()[i] >= least && slots.data()[i] < rows, "slot out of range");
}
// Of one kind of reference, `per_event` to an event or, if shared, to a step: links point to earlier steps, and to
// references that the step has. That chains end is StepOrder's to hold.
void require_links(const Steps& s, const Slots& before, const Slots& next, int64_t per_step, bool of_items) {
    for (int64_t i = 0; i < before.size(); ++i) {
        const int64_t step = i / per_step, B = s.events(step);
        const int64_t end = of_items ? B + s.negatives_of(B) : B;
        require(before.data()[i] >= StepLinks::kAgain && before.data()[i] < step, "before: not an earlier step");
        require(next.data()[i] >= StepLinks::kNone && next.data()[i] < end, "next: not a reference of the step");
    }
}

int64_t learn(int loss, int optimizer, float lr, float l2, int64_t dim, int64_t batch_size, int64_t negatives,
              Array<float> users, Array<float> items, const Slots& user_slots, const Slots& item_slots,
              const Slots& negative_slots, const Slots& user_before, const Slots& user_next, const Slots& item_before,
              const Slots& item_next, const Slots& negative_before, const Slots& negative_next,
              const MaybeArray<float>& weights, const MaybeArray<float>& values, const MaybeArray<float>& offsets,
              const MaybeArray<uint8_t>& fresh, Array<float> mean, int64_t mean_count, Array<float> losses,
              Array<float> vectors, int threads, int strands, bool staged) {
    Steps s{};
    s.loss = checked_loss(loss);
    s.optimizer = checked_optimizer(optimizer);
    s.lr = lr;
    s.l2 = l2;
    s.n = user_slots.size();
    s.batch_size = batch_size;
    s.negatives = negatives;
    s.dim = checked_dim(dim);
    s.row_floats = dim + 1 + state_floats(s.optimizer, dim);
    require(users.ndim() == 2 && items.ndim() == 2 && users.shape(1) >= s.row_floats && items.shape(1) >= s.row_floats,
            "rows have too few columns");
    const int64_t all = negatives_in(s.loss, s.n, batch_size, negatives);
    require(item_slots.size() == s.n && negative_slots.size() == all, "slots must be [n], [n], one for each negative");
    require_slots(user_slots, users.shape(0), 0);
    require_slots(item_slots, items.shape(0), 0);
    require_slots(negative_slots, items.shape(0), -1);
    require(user_before.size() == s.n && user_next.size() == s.n && item_before.size() == s.n &&
                item_next.size() == s.n && negative_before.size() == all && negative_next.size() == all,
            "links must be as many as slots");
    require_links(s, user_before, user_next, batch_size, false);
    require_links(s, item_before, item_next, batch_size, true);
    require_links(s, negative_before, negative_next, s.negatives_of(batch_size), true);
    require((!weights || weights->size() == s.n) && (!values || values->size() == s.n) &&
                (!offsets || offsets->size() == s.n) && (!fresh || fresh->size() == s.n),
            "weights, values, offsets and fresh must be [n]");
    require(s.pointwise() == values.has_value() && (s.pointwise() || !offsets),
            "values and offsets are for pointwise losses");
    require(mean.size() == dim && mean_count >= 0 && mean_count <= INT64_MAX / 2 && losses.size() == s.n &&
                vectors.size() == s.n * dim,
            "mean must be [dim], losses [n], vectors [n, dim]");
    require(threads >= 1 && threads <= 256 && strands >= 1 && strands <= 64, "threads or strands out of range");
    s.users = users.mutable_data();
    s.items = items.mutable_data();
    s.user_width = users.shape(1);
    s.item_width = items.shape(1);
    s.user_slots = user_slots.data();
    s.item_slots = item_slots.data();
    s.negative_slots = negative_slots.data();
    s.user_links = {user_before.data(), user_next.data()};
    s.item_links = {item_before.data(), item_next.data()};
    s.negative_links = {negative_before.data(), negative_next.data()};
    s.weights = data_or_null(weights);
    s.values = data_or_null(values);
    s.offsets = data_or_null(offsets);
    s.fresh = data_or_null(fresh);
    s.mean = mean.mutable_data();
    s.mean_count = mean_count;
    s.losses = losses.mutable_data();
    s.vectors = vectors.mutable_data();
    py::gil_scoped_release nogil;
    return learn_steps(s, {threads, strands, staged});
}

}  // namespace

void bind_steps(py::module_& m) {
    py::class_<StepOrder>(m, "StepOrder")
        .def(py::init([](int64_t users, int64_t items) {
                 require(users >= 0 && items >= 0 && users < INT32_MAX && items < INT32_MAX, "too many rows");
                 return std::make_unique<StepOrder>(users, items);
             }),
             py::arg("users"), py::arg("items"))
        .def("find", &find_order, fixed("loss"), fixed("batch_size"), fixed("negatives"), fixed("user_slots"),
             fixed("item_slots"), fixed("negative_slots"), fixed("user_before"), fixed("user_next"),
             fixed("item_before"), fixed("item_next"), fixed("negative_before"), fixed("negative_next"),
             "The longest chain of steps; -1 where a slot is out of range.");
    m.def("learn_steps", &learn, fixed("loss"), fixed("optimizer"), py::arg("lr"), py::arg("l2"), fixed("dim"),
          fixed("batch_size"), fixed("negatives"), fixed("users"), fixed("items"), fixed("user_slots"),
          fixed("item_slots"), fixed("negative_slots"), fixed("user_before"), fixed("user_next"), fixed("item_before"),
          fixed("item_next"), fixed("negative_before"), fixed("negative_next"), fixed("weights").none(true),
          fixed("values").none(true), fixed("offsets").none(true), fixed("fresh").none(true), fixed("mean"),
          fixed("mean_count"), fixed("losses"), fixed("vectors"), fixed("threads"), fixed("strands"), fixed("staged"),
          py::call_guard<DefaultFloats>());
}
