/* The numbers, fast: the same bits as seedbed/threefry.py and seedbed/fill.py, which define them.
 *
 * No dependency, the limited Python API; sums are in _sums.c. Kernels are plain C that a compiler vectorizes,
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

enum { GROUP = 32, VALUES = 4 * GROUP, BLOCKS = 256, BATCH = 4 * BLOCKS, ROWS = 16, PARTS = 16, AXES = 32 };
enum kind { CONSTANT, UNIFORM, NORMAL, TRUNCATED, WORDS };
enum type { F32, F64, BF16, F16 };

/* How one part of a mixture, or a whole initializer, makes values of words. */
typedef struct {
    i32 kind;
    u32 lowest;   /* TRUNCATED: the smallest m allowed; WORDS: the draw */
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
    const float *table; /* the normal's: A and B / 8 of each row */
    i64 first;          /* the element at the region's corner */
    i64 size[AXES], from[AXES], to[AXES]; /* sizes; strides in elements of the whole; in bytes of `out` */
    char *out;
} job;

#define ALIGNED __attribute__((aligned(64)))
#define INLINE static inline __attribute__((always_inline))
/* A number of which the compiler knows nothing, so that it makes no gathers of single loads, which are faster. */
#define HIDE(x) __asm__("" : "+r"(x))

INLINE u32 rotate(u32 x, int by) { return (x << by) | (x >> (32 - by)); }
INLINE float as_float(u32 x) { float y; memcpy(&y, &x, 4); return y; }
INLINE u32 as_bits(float x) { u32 y; memcpy(&y, &x, 4); return y; }

/* Threefry4x32-20 of 32 counters (block, draw, 0): out[4 * i + lane]. Two at a time, because the steps
 * of one wait for each other. */
INLINE void threefry(u32 *restrict out, const u32 *restrict low, const u32 *restrict high, u32 draw, const u32 *key) {
    const u32 k0 = key[0], k1 = key[1], k2 = key[2], k3 = key[3], k4 = 0x1BD11BDAu ^ k0 ^ k1 ^ k2 ^ k3;
    enum { HALF = GROUP / 2 };
    for (int i = 0; i < HALF; i++) {
        u32 a = low[i] + k0, b = high[i] + k1, c = draw + k2, d = k3;
        u32 e = low[i + HALF] + k0, f = high[i + HALF] + k1, g = draw + k2, h = k3;
#define MIX(x, y, by, u, v) x += y; u += v; y = rotate(y, by) ^ x; v = rotate(v, by) ^ u;
#define TWO(r0, r1, r2, r3) MIX(a, b, r0, e, f) MIX(c, d, r1, g, h) MIX(a, d, r2, e, h) MIX(c, b, r3, g, f)
#define FOUR_A TWO(10, 26, 11, 21) TWO(13, 27, 23, 5)
#define FOUR_B TWO(6, 20, 17, 11) TWO(25, 10, 18, 20)
#define KEY(x, y, z, w) a += x; e += x; b += y; f += y; c += z; g += z; d += w; h += w;
        FOUR_A KEY(k1, k2, k3, k4 + 1)
        FOUR_B KEY(k2, k3, k4, k0 + 2)
        FOUR_A KEY(k3, k4, k0, k1 + 3)
        FOUR_B KEY(k4, k0, k1, k2 + 4)
        FOUR_A KEY(k0, k1, k2, k3 + 5)
        u32 *one = out + 4 * i, *two = out + 4 * (i + HALF);
        one[0] = a; one[1] = b; one[2] = c; one[3] = d;
        two[0] = e; two[1] = f; two[2] = g; two[3] = h;
    }
}

INLINE float scaled(float x, float factor, float shift, int shifted) {
    return shifted ? (float)((double)x * (double)factor + (double)shift) : x * factor;
}

/* The normal quantile of the low 31 bits, m; the word's highest bit is its sign. */
INLINE void normal(float *restrict out, const u32 *restrict words, const part *p, const float *restrict table, int cut, int shifted) {
    enum { FIRST = (127 << 8) - 1 }; /* the exponent and eight bits of the smallest m with a row of its own */
    const float factor = p->factor, shift = p->shift;
    const u32 lowest = p->lowest, span = 0x80000000u - lowest;
    u32 row[VALUES] ALIGNED;
    i32 rest[VALUES] ALIGNED;
    float line[2 * VALUES] ALIGNED;
    for (int i = 0; i < VALUES; i++) {
        u32 m = cut ? lowest + (u32)(((u64)(words[i] << 1) * span) >> 32) : words[i] & 0x7FFFFFFFu;
        i32 bits = (i32)as_bits((float)(i32)m), at = bits >> 15;
        row[i] = (u32)(at < FIRST ? FIRST : at);
        rest[i] = bits & 0x7FF8; /* eight times the place within the row; B in the table is an eighth */
    }
    for (int i = 0; i < VALUES; i += 2) {
        u32 one = row[i], two = row[i + 1];
        HIDE(one); HIDE(two);
        memcpy(line + 2 * i, table + 2 * ((i64)one - FIRST), 8);
        memcpy(line + 2 * i + 2, table + 2 * ((i64)two - FIRST), 8);
    }
    for (int i = 0; i < VALUES; i++) {
        float z = line[2 * i] + line[2 * i + 1] * (float)rest[i];
        out[i] = scaled(as_float(as_bits(z) ^ (words[i] & 0x80000000u)), factor, shift, shifted);
    }
}

INLINE void values_of(float *restrict out, const u32 *restrict words, const part *p, const float *restrict table, int shifted) {
    if (p->kind == UNIFORM) {
        const float factor = p->factor, shift = p->shift, low = p->low, last = p->last;
        for (int i = 0; i < VALUES; i++) {
            /* 2 (word >> 8) + 1 - 2^24, an odd number of at most 24 bits */
            i32 odd = (((i32)words[i] >> 7) ^ (i32)0xFF000000) | 1;
            float x = scaled((float)odd * 0x1p-24f, factor, shift, shifted);
            x = x <= low ? low : x;
            out[i] = x >= last ? last : x;
        }
    } else if (p->kind == NORMAL) {
        normal(out, words, p, table, 0, shifted);
    } else if (p->kind == TRUNCATED) {
        normal(out, words, p, table, 1, shifted);
    } else if (p->kind == WORDS) {
        memcpy(out, words, sizeof(u32) * VALUES);
    } else {
        for (int i = 0; i < VALUES; i++) out[i] = p->factor;
    }
}

INLINE void values(float *restrict out, const u32 *restrict words, const part *p, const float *restrict table) {
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

/* Values of 32 blocks, from words of one draw or, for a mixture, of two. */
INLINE void group(const job *j, const u32 *low, const u32 *high, float *restrict out) {
    u32 words[VALUES] ALIGNED;
    const part *p = j->part;
    if (!j->mixture) {
        threefry(words, low, high, p->kind == WORDS ? p->lowest : 0, j->key);
        values(out, words, p, j->table);
        return;
    }
    u32 choice[VALUES] ALIGNED;
    float some[VALUES] ALIGNED;
    threefry(choice, low, high, 0, j->key);
    threefry(words, low, high, 1, j->key);
    values(out, words, p + j->parts - 1, j->table);
    for (int n = j->parts - 2; n >= 0; n--) {
        values(some, words, p + n, j->table);
        const u64 below = p[n].below;
        if (below > 0xFFFFFFFFu) { memcpy(out, some, sizeof some); continue; }
        const u32 bound = (u32)below;
        for (int i = 0; i < VALUES; i++) out[i] = choice[i] < bound ? some[i] : out[i];
    }
}

INLINE void batch(const job *j, const u32 *low, const u32 *high, float *restrict out, int blocks) {
    for (int g = 0; g < blocks; g += GROUP) group(j, low + g, high + g, out + 4 * g);
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

/* What is built once for each instruction set, and chosen by name. */
typedef struct {
    const char *name;
    void (*batch)(const job *j, const u32 *low, const u32 *high, float *restrict out, int blocks);
    void (*store)(char *restrict to, i64 stride, const float *restrict x, i64 n, int type);
} instructions;

#define BUILD(NAME, TARGET) \
    TARGET static void batch_##NAME(const job *j, const u32 *low, const u32 *high, float *restrict out, int blocks) { \
        batch(j, low, high, out, blocks); \
    } \
    TARGET static void store_##NAME(char *restrict to, i64 stride, const float *restrict x, i64 n, int type) { \
        store(to, stride, x, n, type); \
    }
BUILD(baseline, )
#if defined(__x86_64__)
BUILD(avx2, __attribute__((target("avx2"))))
BUILD(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif

/* Those this processor has, the fastest first. */
static instructions sets[4];

static void find_sets(void) {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) sets[n++] = (instructions){"avx512", batch_avx512, store_avx512};
    if (__builtin_cpu_supports("avx2")) sets[n++] = (instructions){"avx2", batch_avx2, store_avx2};
#endif
    sets[n] = (instructions){"baseline", batch_baseline, store_baseline};
}

static const instructions *set_of(const char *name) {
    for (int i = 0; sets[i].name; i++) if (!strcmp(sets[i].name, name)) return sets + i;
    return NULL;
}

/* Where the values of a piece of a run lie in a batch, and where they go. */
typedef struct { char *to; i32 at, n; } piece;

typedef struct {
    u32 low[BLOCKS], high[BLOCKS];
    piece piece[BLOCKS];
    int blocks, pieces;
} pending;

static i64 item_of(int type) { return type == F32 ? 4 : type == F64 ? 8 : 2; }

/* Values of all that is pending; at least `blocks` of them are made. */
static void make(const instructions *set, const job *j, pending *w, float *out) {
    for (int i = w->blocks; i % GROUP; i++) w->low[i] = w->high[i] = 0;
    set->batch(j, w->low, w->high, out, w->blocks);
}

static void flush(const instructions *set, const job *j, pending *w, i64 stride) {
    float x[BATCH] ALIGNED;
    if (w->pieces == 1 && w->piece[0].n == BATCH && j->type == F32 && stride == 4) {
        make(set, j, w, (float *)(void *)w->piece[0].to); /* straight into memory */
    } else {
        make(set, j, w, x);
        for (int i = 0; i < w->pieces; i++) set->store(w->piece[i].to, stride, x + w->piece[i].at, w->piece[i].n, j->type);
    }
    w->blocks = w->pieces = 0;
}

/* Both halves of n counters. */
static void count_from(u32 *restrict low, u32 *restrict high, u64 first, u32 n) {
    const u32 from = (u32)first, top = (u32)(first >> 32), left = 0u - from; /* so many before the lower half wraps */
    for (u32 i = 0; i < n; i++) low[i] = from + i;
    for (u32 i = 0; i < n; i++) high[i] = top;
    if (from && left < n) for (u32 i = left; i < n; i++) high[i]++;
}

static void take(const instructions *set, const job *j, pending *w, i64 first, i64 n, char *to, i64 stride) {
    while (n > 0) {
        if (w->blocks == BLOCKS) flush(set, j, w, stride);
        i64 block = first >> 2, skip = first & 3, need = (skip + n + 3) >> 2, room = BLOCKS - w->blocks;
        i64 taken = need < room ? need : room, count = 4 * taken - skip;
        count = count < n ? count : n;
        count_from(w->low + w->blocks, w->high + w->blocks, (u64)block, (u32)taken);
        w->piece[w->pieces++] = (piece){to, (i32)(4 * w->blocks + skip), (i32)count};
        w->blocks += (int)taken;
        first += count; to += count * stride; n -= count;
    }
}

typedef float four __attribute__((vector_size(16)));
#if defined(__clang__)
#define PICK(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d)
#else
#define PICK(x, y, a, b, c, d) __builtin_shuffle(x, y, (i32 __attribute__((vector_size(16)))){a, b, c, d})
#endif

/* A tile of up to 16 runs of n values, each `stride` bytes apart; the runs themselves lie side by side in `to`. */
static void flush_tile(const instructions *set, const job *j, pending *w, char *to, i64 n, i64 stride) {
    float x[BATCH + 4] ALIGNED, line[4][ROWS] ALIGNED;
    const int rows = w->pieces, whole = rows == ROWS && j->type == F32;
    make(set, j, w, x);
    for (int k = rows; k < ROWS; k++) w->piece[k].at = 0;
    for (i64 c = 0; c < n; c += 4) {
        for (int k = 0; k < ROWS; k += 4) {
            four p, q, r, s;
            memcpy(&p, x + w->piece[k].at + c, 16);
            memcpy(&q, x + w->piece[k + 1].at + c, 16);
            memcpy(&r, x + w->piece[k + 2].at + c, 16);
            memcpy(&s, x + w->piece[k + 3].at + c, 16);
            four a = PICK(p, q, 0, 4, 1, 5), b = PICK(r, s, 0, 4, 1, 5), d = PICK(p, q, 2, 6, 3, 7), e = PICK(r, s, 2, 6, 3, 7);
            p = PICK(a, b, 0, 1, 4, 5); q = PICK(a, b, 2, 3, 6, 7); r = PICK(d, e, 0, 1, 4, 5); s = PICK(d, e, 2, 3, 6, 7);
            memcpy(&line[0][k], &p, 16); memcpy(&line[1][k], &q, 16); memcpy(&line[2][k], &r, 16); memcpy(&line[3][k], &s, 16);
        }
        for (i64 l = 0; l < 4 && c + l < n; l++) {
            char *place = to + (c + l) * stride;
            if (whole) memcpy(place, line[l], sizeof line[l]);
            else set->store(place, item_of(j->type), line[l], rows, j->type);
        }
    }
    w->blocks = w->pieces = 0;
}

/* All of a job. The last axis is the run; `tall` is the axis, if any, along which the destination is
 * contiguous instead: then values are made in tiles of 16 runs, so that its lines are written whole. */
static void fill(const instructions *set, const job *j) {
    pending w;
    w.blocks = w.pieces = 0;
    const int last = j->axes - 1;
    const i64 item = item_of(j->type), stride = j->to[last], length = j->size[last];
    int tall = -1;
    if (stride != item && length > 1)
        for (int x = 0; x < last; x++) if (j->to[x] == item && j->size[x] > 1) tall = x;
    i64 at[AXES] = {0}, first = j->first;
    char *to = j->out;
    for (;;) {
        if (tall < 0) {
            take(set, j, &w, first, length, to, stride);
        } else {
            /* 60 where runs begin inside a block: 16 runs then still need no more than 256 blocks. */
            const i64 width = (first | j->from[tall]) & 3 ? 60 : 64, high = j->size[tall];
            for (i64 r = 0; r < high; r += ROWS)
                for (i64 c = 0; c < length; c += width) {
                    const i64 rows = high - r < ROWS ? high - r : ROWS, n = length - c < width ? length - c : width;
                    char *corner = to + r * item + c * stride;
                    for (i64 k = 0; k < rows; k++) take(set, j, &w, first + (r + k) * j->from[tall] + c, n, corner, stride);
                    flush_tile(set, j, &w, corner, n, stride);
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
    if (w.blocks) flush(set, j, &w, stride);
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
    j.table = (const float *)(uintptr_t)table;
    j.out = (char *)(uintptr_t)out;
    const instructions *chosen = set_of(name);
    if (!chosen) { PyErr_Format(PyExc_ValueError, "engine: no instruction set '%s' here", name); return NULL; }
    Py_BEGIN_ALLOW_THREADS
    fill(chosen, &j);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *engine_names(PyObject *self, PyObject *none) {
    (void)self; (void)none;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && sets[i].name; i++) {
        PyObject *name = PyUnicode_FromString(sets[i].name);
        if (!name || PyList_Append(list, name) < 0) { Py_XDECREF(name); Py_DECREF(list); return NULL; }
        Py_DECREF(name);
    }
    return list;
}

int engine_has(const char *name); /* for _sums.c, which has the other */
PyObject *engine_sum(PyObject *self, PyObject *arguments);
int engine_has(const char *name) { return set_of(name) != NULL; }

static PyMethodDef methods[] = {
    {"fill", engine_fill, METH_VARARGS, "Fill a region of memory with the values of an elementwise initializer."},
    {"sum", engine_sum, METH_VARARGS, "The sum of a region's elements, each mixed with its place."},
    {"names", engine_names, METH_NOARGS, "Instruction sets this processor has, the fastest first."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_engine", "The numbers, fast.", -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__engine(void) { find_sets(); return PyModule_Create(&module); }
