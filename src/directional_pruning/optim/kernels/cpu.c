/* Update many tensors in one pass over memory: v += the step of SGD or of another optimizer, w = S_g(v). */

#include "table.h"

#include <math.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#define HAS_STREAM 1
#else
#define HAS_STREAM 0
#endif

/* Floating-point exceptions are never read, so both sides of a choice may be computed; else GCC keeps a branch. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INLINE static inline
#define INDEPENDENT
#endif

#define AT(type, address, i) ((type *)(intptr_t)(address) + (i))

/* Move the dual variables and make the weights; only make the weights; only scale the gradients of zeros. */
enum { UPDATE_ALL, CUT_ALL, SCALE_ALL };

typedef struct {
    float lr, momentum, decay, sign, of_zeros;
    int nesterov, power, task;
} Rates;

typedef uint16_t bfloat16;

INLINE float as_float(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* To the nearest number of bfloat16, ties to even, as torch rounds; NaN stays NaN. */
INLINE float round_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = x != x ? 0x7fc00000 : (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* The bits of x in bfloat16. A negative survivor too small for it rounds to -0.0; adding 0.0 makes that +0.0. */
INLINE uint32_t as_bfloat16(float x) {
    uint32_t bits;
    x = round_bfloat16(x) + 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 16;
}

/* S_g(x) = x - clamp(x, -g, g). The comparisons let NaN through, and x - x makes what is pruned +0.0. */
INLINE float shrink(float x, float g) {
    float above = -g > x ? -g : x;
    return x - (g < above ? g : above);
}

/* 0 up to g; beyond it x (1 - (g / |x|)^power) for a power of 1, 2, 4, 8, 16, 32 or 64, or x itself. */
enum { HARD = 0, LATER = -1 };
INLINE float cut(float x, float g, int power) {
    float ratio = g / x, loss = ratio * ratio;
    if (power >= 4) loss *= loss;
    if (power >= 8) loss *= loss;
    if (power >= 16) loss *= loss;
    if (power >= 32) loss *= loss;
    if (power >= 64) loss *= loss;
    float beyond = power == HARD ? x : power == 1 ? shrink(x, g) : x * (1.0f - loss);
    return fabsf(x) <= g ? 0.0f : beyond;
}

/* Element i of a block of float32 or, with two bytes each, of bfloat16. */
INLINE float element(const void *block, Py_ssize_t i, int bytes) {
    return bytes == 4 ? ((const float *)block)[i] : as_float(((const bfloat16 *)block)[i]);
}

/* Elements at a time, and how far ahead of them memory is asked for what they need: the hardware's own prefetching ends
   with each page. */
#define BLOCK 64
#define AHEAD 512

/* Make the weights of n elements, at most BLOCK, from their dual: with constants for bytes and power. */
INLINE void cut_as(const float *v, float g, Py_ssize_t n, void *made, int bytes, int power) {
    uint32_t bits[BLOCK];
    INDEPENDENT for (Py_ssize_t i = 0; i < n; i++) {
        if (bytes == 2) bits[i] = as_bfloat16(cut(v[i], g, power));
        else ((float *)made)[i] = cut(v[i], g, power);
    }
    if (bytes == 2)
        for (Py_ssize_t i = 0; i < n; i++) ((bfloat16 *)made)[i] = (bfloat16)bits[i];
}

#define CUT(bytes)                                                                                                    \
    do {                                                                                                              \
        if (power == 1) cut_as(v, g, n, made, bytes, 1);                                                              \
        else if (power == 2) cut_as(v, g, n, made, bytes, 2);                                                         \
        else if (power == 4) cut_as(v, g, n, made, bytes, 4);                                                         \
        else if (power == 8) cut_as(v, g, n, made, bytes, 8);                                                         \
        else if (power == 16) cut_as(v, g, n, made, bytes, 16);                                                       \
        else if (power == 32) cut_as(v, g, n, made, bytes, 32);                                                       \
        else if (power == 64) cut_as(v, g, n, made, bytes, 64);                                                       \
        else cut_as(v, g, n, made, bytes, HARD);                                                                      \
    } while (0)

/* Called for each block, and not compiled into each of the loops that move v. */
WIDEST static void cut_block(const float *v, float g, Py_ssize_t n, void *made, int w_bytes, int power) {
    if (w_bytes == 4) CUT(4);
    else CUT(2);
}

/* What differs between loops. Each is compiled with constants for them, so that none is tested for each element. With
   the power LATER the gradients of zeros are scaled, and cut_block makes the weights, with the power of the rates; then
   without a gradient nothing is moved. */
typedef struct {
    int w_bytes, d_bytes, decay, momentum, power;
} Kind;

/* Update v, b and w of n elements, at most BLOCK; the new w goes to made. From a gradient:
   d += decay * w, b = momentum * b + d, v -= lr * (b, or d + momentum * b if nesterov), w = S_g(v).
   From the move of another optimizer: v += w - cut(v, before), w = cut(v, g), the difference in the precision of w. */
INLINE void update_block(const Row *row, Py_ssize_t from, Py_ssize_t n, void *made, Rates rates, Kind kind) {
    const void *w = AT(char, row->w, from * kind.w_bytes), *d = AT(char, row->d, from * kind.d_bytes);
    float *v = AT(float, row->v, from), *b = AT(float, row->b, from);
    float before = (float)row->before, g = (float)*AT(const double, row->g, 0);
    float of_zeros = before > 0 ? rates.of_zeros : 1.0f;
    union { float wide[BLOCK]; uint32_t bits[BLOCK]; } new;
    Py_ssize_t moved = kind.d_bytes || kind.power != LATER ? n : 0;
    INDEPENDENT for (Py_ssize_t i = 0; i < moved; i++) {
        float x = v[i];
        if (kind.d_bytes) {
            float step = rates.sign * element(d, i, kind.d_bytes);
            if (kind.power == LATER) step *= fabsf(x) <= before ? of_zeros : 1.0f;
            if (kind.decay) step += rates.decay * element(w, i, kind.w_bytes);
            if (kind.momentum) {
                float velocity = rates.momentum * b[i] + step;
                b[i] = velocity;
                step = rates.nesterov ? step + rates.momentum * velocity : velocity;
            }
            x -= rates.lr * step;
        } else {
            float old = cut(x, before, kind.power), change;
            if (kind.w_bytes == 2) change = round_bfloat16(element(w, i, 2) - (round_bfloat16(old) + 0.0f));
            else change = element(w, i, 4) - (old + 0.0f);
            x += change;
        }
        v[i] = x;
        if (kind.power == LATER) continue;
        x = kind.d_bytes ? shrink(x, g) : cut(x, g, kind.power);
        if (kind.w_bytes == 2) new.bits[i] = as_bfloat16(x);
        else ((float *)made)[i] = x;
    }
    if (kind.power == LATER) {
        cut_block(v, g, n, made, kind.w_bytes, rates.power);
        return;
    }
    /* In a loop of its own, or GCC makes every comparison above one of 16 bits too. */
    if (kind.w_bytes == 2)
        for (Py_ssize_t i = 0; i < n; i++) ((bfloat16 *)made)[i] = (bfloat16)new.bits[i];
}

INLINE void prefetch(int64_t address, int64_t from, int64_t bytes) {
    for (int i = 0; address && i < BLOCK * bytes; i += 64) __builtin_prefetch(AT(char, address, from * bytes + i));
}

/* Past the caches an ordinary store first reads the line it will overwrite; a streaming store does not. So weights that
   are only written are made in a block, and that is streamed, from an address that is a multiple of 64. */
INLINE void update_blocks(const Row *row, Py_ssize_t from, Py_ssize_t n, Rates rates, int streaming, Kind kind) {
    _Alignas(64) char block[BLOCK * sizeof(float)];
    streaming = HAS_STREAM && streaming && (kind.d_bytes || kind.power == LATER) && !kind.decay;
    for (; n >= BLOCK; from += BLOCK, n -= BLOCK) {
        char *w = AT(char, row->w, from * kind.w_bytes);
        prefetch(row->v, from + AHEAD, sizeof(float));
        if (kind.d_bytes) prefetch(row->d, from + AHEAD, kind.d_bytes);
        if (kind.momentum) prefetch(row->b, from + AHEAD, sizeof(float));
        if (!streaming) prefetch(row->w, from + AHEAD, kind.w_bytes);
        update_block(row, from, BLOCK, streaming ? block : w, rates, kind);
#if HAS_STREAM
        for (int i = 0; streaming && i < BLOCK * kind.w_bytes; i += 16)
            _mm_stream_si128((__m128i *)(w + i), _mm_load_si128((const __m128i *)(block + i)));
#endif
    }
#if HAS_STREAM
    if (streaming) _mm_sfence();
#endif
    update_block(row, from, n, AT(char, row->w, from * kind.w_bytes), rates, kind);
}

#define UPDATE_AS(...) update_blocks(row, from, n, rates, streaming, (Kind){__VA_ARGS__})
#define UPDATE_TO(w_bytes, d_bytes, power)                                                                            \
    do {                                                                                                              \
        if (rates.decay != 0 && row->b) UPDATE_AS(w_bytes, d_bytes, 1, 1, power);                                     \
        else if (rates.decay != 0) UPDATE_AS(w_bytes, d_bytes, 1, 0, power);                                          \
        else if (row->b) UPDATE_AS(w_bytes, d_bytes, 0, 1, power);                                                    \
        else UPDATE_AS(w_bytes, d_bytes, 0, 0, power);                                                                \
    } while (0)
#define UPDATE(w_bytes, d_bytes)                                                                                      \
    do {                                                                                                              \
        if (rates.power == 1 && rates.of_zeros == 1) UPDATE_TO(w_bytes, d_bytes, 1);                                  \
        else UPDATE_TO(w_bytes, d_bytes, LATER);                                                                      \
    } while (0)
#define FOLLOW(w_bytes)                                                                                               \
    do {                                                                                                              \
        if (rates.power == 1) UPDATE_AS(w_bytes, 0, 0, 0, 1);                                                         \
        else if (rates.power == 2) UPDATE_AS(w_bytes, 0, 0, 0, 2);                                                    \
        else if (rates.power == 4) UPDATE_AS(w_bytes, 0, 0, 0, 4);                                                    \
        else if (rates.power == 8) UPDATE_AS(w_bytes, 0, 0, 0, 8);                                                    \
        else if (rates.power == 16) UPDATE_AS(w_bytes, 0, 0, 0, 16);                                                  \
        else if (rates.power == 32) UPDATE_AS(w_bytes, 0, 0, 0, 32);                                                  \
        else if (rates.power == 64) UPDATE_AS(w_bytes, 0, 0, 0, 64);                                                  \
        else UPDATE_AS(w_bytes, 0, 0, 0, HARD);                                                                       \
    } while (0)

/* Multiply the gradients of n elements where the weight is zero. */
INLINE void scale(const Row *row, Py_ssize_t from, Py_ssize_t n, float of_zeros, int d_bytes) {
    const float *v = AT(const float, row->v, from);
    void *d = AT(char, row->d, from * d_bytes);
    float g = (float)*AT(const double, row->g, 0);
    INDEPENDENT for (Py_ssize_t i = 0; g > 0 && i < n; i++) {
        float x = element(d, i, d_bytes) * (fabsf(v[i]) <= g ? of_zeros : 1.0f);
        uint32_t bits;
        if (d_bytes == 4) ((float *)d)[i] = x;
        else x = round_bfloat16(x), memcpy(&bits, &x, sizeof bits), ((bfloat16 *)d)[i] = (bfloat16)(bits >> 16);
    }
}

/* Do the task for n elements of a tensor, from the given one on, with the loop compiled for it. */
WIDEST static void update_part(const Row *row, Py_ssize_t from, Py_ssize_t n, Rates rates, int streaming) {
    if (rates.task == SCALE_ALL && row->d_bytes == 4) scale(row, from, n, rates.of_zeros, 4);
    else if (rates.task == SCALE_ALL) scale(row, from, n, rates.of_zeros, 2);
    else if (rates.task == CUT_ALL && row->w_bytes == 4) UPDATE_AS(4, 0, 0, 0, LATER);
    else if (rates.task == CUT_ALL) UPDATE_AS(2, 0, 0, 0, LATER);
    else if (!row->d && row->w_bytes == 4) FOLLOW(4);
    else if (!row->d) FOLLOW(2);
    else if (row->w_bytes == 4) UPDATE(4, 4);
    else if (row->d_bytes == 2) UPDATE(2, 2);
    else UPDATE(2, 4);
}

/* Of the elements of all tensors, laid end to end, update those from begin to end. */
static void update_range(const Row *row, const Row *last, Py_ssize_t begin, Py_ssize_t end, Rates rates,
                         int streaming) {
    for (Py_ssize_t first = 0; row < last; first += (Py_ssize_t)row->elements, row++) {
        Py_ssize_t from = begin > first ? begin - first : 0;
        Py_ssize_t to = end < first + row->elements ? end - first : (Py_ssize_t)row->elements;
        if (from >= to) continue;
        Py_ssize_t head = streaming ? (Py_ssize_t)(-(row->w + from * row->w_bytes) & 63) / (Py_ssize_t)row->w_bytes : 0;
        if (head > to - from) head = to - from;
        update_part(row, from, head, rates, 0);
        update_part(row, from + head, to - from - head, rates, streaming);
    }
}

/* n += 1 and g += scale * (n^mu - (n-1)^mu) for each tensor. Most have the same n, so most powers are computed once. */
static void raise_thresholds(Row *row, const Row *last, double scale, double mu) {
    double growth = 0;
    for (float previous = -1; row < last; row++) {
        float *n = AT(float, row->n, 0);
        double *g = AT(double, row->g, 0);
        *n += 1;
        if (*n != previous) growth = scale * (pow(*n, mu) - pow((double)*n - 1, mu));
        previous = *n;
        row->before = *g;
        *g += growth;
    }
}

/* Do the task for all tensors, on so many threads, each of which gets the least number of elements, and with streaming
   stores from so many elements on. torch's OpenMP is in the process already, so these are torch's threads: others would
   wait for the ones that spin there. */
static void run(const Row *rows, const Row *last, Rates rates, Py_ssize_t threads, Py_ssize_t least,
                Py_ssize_t streaming) {
    Py_ssize_t elements = 0;
    for (const Row *row = rows; row < last; row++) elements += (Py_ssize_t)row->elements;
    if (threads > elements / least) threads = elements / least;
    if (threads < 1) threads = 1;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (Py_ssize_t part = 0; part < threads; part++) {
        Py_ssize_t begin = elements / threads * part;
        Py_ssize_t end = part + 1 < threads ? elements / threads * (part + 1) : elements;
        update_range(rows, last, begin, end, rates, elements >= streaming);
    }
}

/* update(table, scale, mu, lr, momentum, decay, nesterov, maximize, power, of_zeros, threads, least, streaming)

   Raise the thresholds of all tensors and update them. */
PyObject *native_update(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer table;
    Rates rates = {.task = UPDATE_ALL};
    double scale, mu;
    int maximize;
    Py_ssize_t threads, least, streaming;
    if (!PyArg_ParseTuple(args, "w*ddfffppifnnn", &table, &scale, &mu, &rates.lr, &rates.momentum, &rates.decay,
                          &rates.nesterov, &maximize, &rates.power, &rates.of_zeros, &threads, &least, &streaming))
        return NULL;
    rates.sign = maximize ? -1.0f : 1.0f;
    Py_BEGIN_ALLOW_THREADS
    Row *rows = table.buf, *last = rows + table.len / (Py_ssize_t)sizeof(Row);
    raise_thresholds(rows, last, scale, mu);
    run(rows, last, rates, threads, least, streaming);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&table);
    Py_RETURN_NONE;
}

/* cut(table, power, threads, least, streaming): make the weights from the dual variables, under the present thresholds.
   With a power of 0 survivors are their dual. */
PyObject *native_cut(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer table;
    Rates rates = {.task = CUT_ALL};
    Py_ssize_t threads, least, streaming;
    if (!PyArg_ParseTuple(args, "y*innn", &table, &rates.power, &threads, &least, &streaming)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    const Row *rows = table.buf;
    run(rows, rows + table.len / (Py_ssize_t)sizeof(Row), rates, threads, least, streaming);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&table);
    Py_RETURN_NONE;
}

/* scale(table, factor, threads, least): multiply the gradients of the weights that are zero. */
PyObject *native_scale(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer table;
    Rates rates = {.task = SCALE_ALL};
    Py_ssize_t threads, least;
    if (!PyArg_ParseTuple(args, "y*fnn", &table, &rates.of_zeros, &threads, &least)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    const Row *rows = table.buf;
    run(rows, rows + table.len / (Py_ssize_t)sizeof(Row), rates, threads, least, PY_SSIZE_T_MAX);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&table);
    Py_RETURN_NONE;
}
