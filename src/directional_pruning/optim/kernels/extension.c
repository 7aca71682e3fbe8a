/* The extension: table.c finds what can be updated, cpu.c updates it on the CPU. */

#include "table.h"

static PyMethodDef methods[] = {
    {"connect", native_connect, METH_VARARGS, "connect(capsule, Tensor, Parameter)"},
    {"add", native_add, METH_VARARGS, "add(tables, changed, kept, where, w, v, d, g, n, b) -> bool"},
    {"gather", native_gather, METH_VARARGS,
     "gather(tables, changed, kept, where, params, state, clock, follow, momentum) -> list[int]"},
    {"update", native_update, METH_VARARGS,
     "update(table, scale, mu, lr, momentum, decay, nesterov, maximize, power, threads, least, streaming)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&module); }
