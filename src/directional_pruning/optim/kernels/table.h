/* What the files of the extension share. */

#ifndef DIRECTIONAL_PRUNING_NATIVE_H
#define DIRECTIONAL_PRUNING_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* The update of one tensor, 64 bits each: six addresses, of which d may be 0 (then w holds what another optimizer made
   of the weights) and b too (no momentum); the number of elements; the bytes of an element of w and of d; and the
   threshold before the update, a float64 that the update on the CPU leaves there. v and b are float32, n is a float32
   and g a float64 scalar. Triton's kernels read the same table. */
typedef struct {
    int64_t w, v, d, b, g, n, elements, w_bytes, d_bytes;
    double before;
} Row;

PyObject *native_connect(PyObject *module, PyObject *args);
PyObject *native_add(PyObject *module, PyObject *args);
PyObject *native_gather(PyObject *module, PyObject *args);
PyObject *native_update(PyObject *module, PyObject *args);

#endif
