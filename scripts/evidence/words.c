/* Write words to the standard output: words LAYOUT PIECE FIRST [COUNT]; without a count, for ever. */
#include "words.h"

int main(int argc, char **argv) {
    static uint32_t out[1 << 14];
    if (argc < 4) {
        fprintf(stderr, "usage: words LAYOUT PIECE FIRST [COUNT]\n");
        return 2;
    }
    begin(argv[1], argv[2], strtoull(argv[3], NULL, 10));
    uint64_t left = argc > 4 ? strtoull(argv[4], NULL, 10) : UINT64_MAX;
    while (left) {
        size_t count = left < sizeof out / 4 ? (size_t)left : sizeof out / 4;
        for (size_t i = 0; i < count; i++)
            out[i] = next_word();
        if (fwrite(out, 4, count, stdout) != count)
            return 0; /* whoever reads has seen enough */
        left -= count;
    }
    return 0;
}
