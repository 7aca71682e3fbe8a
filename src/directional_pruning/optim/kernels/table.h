/* What the files of the extension share. */

#ifndef DIRECTIONAL_PRUNING_TABLE_H
#define DIRECTIONAL_PRUNING_TABLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* The update of one tensor, 64 bits each: six addresses; the number of elements; the bytes of an element of w and of d;
   and the threshold before the update, a float64 that the update on the CPU writes. d is 0 where another optimizer has
   moved w already, b is 0 without momentum. v and b are float32, n is a float32 and g a float64 scalar. The Triton
   kernels read the same table. */
typedef struct {
    int64_t w, v, d, b, g, n, elements, w_bytes, d_bytes;
    double before;
} Row;

/* Compiled for the baseline and for processors with AVX2 and FMA or with AVX-512; the loader picks. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define WIDEST __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define WIDEST
#endif

PyObject *native_cut(PyObject *module, PyObject *args);
PyObject *native_connect(PyObject *module, PyObject *args);
PyObject *native_histogram(PyObject *module, PyObject *args);
PyObject *native_scale(PyObject *module, PyObject *args);
PyObject *native_table(PyObject *module, PyObject *args);
PyObject *native_update(PyObject *module, PyObject *args);

#endif
