/* Count the magnitudes of many float32 tensors in bins, in one pass over memory. */

#include "table.h"

#define BINS 2048
/* As many counts side by side as increments are under way at once: consecutive elements often fall into one bin. */
#define LANES 4

/* Elements tested together: most blocks have none inside of the bins, once the bins are few and narrow. */
#define BLOCK 32

/* Of the magnitudes of n numbers: how many are below the bins, and how many in each. A magnitude is its bits, read as an
   integer; they have one order, with NaN last. Bin i begins at low + (i << shift); the one past the last is not used. */
WIDEST static int64_t count_part(const uint32_t *v, int64_t n, uint32_t low, int shift, int64_t counts[][BINS + 1]) {
    int64_t below = 0;
    uint32_t width = (uint32_t)BINS << shift;
    int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        uint32_t distance[BLOCK], inside = 0;
        int32_t beneath = 0;
        for (int j = 0; j < BLOCK; j++) {
            int32_t bits = (int32_t)(v[i + j] & 0x7fffffff);
            distance[j] = (uint32_t)bits - low;
            inside |= distance[j] < width;
            beneath += bits < (int32_t)low;
        }
        below += beneath;
        for (int j = 0; inside && j < BLOCK; j++)
            counts[j % LANES][distance[j] < width ? distance[j] >> shift : BINS]++;
    }
    for (; i < n; i++) {
        uint32_t bits = v[i] & 0x7fffffff, distance = bits - low;
        below += bits < low;
        counts[0][distance < width ? distance >> shift : BINS]++;
    }
    return below;
}

/* histogram(tensors, counts, low, shift, threads, least)

   Add to the BINS + 2 counts, of 64 bits, what is in the tensors: pairs of an address and a number of elements. */
PyObject *native_histogram(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer tensors, counts;
    long long low;
    int shift;
    Py_ssize_t threads, least;
    if (!PyArg_ParseTuple(args, "y*w*Linn", &tensors, &counts, &low, &shift, &threads, &least)) return NULL;
    const int64_t *pairs = tensors.buf;
    int64_t *sums = counts.buf, elements = 0;
    Py_ssize_t last = tensors.len / (Py_ssize_t)(2 * sizeof(int64_t));
    if (counts.len != (BINS + 2) * (Py_ssize_t)sizeof(int64_t)) {
        PyBuffer_Release(&tensors);
        PyBuffer_Release(&counts);
        PyErr_SetString(PyExc_ValueError, "histogram needs 2,050 counts of 64 bits");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < last; i++) elements += pairs[2 * i + 1];
    if (threads > elements / least) threads = elements / least;
    if (threads < 1) threads = 1;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (Py_ssize_t part = 0; part < threads; part++) {
        int64_t begin = elements / threads * part, first = 0;
        int64_t end = part + 1 < threads ? elements / threads * (part + 1) : elements;
        int64_t local[LANES][BINS + 1] = {{0}}, below = 0, inside = 0, counted = 0;
        for (Py_ssize_t i = 0; i < last; first += pairs[2 * i + 1], i++) {
            int64_t from = begin > first ? begin - first : 0;
            int64_t to = end < first + pairs[2 * i + 1] ? end - first : pairs[2 * i + 1];
            if (from >= to) continue;
            below += count_part((const uint32_t *)(intptr_t)pairs[2 * i] + from, to - from, (uint32_t)low, shift, local);
            counted += to - from;
        }
#pragma omp critical
        {
            sums[0] += below;
            for (int bin = 0; bin < BINS; bin++) {
                int64_t sum = 0;
                for (int lane = 0; lane < LANES; lane++) sum += local[lane][bin];
                sums[bin + 1] += sum;
                inside += sum;
            }
            sums[BINS + 1] += counted - below - inside;
        }
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&tensors);
    PyBuffer_Release(&counts);
    Py_RETURN_NONE;
}
