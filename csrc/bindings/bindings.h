// What the files of this folder offer to module.cpp. Only this folder and csrc/cuda see pybind11.
#pragma once
#include <pybind11/pybind11.h>

void bind_checksum(pybind11::module_& m);
void bind_kernels(pybind11::module_& m);
void bind_steps(pybind11::module_& m);
void bind_catalogue(pybind11::module_& m);
void bind_tables(pybind11::module_& m);
void bind_history(pybind11::module_& m);

void bind_learner(pybind11::module_& m);
void bind_sequence(pybind11::module_& m);
void bind_hot(pybind11::module_& m);
void bind_cold(pybind11::module_& m);
