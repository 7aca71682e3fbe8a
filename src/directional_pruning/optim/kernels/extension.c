/* The extension module: table.c finds the tensors that a kernel can update, cpu.c updates those on the CPU. */

#include "table.h"

static PyMethodDef methods[] = {
    {"connect", native_connect, METH_VARARGS, "connect(capsule, Tensor, Parameter)"},
    {"cut", native_cut, METH_VARARGS, "cut(rows, power, threads, least, streaming)"},
    {"histogram", native_histogram, METH_VARARGS, "histogram(tensors, counts, low, shift, threads, least)"},
    {"scale", native_scale, METH_VARARGS, "scale(rows, factor, threads, least)"},
    {"table", native_table, METH_VARARGS,
     "table(devices, params, grads, duals, buffers, thresholds, steps) -> ({kind: rows}, rest)"},
    {"update", native_update, METH_VARARGS,
     "update(rows, scale, mu, lr, momentum, decay, nesterov, maximize, power, of_zeros, threads, least, streaming)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&module); }
