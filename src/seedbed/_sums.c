/* The sum of a region's elements, fast: the same number as seedbed/digest.py, which defines it.
 *
 * Part of the extension of _engine.c, and built like it: plain C that a compiler vectorizes, once for
 * each instruction set. All numbers are whole and wrap.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t u64;
typedef int64_t i64;

enum { DEEPEST = 32 }; /* axes */

/* An axis of a region, and what one step along it adds to the place in the whole and to the address. */
typedef struct { i64 size; u64 place; i64 bytes; } axis;

#define INLINE static inline __attribute__((always_inline))

INLINE u64 mix(u64 x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Along one axis. Elements of any alignment; steps known to the compiler are its chance to load many at once. */
INLINE u64 run(const char *from, const axis *along, u64 place, int item) {
    const i64 n = along->size, bytes = along->bytes;
    const u64 step = along->place;
    u64 total = 0;
#define ALONG(T, PLACE, BYTES) \
    for (i64 i = 0; i < n; i++) { T x; memcpy(&x, from + i * (BYTES), sizeof x); total += mix(mix(place + (u64)i * (PLACE)) ^ x); }
#define WIDE(T) \
    if (bytes != (i64)sizeof(T)) { ALONG(T, step, bytes) } \
    else if (step != 1) { ALONG(T, step, (i64)sizeof(T)) } \
    else { ALONG(T, 1, (i64)sizeof(T)) }
    if (item == 1) { WIDE(uint8_t) }
    else if (item == 2) { WIDE(uint16_t) }
    else if (item == 4) { WIDE(uint32_t) }
    else { WIDE(uint64_t) }
    return total;
}

typedef u64 runner(const char *from, const axis *along, u64 place, int item);

#define RUNNER(NAME, TARGET) \
    TARGET static u64 run_##NAME(const char *from, const axis *along, u64 place, int item) { return run(from, along, place, item); }
RUNNER(baseline, )
#if defined(__x86_64__)
RUNNER(avx2, __attribute__((target("avx2"))))
RUNNER(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif

/* Over all axes, the last of which is the run. */
static u64 sum(runner *along, const char *from, const axis *axes, int count, u64 place, int item) {
    if (count == 1) return along(from, axes, place, item);
    u64 total = 0;
    for (i64 i = 0; i < axes->size; i++)
        total += sum(along, from + i * axes->bytes, axes + 1, count - 1, place + (u64)i * axes->place, item);
    return total;
}

int engine_has(const char *name);                           /* in _engine.c */
PyObject *engine_sum(PyObject *self, PyObject *arguments);  /* its table of functions has it */

/* sum(name, item, place, axes, from): `place` is the corner's, with the key; `from` is its address. */
PyObject *engine_sum(PyObject *self, PyObject *arguments) {
    const char *name, *packed;
    Py_ssize_t bytes;
    unsigned long long place, from;
    int item;
    axis axes[DEEPEST];
    (void)self;
    if (!PyArg_ParseTuple(arguments, "siKy#K", &name, &item, &place, &packed, &bytes, &from)) return NULL;
    const Py_ssize_t count = bytes / (Py_ssize_t)sizeof(axis);
    if (count < 1 || count > DEEPEST || bytes % (Py_ssize_t)sizeof(axis) || (item != 1 && item != 2 && item != 4 && item != 8) || !from) {
        PyErr_SetString(PyExc_ValueError, "engine: a structure of the wrong size");
        return NULL;
    }
    if (!engine_has(name)) { PyErr_Format(PyExc_ValueError, "engine: no instruction set '%s' here", name); return NULL; }
    memcpy(axes, packed, (size_t)bytes);
    runner *along = run_baseline;
#if defined(__x86_64__)
    if (!strcmp(name, "avx2")) along = run_avx2;
    if (!strcmp(name, "avx512")) along = run_avx512;
#endif
    u64 total;
    Py_BEGIN_ALLOW_THREADS
    total = sum(along, (const char *)(uintptr_t)from, axes, (int)count, place, item);
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(total);
}
