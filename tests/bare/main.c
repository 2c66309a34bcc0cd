/* Runs the C engine on jobs from standard input and compares all memory, and sums of what was filled, with what
 * the jobs say.
 *
 * Prints the instruction sets, then how many jobs gave the bits expected on each. Exit code 1 at the first
 * difference, 2 where the jobs are broken. Compiled together with the engine: -include
 * _engine.c, -include _sums.c.
 */

enum { GUARD = 0xA5 };

static u64 number(void) {
    u64 x;
    if (fread(&x, 8, 1, stdin) != 1) exit(2);
    return x;
}

static char *bytes(u64 size) {
    char *made = malloc(size ? size : 1);
    if (!made || fread(made, 1, size, stdin) != size) exit(2);
    return made;
}

static PyObject *call(const char *name) {
    for (PyMethodDef *m = bare_methods; m->ml_name; m++) if (!strcmp(m->ml_name, name)) return m->ml_meth(NULL, NULL);
    exit(2);
}

int main(int count, char **names) {
    PyInit__engine();
    call("names");
    const char *table = bytes(number());
    const u64 jobs = number();
    for (u64 n = 0; n < jobs; n++) {
        const u64 key = number(), parts = number(), axes = number();
        const char *structures[3] = {bytes(key), bytes(parts), bytes(axes)};
        const u64 mixture = number(), type = number(), first = number(), offset = number(), size = number();
        const u64 item = number(), place = number(), steps = number(), total = number();
        const char *walked = bytes(steps);
        char *expected = bytes(size), *memory = malloc(size);
        if (!memory) exit(2);
        for (int isa = 1; isa < count; isa++) {
            memset(memory, GUARD, size);
            bare_arguments[0].bytes = names[isa];
            const u64 sizes[3] = {key, parts, axes}, places[3] = {1, 2, 6};
            for (int i = 0; i < 3; i++) {
                bare_arguments[places[i]].bytes = structures[i];
                bare_arguments[places[i]].size = (Py_ssize_t)sizes[i];
            }
            bare_arguments[3].number = mixture; bare_arguments[4].number = type; bare_arguments[5].number = first;
            bare_arguments[7].number = (uintptr_t)table; bare_arguments[8].number = (uintptr_t)(memory + offset);
            if (!call("fill") || memcmp(memory, expected, size)) {
                printf("%s differs in job %llu\n", names[isa], (unsigned long long)n);
                return 1;
            }
            bare_arguments[1].number = item; bare_arguments[2].number = place;
            bare_arguments[3].bytes = walked; bare_arguments[3].size = (Py_ssize_t)steps;
            bare_arguments[4].number = (uintptr_t)(memory + offset);
            const PyObject *found = call("sum");
            if (!found || found->number != total) {
                printf("%s sums up otherwise in job %llu\n", names[isa], (unsigned long long)n);
                return 1;
            }
        }
        for (int i = 0; i < 3; i++) free((void *)(uintptr_t)structures[i]);
        free(expected); free(memory); free((void *)(uintptr_t)walked);
    }
    printf("%llu jobs give the bits expected\n", (unsigned long long)jobs);
    return 0;
}
