/* The numbers, fast: the same bits as seedbed/threefry.py and seedbed/fill.py, which define them.
 *
 * One file, no dependency, the limited Python API. Kernels are plain C that a compiler vectorizes,
 * built once for each instruction set from the same lines and chosen when the module is loaded.
 * Every step in floating point is exact before its one rounding (docs/determinism.md), so that no
 * vector width, fused multiply-add or fast-math option can change a bit.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int32_t i32;
typedef uint64_t u64;
typedef int64_t i64;

enum { BLOCKS = 256, BATCH = 4 * BLOCKS, ROWS = 16, PARTS = 16, AXES = 32 };
enum kind { CONSTANT, UNIFORM, NORMAL, TRUNCATED };
enum type { F32, F64, BF16, F16 };

/* How one part of a mixture, or a whole initializer, makes values of words. */
typedef struct {
    i32 kind;
    u32 lowest;   /* TRUNCATED: the smallest m allowed */
    float factor; /* half the width, or the standard deviation; the value of a constant */
    float shift;  /* the centre, or the mean */
    float low;    /* UNIFORM: the smallest value, and the last one below the bound */
    float last;
    u64 below;    /* the choosing words below this one take this part */
} part;

/* One region: runs along its last axis, and where its values go. */
typedef struct {
    u32 key[4];
    i32 parts, mixture, type, axes;
    part part[PARTS];
    const u64 *table; /* the normal's: B and A of each row, A in the lower half */
    i64 first;          /* the element at the region's corner */
    i64 size[AXES], from[AXES], to[AXES]; /* sizes; strides in elements of the whole; in bytes of `out` */
    char *out;
} job;

#define INLINE static inline __attribute__((always_inline))

INLINE u32 rotate(u32 x, int by) { return (x << by) | (x >> (32 - by)); }
INLINE float as_float(u32 x) { float y; memcpy(&y, &x, 4); return y; }
INLINE u32 as_bits(float x) { u32 y; memcpy(&y, &x, 4); return y; }

/* Threefry4x32-20 of 256 counters (block, draw, 0): out[4 * i + lane]. */
INLINE void threefry(u32 *restrict out, const u32 *restrict low, const u32 *restrict high, u32 draw, const u32 *key) {
    const u32 k0 = key[0], k1 = key[1], k2 = key[2], k3 = key[3], k4 = 0x1BD11BDAu ^ k0 ^ k1 ^ k2 ^ k3;
    for (int i = 0; i < BLOCKS; i++) {
        u32 a = low[i] + k0, b = high[i] + k1, c = draw + k2, d = k3;
#define TWO(r0, r1, r2, r3) \
        a += b; b = rotate(b, r0) ^ a; c += d; d = rotate(d, r1) ^ c; \
        a += d; d = rotate(d, r2) ^ a; c += b; b = rotate(b, r3) ^ c;
#define FOUR_A TWO(10, 26, 11, 21) TWO(13, 27, 23, 5)
#define FOUR_B TWO(6, 20, 17, 11) TWO(25, 10, 18, 20)
        FOUR_A a += k1; b += k2; c += k3; d += k4 + 1;
        FOUR_B a += k2; b += k3; c += k4; d += k0 + 2;
        FOUR_A a += k3; b += k4; c += k0; d += k1 + 3;
        FOUR_B a += k4; b += k0; c += k1; d += k2 + 4;
        FOUR_A a += k0; b += k1; c += k2; d += k3 + 5;
        out[4 * i] = a; out[4 * i + 1] = b; out[4 * i + 2] = c; out[4 * i + 3] = d;
    }
}

INLINE float scaled(float x, float factor, float shift, int shifted) {
    return shifted ? (float)((double)x * (double)factor + (double)shift) : x * factor;
}

INLINE float normal(u32 word, u32 m, const u64 *restrict table) {
    i32 bits = (i32)as_bits((float)(i32)m);
    i32 row = (bits >> 15) - ((127 << 8) - 1);
    row = row < 0 ? 0 : row;
    float t = (float)((bits >> 3) & 0xFFF);
    u64 ab = table[row];
    return as_float(as_bits(as_float((u32)ab) + as_float((u32)(ab >> 32)) * t) ^ (word & 0x80000000u));
}

INLINE void values_of(float *restrict out, const u32 *restrict words, const part *p, const u64 *restrict table, int shifted) {
    const float factor = p->factor, shift = p->shift;
    if (p->kind == UNIFORM) {
        const float low = p->low, last = p->last;
        for (int i = 0; i < BATCH; i++) {
            float s = (float)((i32)(words[i] >> 8) * 2 - 0xFFFFFF) * 0x1p-24f;
            float x = scaled(s, factor, shift, shifted);
            x = x <= low ? low : x;
            out[i] = x >= last ? last : x;
        }
    } else if (p->kind == NORMAL) {
        for (int i = 0; i < BATCH; i++)
            out[i] = scaled(normal(words[i], words[i] & 0x7FFFFFFFu, table), factor, shift, shifted);
    } else if (p->kind == TRUNCATED) {
        const u32 lowest = p->lowest, span = 0x80000000u - lowest;
        for (int i = 0; i < BATCH; i++) {
            u32 m = lowest + (u32)(((u64)(words[i] & 0x7FFFFFFFu) * span) >> 31);
            out[i] = scaled(normal(words[i], m, table), factor, shift, shifted);
        }
    } else {
        for (int i = 0; i < BATCH; i++) out[i] = factor;
    }
}

INLINE void values(float *restrict out, const u32 *restrict words, const part *p, const u64 *restrict table) {
    if (p->shift != 0) values_of(out, words, p, table, 1);
    else values_of(out, words, p, table, 0);
}

/* To nearest, ties to even; no initializer makes a NaN. */
INLINE u16 to_bfloat16(float x) { u32 u = as_bits(x); return (u16)((u + 0x7FFFu + ((u >> 16) & 1)) >> 16); }
INLINE u16 to_float16(float x) {
    u32 u = as_bits(x), sign = (u >> 16) & 0x8000u, m = u & 0x7FFFFFFFu;
    u32 usual = (m - 0x38000000u + 0xFFFu + ((m >> 13) & 1)) >> 13;
    u32 small = as_bits(as_float(m) + 0.5f) - 0x3F000000u; /* the sum rounds to multiples of 2^-24 */
    u32 r = m < 0x38800000u ? small : usual;
    return (u16)(sign | (r > 0x7C00u ? 0x7C00u : r));
}

/* A batch of values, from words of one draw or, for a mixture, of two. */
INLINE void batch(const job *j, const u32 *low, const u32 *high, float *restrict out) {
    u32 words[BATCH] __attribute__((aligned(64)));
    const part *p = j->part;
    if (!j->mixture) {
        threefry(words, low, high, 0, j->key);
        values(out, words, p, j->table);
        return;
    }
    u32 choice[BATCH] __attribute__((aligned(64)));
    float some[BATCH] __attribute__((aligned(64)));
    threefry(choice, low, high, 0, j->key);
    threefry(words, low, high, 1, j->key);
    values(out, words, p + j->parts - 1, j->table);
    for (int n = j->parts - 2; n >= 0; n--) {
        values(some, words, p + n, j->table);
        const u64 below = p[n].below;
        if (below > 0xFFFFFFFFu) { memcpy(out, some, sizeof some); continue; }
        const u32 bound = (u32)below;
        for (int i = 0; i < BATCH; i++) out[i] = choice[i] < bound ? some[i] : out[i];
    }
}

INLINE void store(char *restrict to, i64 stride, const float *restrict x, i64 n, int type) {
#define EACH(T, VALUE) \
    if (stride == (i64)sizeof(T)) { T *restrict y = (T *)to; for (i64 i = 0; i < n; i++) y[i] = VALUE; } \
    else for (i64 i = 0; i < n; i++) { T v = VALUE; memcpy(to + i * stride, &v, sizeof v); }
    if (type == F32) { EACH(float, x[i]) }
    else if (type == F64) { EACH(double, (double)x[i]) }
    else if (type == BF16) { EACH(u16, to_bfloat16(x[i])) }
    else { EACH(u16, to_float16(x[i])) }
}

/* Where the values of a piece of a run lie in a batch, and where they go. */
typedef struct { char *to; i32 at, n; } piece;

typedef struct {
    u32 low[BLOCKS], high[BLOCKS];
    piece piece[BLOCKS];
    int blocks, pieces;
} pending;

INLINE void flush(const job *j, pending *w, i64 stride) {
    float x[BATCH] __attribute__((aligned(64)));
    for (int i = w->blocks; i < BLOCKS; i++) w->low[i] = w->high[i] = 0;
    if (w->pieces == 1 && w->piece[0].n == BATCH && j->type == F32 && stride == 4) {
        batch(j, w->low, w->high, (float *)(void *)w->piece[0].to); /* straight into memory */
        w->blocks = w->pieces = 0;
        return;
    }
    batch(j, w->low, w->high, x);
    for (int i = 0; i < w->pieces; i++) store(w->piece[i].to, stride, x + w->piece[i].at, w->piece[i].n, j->type);
    w->blocks = w->pieces = 0;
}

INLINE void take(const job *j, pending *w, i64 first, i64 n, char *to, i64 stride) {
    while (n > 0) {
        if (w->blocks == BLOCKS) flush(j, w, stride);
        i64 block = first >> 2, skip = first & 3, need = (skip + n + 3) >> 2, room = BLOCKS - w->blocks;
        i64 take = need < room ? need : room, count = 4 * take - skip;
        count = count < n ? count : n;
        for (i64 i = 0; i < take; i++) {
            w->low[w->blocks + i] = (u32)(block + i);
            w->high[w->blocks + i] = (u32)((u64)(block + i) >> 32);
        }
        w->piece[w->pieces++] = (piece){to, (i32)(4 * w->blocks + skip), (i32)count};
        w->blocks += (int)take;
        first += count; to += count * stride; n -= count;
    }
}

/* A tile of runs of n values, each `stride` bytes apart; the runs themselves lie side by side in `to`. */
INLINE void flush_tile(const job *j, pending *w, char *to, i64 n, i64 stride) {
    float x[BATCH] __attribute__((aligned(64))), line[ROWS];
    const int rows = w->pieces;
    for (int i = w->blocks; i < BLOCKS; i++) w->low[i] = w->high[i] = 0;
    batch(j, w->low, w->high, x);
    for (i64 c = 0; c < n; c++) {
        for (int k = 0; k < rows; k++) line[k] = x[w->piece[k].at + c];
        store(to + c * stride, j->type == F32 ? 4 : j->type == F64 ? 8 : 2, line, rows, j->type);
    }
    w->blocks = w->pieces = 0;
}

/* All of a job. The last axis is the run; `tall` is the axis, if any, along which the destination is
 * contiguous instead: then values are made in tiles of 16 runs, so that its lines are written whole. */
INLINE void fill(const job *j) {
    pending w;
    w.blocks = w.pieces = 0;
    const int last = j->axes - 1;
    const i64 item = j->type == F32 ? 4 : j->type == F64 ? 8 : 2, stride = j->to[last], length = j->size[last];
    int tall = -1;
    if (stride != item && length > 1)
        for (int x = 0; x < last; x++) if (j->to[x] == item && j->size[x] > 1) tall = x;
    i64 at[AXES] = {0}, first = j->first;
    char *to = j->out;
    for (;;) {
        if (tall < 0) {
            take(j, &w, first, length, to, stride);
        } else {
            /* 60 where runs begin inside a block: 16 runs then still need no more than 256 blocks. */
            const i64 width = (first | j->from[tall]) & 3 ? 60 : 64, high = j->size[tall];
            for (i64 r = 0; r < high; r += ROWS)
                for (i64 c = 0; c < length; c += width) {
                    const i64 rows = high - r < ROWS ? high - r : ROWS, n = length - c < width ? length - c : width;
                    char *corner = to + r * item + c * stride;
                    for (i64 k = 0; k < rows; k++) take(j, &w, first + (r + k) * j->from[tall] + c, n, corner, stride);
                    flush_tile(j, &w, corner, n, stride);
                }
        }
        int x = last - 1;
        for (; x >= 0; x--) {
            if (x == tall) continue;
            first += j->from[x]; to += j->to[x];
            if (++at[x] < j->size[x]) break;
            first -= j->from[x] * j->size[x]; to -= j->to[x] * j->size[x]; at[x] = 0;
        }
        if (x < 0) break;
    }
    if (w.blocks) flush(j, &w, stride);
}

typedef void (*filler)(const job *);
static void fill_baseline(const job *j) { fill(j); }
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void fill_avx2(const job *j) { fill(j); }
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void fill_avx512(const job *j) { fill(j); }
#endif

/* Fillers by name, the fastest first, as far as this processor has them. */
static struct { const char *name; filler fill; } fillers[4];

static void find_fillers(void) {
    int n = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) { fillers[n].name = "avx512"; fillers[n++].fill = fill_avx512; }
    if (__builtin_cpu_supports("avx2")) { fillers[n].name = "avx2"; fillers[n++].fill = fill_avx2; }
#endif
    fillers[n].name = "baseline"; fillers[n].fill = fill_baseline;
}

/* fill(name, key, parts, mixture, type, first, axes, table, out): bytes hold the structures, integers the addresses. */
static PyObject *engine_fill(PyObject *self, PyObject *args) {
    const char *name, *key, *parts, *axes;
    Py_ssize_t key_bytes, parts_bytes, axes_bytes;
    unsigned long long table, out;
    long long first;
    int type, mixture;
    job j;
    (void)self;
    if (!PyArg_ParseTuple(args, "sy#y#piLy#KK", &name, &key, &key_bytes, &parts, &parts_bytes, &mixture, &type, &first, &axes,
                          &axes_bytes, &table, &out)) return NULL;
    const Py_ssize_t count = axes_bytes / 24, n = parts_bytes / (Py_ssize_t)sizeof(part);
    if (key_bytes != 16 || count < 1 || count > AXES || axes_bytes % 24 || n < 1 || n > PARTS ||
        parts_bytes % (Py_ssize_t)sizeof(part) || type < F32 || type > F16 || !out || !table) {
        PyErr_SetString(PyExc_ValueError, "engine: a structure of the wrong size");
        return NULL;
    }
    memcpy(j.key, key, 16);
    memcpy(j.part, parts, (size_t)parts_bytes);
    j.parts = (i32)n; j.mixture = mixture; j.type = type; j.axes = (i32)count; j.first = first;
    for (Py_ssize_t i = 0; i < count; i++) {
        memcpy(&j.size[i], axes + 24 * i, 8);
        memcpy(&j.from[i], axes + 24 * i + 8, 8);
        memcpy(&j.to[i], axes + 24 * i + 16, 8);
        if (j.size[i] < 1) { PyErr_SetString(PyExc_ValueError, "engine: an axis without elements"); return NULL; }
    }
    j.table = (const u64 *)(uintptr_t)table;
    j.out = (char *)(uintptr_t)out;
    filler chosen = NULL;
    for (int i = 0; fillers[i].name; i++) if (!strcmp(fillers[i].name, name)) chosen = fillers[i].fill;
    if (!chosen) { PyErr_Format(PyExc_ValueError, "engine: no instruction set '%s' here", name); return NULL; }
    Py_BEGIN_ALLOW_THREADS
    chosen(&j);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *engine_names(PyObject *self, PyObject *none) {
    (void)self; (void)none;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && fillers[i].name; i++) {
        PyObject *name = PyUnicode_FromString(fillers[i].name);
        if (!name || PyList_Append(list, name) < 0) { Py_XDECREF(name); Py_DECREF(list); return NULL; }
        Py_DECREF(name);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"fill", engine_fill, METH_VARARGS, "Fill a region of memory with the values of an elementwise initializer."},
    {"names", engine_names, METH_NOARGS, "Instruction sets this processor has, the fastest first."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_engine", "The numbers, fast.", -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__engine(void) { find_fillers(); return PyModule_Create(&module); }
