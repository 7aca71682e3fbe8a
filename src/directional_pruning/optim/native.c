/* One gRDA update of many tensors in one pass over memory: v += alpha * d, w = v - clamp(v, -g, g). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#define HAS_STREAM 1
#else
#define HAS_STREAM 0
#endif

/* Compiled for the baseline and for processors with AVX2 and FMA; the loader picks. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define WIDEST __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define WIDEST
#endif

typedef uint16_t bfloat16;

static inline float as_float(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* To the nearest, ties to even, as torch rounds; NaN stays NaN. */
static inline bfloat16 as_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bfloat16)(x != x ? 0x7fc0 : rounded);
}

/* v += alpha * d, w = v - clamp(v, -g, g). The comparisons let NaN through, and x - x makes what is pruned +0.0. */
#define DEFINE_UPDATE(name, weight, from_float, gradient, to_float)                                                   \
    WIDEST static void name(weight *restrict w, float *restrict v, const gradient *restrict d, Py_ssize_t n,          \
                            float alpha, float g) {                                                                   \
        for (Py_ssize_t i = 0; i < n; i++) {                                                                          \
            float x = v[i] + alpha * to_float(d[i]);                                                                  \
            float inside = x < -g ? -g : x > g ? g : x;                                                               \
            v[i] = x;                                                                                                 \
            w[i] = from_float(x - inside);                                                                            \
        }                                                                                                             \
    }
DEFINE_UPDATE(update, float, , float, )
DEFINE_UPDATE(update_bfloat16, bfloat16, as_bfloat16, bfloat16, as_float)
DEFINE_UPDATE(update_bfloat16_float, bfloat16, as_bfloat16, float, )

#if HAS_STREAM
/* The same to the bit. Past the caches, an ordinary store first reads the line it will overwrite; a streaming store
   does not. w must be aligned to 16 bytes and n a multiple of 4. min and max return their second argument for NaN. */
WIDEST static void update_streaming(float *w, float *v, const float *d, Py_ssize_t n, float alpha, float g) {
    __m128 rate = _mm_set1_ps(alpha), high = _mm_set1_ps(g), low = _mm_set1_ps(-g);
    for (Py_ssize_t i = 0; i < n; i += 4) {
        __m128 x = _mm_add_ps(_mm_loadu_ps(v + i), _mm_mul_ps(rate, _mm_loadu_ps(d + i)));
        _mm_storeu_ps(v + i, x);
        _mm_stream_ps(w + i, _mm_sub_ps(x, _mm_min_ps(high, _mm_max_ps(low, x))));
    }
    _mm_sfence();
}
#endif

/* A tensor in the table: 64-bit integers, five of them addresses; the bytes of an element of w and of d, 4 for float32
   and 2 for bfloat16. v is float32. */
typedef struct {
    int64_t w, v, d, g, n, elements, w_bytes, d_bytes;
} Row;

/* Of the elements of all tensors, laid end to end, update those from begin to end. */
static void update_range(const Row *row, const Row *last, Py_ssize_t begin, Py_ssize_t end, float alpha, int streaming) {
    for (Py_ssize_t first = 0; row < last; first += (Py_ssize_t)row->elements, row++) {
        Py_ssize_t from = begin > first ? begin - first : 0;
        Py_ssize_t to = end < first + row->elements ? end - first : (Py_ssize_t)row->elements;
        if (from >= to) continue;
        float g = (float)*(const double *)(intptr_t)row->g;
        float *v = (float *)(intptr_t)row->v;
        if (row->w_bytes == 2) {
            bfloat16 *w = (bfloat16 *)(intptr_t)row->w + from;
            if (row->d_bytes == 2)
                update_bfloat16(w, v + from, (const bfloat16 *)(intptr_t)row->d + from, to - from, alpha, g);
            else
                update_bfloat16_float(w, v + from, (const float *)(intptr_t)row->d + from, to - from, alpha, g);
            continue;
        }
        float *w = (float *)(intptr_t)row->w;
        const float *d = (const float *)(intptr_t)row->d;
#if HAS_STREAM
        if (streaming) {
            /* up to the next address that is a multiple of 64 */
            Py_ssize_t head = (Py_ssize_t)((64 - ((uintptr_t)(w + from) & 63)) / sizeof(float) & 15);
            if (head > to - from) head = to - from;
            update(w + from, v + from, d + from, head, alpha, g);
            from += head;
            Py_ssize_t body = (to - from) & ~(Py_ssize_t)3;
            update_streaming(w + from, v + from, d + from, body, alpha, g);
            from += body;
        }
#endif
        update(w + from, v + from, d + from, to - from, alpha, g);
    }
}

/* update(table, alpha, threads, streaming): update all tensors, each with the threshold that its g points to. torch's
   OpenMP is in the process already, so these are torch's threads: others would wait for the ones that spin there. */
static PyObject *native_update(PyObject *Py_UNUSED(self), PyObject *args) {
    Py_buffer table;
    double alpha;
    int threads, streaming;
    if (!PyArg_ParseTuple(args, "y*dip", &table, &alpha, &threads, &streaming)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    const Row *rows = table.buf, *last = rows + table.len / (Py_ssize_t)sizeof(Row);
    Py_ssize_t elements = 0;
    for (const Row *row = rows; row < last; row++) elements += (Py_ssize_t)row->elements;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int part = 0; part < threads; part++) {
        Py_ssize_t begin = elements / threads * part;
        Py_ssize_t end = part + 1 < threads ? elements / threads * (part + 1) : elements;
        update_range(rows, last, begin, end, (float)alpha, streaming);
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&table);
    Py_RETURN_NONE;
}

/* raise_thresholds(table, scale, mu): for each tensor n += 1 and g += scale * (n^mu - (n-1)^mu). */
static PyObject *native_raise_thresholds(PyObject *Py_UNUSED(self), PyObject *args) {
    Py_buffer table;
    double scale, mu;
    if (!PyArg_ParseTuple(args, "y*dd", &table, &scale, &mu)) return NULL;
    const Row *row = table.buf, *last = row + table.len / (Py_ssize_t)sizeof(Row);
    for (; row < last; row++) {
        float *n = (float *)(intptr_t)row->n;
        *n += 1;
        *(double *)(intptr_t)row->g += scale * (pow(*n, mu) - pow((double)*n - 1, mu));
    }
    PyBuffer_Release(&table);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"update", native_update, METH_VARARGS, "update(table, alpha, threads, streaming)"},
    {"raise_thresholds", native_raise_thresholds, METH_VARARGS, "raise_thresholds(table, scale, mu)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&module); }
