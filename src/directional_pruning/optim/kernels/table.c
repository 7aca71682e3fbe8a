/* Which tensors a kernel can update, and where they lie. Torch is asked through DLPack's C interface: reading the same
   through Python's attributes takes longer than the update of a small tensor. */

#include "table.h"

/* A tensor as DLPack describes it, and the functions that torch offers for it: DLTensor and DLPackExchangeAPI of
   DLPack's header, whose layout holds for all versions 1.x. */
typedef struct {
    void *data;
    int32_t device, index, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
} Tensor;

typedef struct Exchange {
    uint32_t major, minor;
    const struct Exchange *older;
    void *allocator, *export, *import;
    int (*describe)(void *object, Tensor *tensor);
    void *stream;
} Exchange;

enum { CPU = 1, CUDA = 2, ROCM = 10 };
enum { OTHER, FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
/* The bits of `devices`: those that have a kernel. */
enum { ON_CPU = 1, ON_CUDA = 2 };
/* The columns that table() gets, in this order. */
enum { W, D, V, B, G, N, COLUMNS };

static const Exchange *exchange;
static PyTypeObject *plain[2];
static PyObject *is_neg;

/* connect(capsule, Tensor, Parameter): torch's functions, and the types whose memory holds what they show. */
PyObject *native_connect(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *capsule;
    if (!PyArg_ParseTuple(args, "OO!O!", &capsule, &PyType_Type, &plain[0], &PyType_Type, &plain[1])) return NULL;
    exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    while (exchange && exchange->major != 1) exchange = exchange->older;
    Py_XSETREF(is_neg, PyObject_GetAttrString((PyObject *)plain[0], "is_neg"));
    if (PyErr_Occurred()) return NULL;
    if (!exchange || !exchange->describe) return PyErr_Format(PyExc_ImportError, "torch has no DLPack 1.x");
    Py_RETURN_NONE;
}

/* Describe a plain tensor; 0 where it is another type, or has no memory: sparse, on "meta", in a transform. */
static int describe(PyObject *object, Tensor *t) {
    if (Py_TYPE(object) != plain[0] && Py_TYPE(object) != plain[1]) return 0;
    if (!exchange->describe(object, t)) return 1;
    if (PyErr_ExceptionMatches(PyExc_RuntimeError) || PyErr_ExceptionMatches(PyExc_BufferError)) PyErr_Clear();
    return 0;
}

/* Whether the memory holds the negated numbers, as for the imaginary part of a conjugate; also with an exception. */
static int is_negated(PyObject *object) {
    PyObject *answer = PyObject_CallOneArg(is_neg, object);
    Py_XDECREF(answer);
    return answer != Py_False;
}

static int type_of(const Tensor *t) {
    if (t->lanes != 1) return OTHER;
    if (t->code == 4 && t->bits == 16) return BFLOAT16;
    if (t->code != 2) return OTHER;
    return t->bits == 32 ? FLOAT32 : t->bits == 16 ? FLOAT16 : t->bits == 64 ? FLOAT64 : OTHER;
}

static int64_t elements(const Tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->ndim; i++) count *= t->shape[i];
    return count;
}

/* Whether the elements lie one beside the other, in the order of any permutation of the dimensions. */
static int is_dense(const Tensor *t) {
    int64_t next = 1, count = elements(t);
    while (next < count) {
        int i = 0;
        while (i < t->ndim && (t->shape[i] == 1 || t->strides[i] != next)) i++;
        if (i == t->ndim) return 0;
        next *= t->shape[i];
    }
    return 1;
}

static int is_beside(const Tensor *a, const Tensor *b) { return a->device == b->device && a->index == b->index; }

/* Whether element i of one lies where element i of the other does, and on the same device. */
static int is_alike(const Tensor *a, const Tensor *b) {
    if (!is_beside(a, b) || a->ndim != b->ndim) return 0;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i] || (a->shape[i] > 1 && a->strides[i] != b->strides[i])) return 0;
    return 1;
}

/* Write the address of the first element; 0 where it is no multiple of so many bytes, or there is no element. */
static int address(const Tensor *t, int multiple, int64_t *at) {
    *at = (int64_t)(intptr_t)t->data + (int64_t)t->offset;
    return (*at && *at % multiple == 0) || !elements(t);
}

/* Fill the row of an update, and say whether a kernel can make it. Without a gradient or a momentum buffer its entry is
   NULL. The kind tells the device, 0 for the CPU, and the types of w and d. Only d may be a negated view, which no kernel
   can update: asking torch takes longer than all the rest of this, and the caller makes or checks the other tensors. */
static int fill(PyObject *const entry[COLUMNS], int devices, Row *row, int64_t *kind) {
    Tensor t[COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        if (entry[i] && !describe(entry[i], &t[i])) return 0;
    const Tensor *w = &t[W];
    int on_cpu = w->device == CPU, on_cuda = w->device == CUDA || w->device == ROCM;
    if (!((on_cpu && devices & ON_CPU) || (on_cuda && devices & ON_CUDA))) return 0;

    int w_type = type_of(w), d_type = entry[D] ? type_of(&t[D]) : OTHER;
    if (w_type != FLOAT32 && w_type != BFLOAT16 && !(w_type == FLOAT16 && on_cuda)) return 0;
    if (entry[D] && d_type != w_type && d_type != FLOAT32) return 0;
    if (type_of(&t[V]) != FLOAT32 || (entry[B] && type_of(&t[B]) != FLOAT32)) return 0;
    if (type_of(&t[G]) != FLOAT64 || type_of(&t[N]) != FLOAT32) return 0;

    int64_t *at[COLUMNS] = {&row->w, &row->d, &row->v, &row->b, &row->g, &row->n};
    *row = (Row){.elements = elements(w), .w_bytes = w->bits / 8, .d_bytes = (entry[D] ? t[D].bits : w->bits) / 8};
    if (!is_dense(w)) return 0;
    for (int i = W; i <= B; i++) /* on CUDA four numbers are moved at a time */
        if (entry[i] && (!is_alike(&t[i], w) || !address(&t[i], on_cuda ? 16 : t[i].bits / 8, at[i]))) return 0;
    for (int i = G; i <= N; i++)
        if (!is_beside(&t[i], w) || elements(&t[i]) != 1 || !address(&t[i], t[i].bits / 8, at[i])) return 0;
    if (entry[D] && is_negated(entry[D])) return 0;
    *kind = (on_cpu ? 0 : (int64_t)w->index + 1) << 8 | w_type << 4 | d_type;
    return 1;
}

/* The table of a kind, a bytearray; NULL with an exception where memory is short. The dictionary owns it. */
static PyObject *table_of(PyObject *tables, int64_t kind) {
    PyObject *key = PyLong_FromLongLong(kind);
    if (!key) return NULL;
    PyObject *table = PyDict_GetItemWithError(tables, key);
    if (!table && !PyErr_Occurred()) {
        table = PyByteArray_FromStringAndSize(NULL, 0);
        if (table && PyDict_SetItem(tables, key, table)) Py_CLEAR(table);
        Py_XDECREF(table);
    }
    Py_DECREF(key);
    return table;
}

static int append(PyObject *table, const Row *row) {
    Py_ssize_t size = PyByteArray_GET_SIZE(table);
    if (PyByteArray_Resize(table, size + (Py_ssize_t)sizeof(Row))) return -1;
    memcpy(PyByteArray_AS_STRING(table) + size, row, sizeof(Row));
    return 0;
}

/* Fill the tables from columns of equal length, and list the indices that no kernel can update. */
static int fill_all(PyObject *const column[COLUMNS], int devices, PyObject *tables, PyObject *rest) {
    PyObject *table = NULL;
    int64_t kind, last = -1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(column[W]); i++) {
        PyObject *entry[COLUMNS];
        int complete = 1;
        for (int k = 0; k < COLUMNS; k++) {
            entry[k] = column[k] ? PyTuple_GET_ITEM(column[k], i) : NULL;
            if (entry[k] == Py_None) {
                entry[k] = NULL;
                complete &= k == B;
            }
        }
        Row row;
        if (complete && fill(entry, devices, &row, &kind)) {
            if (kind != last) table = table_of(tables, last = kind);
            if (!table || append(table, &row)) return -1;
            continue;
        }
        PyObject *index = PyErr_Occurred() ? NULL : PyLong_FromSsize_t(i);
        int failed = !index || PyList_Append(rest, index);
        Py_XDECREF(index);
        if (failed) return -1;
    }
    return 0;
}

/* table(devices, params, grads or None, duals, buffers or None, thresholds, steps) -> ({kind: rows}, rest)

   Rows hold addresses only: they are good as long as the caller holds the tensors. */
PyObject *native_table(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *given[COLUMNS], *column[COLUMNS] = {NULL}, *result = NULL;
    int devices, failed = 0;
    if (!PyArg_ParseTuple(args, "iOOOOOO", &devices, &given[W], &given[D], &given[V], &given[B], &given[G], &given[N]))
        return NULL;
    PyObject *tables = PyDict_New(), *rest = PyList_New(0);
    /* Copies: asking a tensor may run Python code that changes the lists. */
    for (int k = 0; k < COLUMNS && !failed; k++) {
        if (given[k] == Py_None && (k == D || k == B)) continue;
        column[k] = PySequence_Tuple(given[k]);
        failed = !column[k];
        if (!failed && PyTuple_GET_SIZE(column[k]) != PyTuple_GET_SIZE(column[W])) {
            PyErr_SetString(PyExc_ValueError, "the lists have different lengths");
            failed = 1;
        }
    }
    if (!failed && tables && rest && !fill_all(column, devices, tables, rest)) result = PyTuple_Pack(2, tables, rest);
    for (int k = 0; k < COLUMNS; k++) Py_XDECREF(column[k]);
    Py_XDECREF(tables);
    Py_XDECREF(rest);
    return result;
}
