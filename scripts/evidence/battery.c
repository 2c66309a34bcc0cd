/* Run a battery of TestU01 over a layout's words: battery BATTERY LAYOUT PIECE [FIRST TEST [LAST TEST]].
 *
 * Tests run one at a time on one stream that goes on, as in the battery itself; each statistic is a line of
 * the test's number, the p-value and the name, written at once. What TestU01 prints goes to the standard error.
 */
#include "words.h"
#include <unistd.h>
#if __has_include(<testu01/bbattery.h>) /* as Debian installs it */
#include <testu01/bbattery.h>
#include <testu01/swrite.h>
#include <testu01/unif01.h>
#else
#include <bbattery.h>
#include <swrite.h>
#include <unif01.h>
#endif

static unsigned int bits(void) { return next_word(); }

int main(int argc, char **argv) {
    static int rep[200];
    if (argc < 4) {
        fprintf(stderr, "usage: battery smallcrush|crush|bigcrush LAYOUT PIECE [FIRST TEST [LAST TEST]]\n");
        return 2;
    }
    int crush = !strcmp(argv[1], "crush"), big = !strcmp(argv[1], "bigcrush");
    int tests = big ? 106 : crush ? 96 : 10;
    int first = argc > 4 ? atoi(argv[4]) : 1, last = argc > 5 ? atoi(argv[5]) : tests;
    FILE *results = fdopen(dup(1), "w");
    dup2(2, 1);
    begin(argv[2], argv[3], 0);
    unif01_Gen *gen = unif01_CreateExternGenBits("words", bits);
    swrite_Basic = FALSE;
    for (int test = first; test <= last && test <= tests; test++) {
        memset(rep, 0, sizeof rep);
        rep[test] = 1;
        if (big)
            bbattery_RepeatBigCrush(gen, rep);
        else if (crush)
            bbattery_RepeatCrush(gen, rep);
        else
            bbattery_RepeatSmallCrush(gen, rep);
        for (int i = 0; i < bbattery_NTests; i++)
            fprintf(results, "%d\t%.17g\t%s\n", test, bbattery_pVal[i], bbattery_TestNames[i]);
        fflush(results);
    }
    unif01_DeleteExternGenBits(gen);
    return 0;
}
