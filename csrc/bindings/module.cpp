// The Python module engine._native: one binding file per concept, each adding its part here.
#include "bindings/bindings.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "The C++ core of Rowtide. Arrays in, arrays out; engine.machine.backend is the only importer.";
    bind_checksum(m);
    bind_kernels(m);
    bind_steps(m);
    bind_catalogue(m);
    bind_tables(m);
    bind_history(m);
    bind_learner(m);
    bind_sequence(m);
    bind_hot(m);
    bind_cold(m);
}
