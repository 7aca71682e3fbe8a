/* Which tensors the kernels can update, read straight from torch: through Python's attributes that takes longer than
   the update of all but large tensors. */

#include "table.h"

#include <string.h>

/* A tensor as DLPack describes it, and what torch offers to be asked: DLTensor and DLPackExchangeAPI of its header,
   whose layout holds for all versions 1.x. */
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
/* The bits of `where`: the devices that have a kernel. */
enum { ON_CPU = 1, ON_CUDA = 2 };

static const Exchange *exchange;
static PyTypeObject *plain[2];
static PyObject *grad, *is_neg, *dual, *threshold, *momentum_buffer;

/* connect(capsule, Tensor, Parameter): where torch can be asked, and the types of tensors that are what they seem. */
PyObject *native_connect(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *capsule;
    if (!PyArg_ParseTuple(args, "OO!O!", &capsule, &PyType_Type, &plain[0], &PyType_Type, &plain[1])) return NULL;
    exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    while (exchange && exchange->major != 1) exchange = exchange->older;
    grad = PyUnicode_InternFromString("grad");
    is_neg = PyUnicode_InternFromString("is_neg");
    dual = PyUnicode_InternFromString("dual");
    threshold = PyUnicode_InternFromString("threshold");
    momentum_buffer = PyUnicode_InternFromString("momentum_buffer");
    if (PyErr_Occurred()) return NULL;
    if (!exchange || !exchange->describe) return PyErr_Format(PyExc_ImportError, "torch speaks no DLPack 1");
    Py_RETURN_NONE;
}

static int is_plain(PyObject *object) { return Py_TYPE(object) == plain[0] || Py_TYPE(object) == plain[1]; }

/* Describe a plain tensor; 0 where it is another, or has no memory: a sparse one, one on "meta" or in a transform. */
static int describe(PyObject *object, Tensor *t) {
    if (!is_plain(object)) return 0;
    if (!exchange->describe(object, t)) return 1;
    if (PyErr_ExceptionMatches(PyExc_RuntimeError) || PyErr_ExceptionMatches(PyExc_BufferError)) PyErr_Clear();
    return 0;
}

/* Whether the numbers are negated on paper only, as the imaginary part of a conjugate is; also with an exception. */
static int is_negated(PyObject *object) {
    PyObject *answer = PyObject_CallMethodNoArgs(object, is_neg);
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

/* Whether element i of one lies where element i of the other does, and on the same device. */
static int is_alike(const Tensor *a, const Tensor *b) {
    if (a->device != b->device || a->index != b->index || a->ndim != b->ndim) return 0;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i] || (a->shape[i] > 1 && a->strides[i] != b->strides[i])) return 0;
    return 1;
}

static int is_scalar_beside(const Tensor *a, const Tensor *b) {
    return a->device == b->device && a->index == b->index && elements(a) == 1;
}

/* The address of the first element; 0 where there is none, or it is not a multiple of so many bytes. */
static int64_t address(const Tensor *t, int multiple) {
    int64_t at = (int64_t)(intptr_t)t->data + (int64_t)t->offset;
    return at % multiple ? 0 : at;
}

/* One update; d and b are NULL where there is none. */
typedef struct {
    PyObject *w, *v, *d, *b, *g, *n;
} Update;

/* Fill the row where a kernel can make the update, and say whether it can; whether a tensor is negated the caller knows.
   The kind is 0 on the CPU; of updates on CUDA it tells the device and both types. Runs no Python code, so references
   may be borrowed. */
static int fill(const Update *u, int where, Row *row, int64_t *kind) {
    Tensor w, v, d, b, g, n;
    if (!describe(u->w, &w) || !describe(u->v, &v) || !describe(u->g, &g) || !describe(u->n, &n)) return 0;
    if ((u->d && !describe(u->d, &d)) || (u->b && !describe(u->b, &b))) return 0;
    int on_cpu = w.device == CPU, on_cuda = w.device == CUDA || w.device == ROCM;
    if (!((on_cpu && where & ON_CPU) || (on_cuda && where & ON_CUDA))) return 0;

    int w_type = type_of(&w), d_type = u->d ? type_of(&d) : OTHER;
    if (w_type != FLOAT32 && w_type != BFLOAT16 && !(w_type == FLOAT16 && on_cuda)) return 0;
    if (u->d && d_type != w_type && d_type != FLOAT32) return 0;
    if (type_of(&v) != FLOAT32 || (u->b && type_of(&b) != FLOAT32)) return 0;
    if (type_of(&g) != FLOAT64 || type_of(&n) != FLOAT32) return 0;

    if (!is_dense(&w) || !is_alike(&v, &w) || (u->d && !is_alike(&d, &w)) || (u->b && !is_alike(&b, &w))) return 0;
    if (!is_scalar_beside(&g, &w) || !is_scalar_beside(&n, &w)) return 0;

    int w_bytes = w.bits / 8, d_bytes = u->d ? d.bits / 8 : w_bytes;
    /* On CUDA four numbers are moved at a time. */
    row->w = address(&w, on_cpu ? w_bytes : 16);
    row->v = address(&v, on_cpu ? 4 : 16);
    row->d = u->d ? address(&d, on_cpu ? d_bytes : 16) : 0;
    row->b = u->b ? address(&b, on_cpu ? 4 : 16) : 0;
    row->g = address(&g, 8);
    row->n = address(&n, 4);
    row->elements = elements(&w);
    row->w_bytes = w_bytes;
    row->d_bytes = d_bytes;
    row->before = 0;
    if (row->elements && (!row->w || !row->v || (u->d && !row->d) || (u->b && !row->b))) return 0;
    if (!row->g || !row->n) return 0;
    *kind = on_cpu ? 0 : ((int64_t)w.index + 1) << 8 | w_type << 4 | d_type;
    return 1;
}

/* Append rows to the table of their kind; -1 with an exception where memory is short. */
static int append(PyObject *tables, int64_t kind, const Row *rows, Py_ssize_t count) {
    PyObject *key = PyLong_FromLongLong(kind);
    if (!key) return -1;
    PyObject *table = PyDict_GetItemWithError(tables, key);
    if (!table && !PyErr_Occurred()) {
        table = PyByteArray_FromStringAndSize(NULL, 0);
        if (table && PyDict_SetItem(tables, key, table)) Py_CLEAR(table);
        Py_XDECREF(table); /* the dictionary has it */
    }
    Py_DECREF(key);
    if (!table) return -1;
    Py_ssize_t size = PyByteArray_GET_SIZE(table), more = count * (Py_ssize_t)sizeof(Row);
    if (PyByteArray_Resize(table, size + more)) return -1;
    memcpy(PyByteArray_AS_STRING(table) + size, rows, (size_t)more);
    return 0;
}

/* Keep the tensors of an update that waits, in one list those it changes and in another the others: addresses do not. */
static int keep(PyObject *changed, PyObject *kept, const Update *u) {
    PyObject *written[] = {u->w, u->v, u->b}, *others[] = {u->d, u->g, u->n};
    for (int i = 0; i < 3; i++) {
        if (written[i] && PyList_Append(changed, written[i])) return -1;
        if (others[i] && PyList_Append(kept, others[i])) return -1;
    }
    return 0;
}

/* add(tables, changed, kept, where, w, v, d or None, g, n, b or None) -> whether a kernel can make the update

   If so, append it to the table of its kind, a bytearray of rows, and its tensors to the lists. */
PyObject *native_add(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *tables, *changed, *kept;
    int where;
    Update u;
    Row row;
    int64_t kind;
    if (!PyArg_ParseTuple(args, "O!O!O!iOOOOOO", &PyDict_Type, &tables, &PyList_Type, &changed, &PyList_Type, &kept, &where,
                          &u.w, &u.v, &u.d, &u.g, &u.n, &u.b))
        return NULL;
    u.d = u.d == Py_None ? NULL : u.d;
    u.b = u.b == Py_None ? NULL : u.b;
    int waits = fill(&u, where, &row, &kind) && !is_negated(u.w) && !is_negated(u.v);
    waits = waits && !(u.d && is_negated(u.d)) && !(u.b && is_negated(u.b));
    if (waits && !keep(changed, kept, &u)) append(tables, kind, &row, 1);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(waits);
}

/* Find all that belongs to a parameter's update, and say whether it is there. */
static int find(PyObject *w, PyObject *d, PyObject *state, PyObject *clock, int follow, int momentum, Update *u) {
    PyObject *own = PyDict_GetItemWithError(state, w);
    if (!own || !PyDict_Check(own)) return 0;
    u->w = w;
    u->d = follow ? NULL : d;
    u->v = PyDict_GetItemWithError(own, dual);
    u->g = PyDict_GetItemWithError(own, threshold);
    u->n = PyDict_GetItemWithError(own, clock);
    u->b = momentum ? PyDict_GetItemWithError(own, momentum_buffer) : NULL;
    return u->v && u->g && u->n && (u->b || !momentum);
}

/* gather(tables, changed, kept, where, params, state, clock, follow, momentum) -> indices of those left

   The same for each parameter that has a gradient and, under state[parameter], all that belongs to its update; clock is
   the key of n. With follow another optimizer has used the gradients. Left are those that no kernel can update.
   Parameters and state are the optimizer's own, so only a gradient can be negated. */
PyObject *native_gather(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *tables, *changed, *kept, *given, *state, *clock;
    int where, follow, momentum;
    if (!PyArg_ParseTuple(args, "O!O!O!iOO!Upp", &PyDict_Type, &tables, &PyList_Type, &changed, &PyList_Type, &kept, &where,
                          &given, &PyDict_Type, &state, &clock, &follow, &momentum))
        return NULL;
    /* A copy: reading a gradient may run code that changes the list. */
    PyObject *params = PySequence_Tuple(given);
    if (!params) return NULL;
    Py_ssize_t size = PyTuple_GET_SIZE(params), count = 0;
    PyObject *left = PyList_New(0);
    Row *rows = PyMem_Malloc((size_t)size * sizeof(Row));
    if (!rows) PyErr_NoMemory();
    /* As many rows as there are of one kind in succession go to their table at once. */
    int64_t kind = 0;
    for (Py_ssize_t i = 0; i < size && !PyErr_Occurred(); i++) {
        PyObject *w = PyTuple_GET_ITEM(params, i), *d = is_plain(w) ? PyObject_GetAttr(w, grad) : NULL;
        Update u;
        Row row;
        int64_t next;
        int waits = d && d != Py_None && (follow || !is_negated(d)) &&
                    find(w, d, state, clock, follow, momentum, &u) && fill(&u, where, &row, &next);
        if (waits && !keep(changed, kept, &u)) {
            if (count && next != kind) {
                append(tables, kind, rows, count);
                count = 0;
            }
            kind = next;
            rows[count++] = row;
        } else if (d != Py_None && !PyErr_Occurred()) {
            PyObject *index = PyLong_FromSsize_t(i);
            if (index) PyList_Append(left, index);
            Py_XDECREF(index);
        }
        Py_XDECREF(d);
    }
    if (count && !PyErr_Occurred()) append(tables, kind, rows, count);
    PyMem_Free(rows);
    Py_DECREF(params);
    if (PyErr_Occurred()) Py_CLEAR(left);
    return left;
}
