/* As much of Python as the C engine asks for, so that it can be compiled for machines without Python. */
#ifndef BARE_PYTHON_H
#define BARE_PYTHON_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef ptrdiff_t Py_ssize_t;
typedef struct { const char *text; unsigned long long number; } PyObject;
typedef PyObject *(*PyCFunction)(PyObject *, PyObject *);
typedef struct { const char *ml_name; PyCFunction ml_meth; int ml_flags; const char *ml_doc; } PyMethodDef;
typedef struct PyModuleDef {
    int head;
    const char *m_name, *m_doc;
    Py_ssize_t m_size;
    PyMethodDef *m_methods;
    void *m_slots, *m_traverse, *m_clear, *m_free;
} PyModuleDef;
enum { METH_VARARGS = 1, METH_NOARGS = 4, PyModuleDef_HEAD_INIT = 0 };
#define PyMODINIT_FUNC PyObject *
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
#define Py_RETURN_NONE return &bare_none
#define Py_DECREF(x) ((void)(x))
#define Py_XDECREF(x) ((void)(x))

static PyObject bare_none = {"None", 0}, bare_value_error = {"ValueError", 0}, bare_list = {"list", 0}, bare_number = {"int", 0};
static PyObject *const PyExc_ValueError = &bare_value_error;
static PyMethodDef *bare_methods;

/* The arguments of the next call, in the order of its format. */
static struct { const char *bytes; Py_ssize_t size; unsigned long long number; } bare_arguments[16];

static inline int PyArg_ParseTuple(PyObject *args, const char *format, ...) {
    va_list to;
    (void)args;
    va_start(to, format);
    for (int i = 0; *format && *format != ':'; format++) {
        switch (*format) {
        case 's': *va_arg(to, const char **) = bare_arguments[i++].bytes; break;
        case 'y':
            *va_arg(to, const char **) = bare_arguments[i].bytes;
            if (format[1] == '#') { *va_arg(to, Py_ssize_t *) = bare_arguments[i].size; format++; }
            i++;
            break;
        case 'p': case 'i': *va_arg(to, int *) = (int)bare_arguments[i++].number; break;
        case 'L': *va_arg(to, long long *) = (long long)bare_arguments[i++].number; break;
        case 'K': *va_arg(to, unsigned long long *) = bare_arguments[i++].number; break;
        default: fprintf(stderr, "no argument of kind %c here\n", *format); exit(2);
        }
    }
    va_end(to);
    return 1;
}

static inline void PyErr_SetString(PyObject *kind, const char *text) { fprintf(stderr, "%s: %s\n", kind->text, text); }
static inline PyObject *PyErr_Format(PyObject *kind, const char *format, ...) {
    PyErr_SetString(kind, format);
    return NULL;
}
static inline PyObject *PyLong_FromUnsignedLongLong(unsigned long long number) { bare_number.number = number; return &bare_number; }
static inline PyObject *PyUnicode_FromString(const char *text) {
    PyObject *made = malloc(sizeof *made);
    if (made) made->text = text;
    return made;
}
static inline PyObject *PyList_New(Py_ssize_t size) { (void)size; return &bare_list; }
static inline int PyList_Append(PyObject *list, PyObject *item) { (void)list; return puts(item->text) < 0 ? -1 : 0; }
static inline PyObject *PyModule_Create(PyModuleDef *module) { bare_methods = module->m_methods; return &bare_none; }
#endif
