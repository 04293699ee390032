// What the bindings_*.cpp files offer to module.cpp. Only those files see pybind11.
#pragma once
#include <pybind11/pybind11.h>

void bind_checksum(pybind11::module_& m);
void bind_kernels(pybind11::module_& m);
void bind_steps(pybind11::module_& m);
void bind_catalogue(pybind11::module_& m);
void bind_tables(pybind11::module_& m);
void bind_hot(pybind11::module_& m);
void bind_cold(pybind11::module_& m);
