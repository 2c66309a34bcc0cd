/* Words of seedbed's numbers in the order of a layout, and of two generators that are known to be bad.
 *
 * Written from docs/determinism.md alone, and apart from the library's own engine: `batteries.py` compares it word for
 * word with the NumPy reference before it runs anything. ROUNDS may be set below 20 to see where Threefry begins to fail.
 *
 * A layout says which words are neighbors in the stream:
 *
 *   one      one parameter, its elements in order
 *   column   one parameter, every 4,096th element: down a column of a matrix
 *   seeds    1,024 neighboring seeds, word by word: element 0 of seed 0, of seed 1, ..., then element 1
 *   paths    1,024 neighboring paths (layers.0.weight, layers.1.weight, ...), word by word
 *   draws    1,024 draws of one parameter, word by word
 *   place    element 5 of layers.0.weight, of layers.1.weight, ...: every word under a key of its own
 *   starts   element 5 of layers.0.weight under seed 0, 1, 2, ...: every word under a key of its own
 *   lcg      a bad one: x = 1664525 * x + 1013904223 modulo 2^32
 *
 * and pieces say which bits of each word are used, as a stream of bits cut in 32s:
 *
 *   word     all 32, as they are
 *   reverse  all 32, the lowest first: batteries look at the highest bits most
 *   top24    the upper 24, which a uniform value uses
 *   low31    the lower 31, which the size of a normal value uses
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ROUNDS
#define ROUNDS 20
#endif

enum { LANES = 1024, STREAMS = 1024, PLACE = 5, STRIDE = 4096 };
enum layout { ONE, COLUMN, SEEDS, PATHS, DRAWS, PLACES, STARTS, LCG, LAYOUTS };
enum piece { WORD, REVERSE, TOP24, LOW31, PIECES };
static const char *const layout_names[] = {"one", "column", "seeds", "paths", "draws", "place", "starts", "lcg"};
static const char *const piece_names[] = {"word", "reverse", "top24", "low31"};

static enum layout layout;
static enum piece piece;
static uint64_t turn; /* of blocks for the first layouts, of words for column, place and starts */
static uint32_t key[4][LANES], low[LANES], high[LANES], draw[LANES];
static uint32_t lanes[4][LANES], buffer[4 * LANES];
static unsigned used, made;

/* BLAKE2b of at most 128 bytes, 16 bytes of digest: RFC 7693. */

static const uint64_t blake_start[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
static const uint8_t blake_order[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

#define TURN64(x, n) (((x) >> (n)) | ((x) << (64 - (n))))
#define MIX(a, b, c, d, x, y)                                                                                          \
    a += b + (x), d = TURN64(d ^ a, 32), c += d, b = TURN64(b ^ c, 24), a += b + (y), d = TURN64(d ^ a, 16), c += d,  \
        b = TURN64(b ^ c, 63)

static void blake2b(const uint8_t *data, size_t size, uint32_t digest[4]) {
    uint64_t m[16] = {0}, h[8], v[16];
    memcpy(m, data, size); /* least significant byte first, as the processors that this is for have it */
    memcpy(h, blake_start, sizeof h);
    h[0] ^= 0x01010000 ^ 16;
    memcpy(v, h, sizeof h);
    memcpy(v + 8, blake_start, sizeof blake_start);
    v[12] ^= size;
    v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = blake_order[round % 10];
        MIX(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
        MIX(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
        MIX(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
        MIX(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
        MIX(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
        MIX(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
        MIX(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
        MIX(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 2; i++) {
        uint64_t word = h[i] ^ v[i] ^ v[i + 8];
        digest[2 * i] = (uint32_t)word;
        digest[2 * i + 1] = (uint32_t)(word >> 32);
    }
}

/* The key of layers.<number>.weight under a seed, into one lane. */
static void set_key(int lane, uint64_t seed, uint64_t number) {
    char digits[24];
    uint8_t data[128], *at = data;
    uint32_t digest[4];
    const char *parts[] = {"layers", digits, "weight"};
    uint64_t count = 3;
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    memcpy(at, &seed, 8), memcpy(at + 8, &count, 8), at += 16;
    for (int i = 0; i < 3; i++) {
        uint64_t size = strlen(parts[i]);
        memcpy(at, &size, 8), memcpy(at + 8, parts[i], size), at += 8 + size;
    }
    blake2b(data, (size_t)(at - data), digest);
    for (int i = 0; i < 4; i++)
        key[i][lane] = digest[i];
}

#define TURN32(x, n) (((x) << (n)) | ((x) >> (32 - (n))))
#define ROUND(r, left, right)                                                                                          \
    if ((r) < ROUNDS) {                                                                                                \
        if ((r) % 2)                                                                                                   \
            a += d, d = TURN32(d, left) ^ a, c += b, b = TURN32(b, right) ^ c;                                         \
        else                                                                                                           \
            a += b, b = TURN32(b, left) ^ a, c += d, d = TURN32(d, right) ^ c;                                         \
        if ((r) % 4 == 3)                                                                                              \
            a += k[((r) / 4 + 1) % 5], b += k[((r) / 4 + 2) % 5], c += k[((r) / 4 + 3) % 5],                           \
                d += k[((r) / 4 + 4) % 5] + (r) / 4 + 1;                                                               \
    }
#define EIGHT(r)                                                                                                       \
    ROUND(r, 10, 26) ROUND(r + 1, 11, 21) ROUND(r + 2, 13, 27) ROUND(r + 3, 23, 5)                                     \
    ROUND(r + 4, 6, 20) ROUND(r + 5, 17, 11) ROUND(r + 6, 25, 10) ROUND(r + 7, 18, 20)

static void threefry(void) {
    for (int i = 0; i < LANES; i++) {
        uint32_t k[5] = {key[0][i], key[1][i], key[2][i], key[3][i], 0};
        k[4] = 0x1BD11BDA ^ k[0] ^ k[1] ^ k[2] ^ k[3];
        uint32_t a = low[i] + k[0], b = high[i] + k[1], c = draw[i] + k[2], d = k[3];
        EIGHT(0) EIGHT(8) EIGHT(16)
        lanes[0][i] = a, lanes[1][i] = b, lanes[2][i] = c, lanes[3][i] = d;
    }
}

static void refill(void) {
    uint64_t n = turn;
    if (layout == LCG) {
        uint32_t x = made ? buffer[4 * LANES - 1] : 0;
        for (int i = 0; i < 4 * LANES; i++)
            buffer[i] = x = 1664525 * x + 1013904223;
        made = 4 * LANES;
        return;
    }
    for (int i = 0; i < LANES; i++) {
        uint64_t block = layout == ONE      ? n + (uint64_t)i
                         : layout == COLUMN ? (n + (uint64_t)i) * (STRIDE / 4)
                         : layout < PLACES  ? n
                                            : PLACE / 4;
        low[i] = (uint32_t)block, high[i] = (uint32_t)(block >> 32);
        if (layout >= PLACES)
            set_key(i, layout == STARTS ? n + (uint64_t)i : 0, layout == PLACES ? n + (uint64_t)i : 0);
    }
    threefry();
    turn += layout == SEEDS || layout == PATHS || layout == DRAWS ? 1 : LANES;
    if (layout == COLUMN || layout >= PLACES) {
        made = LANES;
        memcpy(buffer, lanes[layout == COLUMN ? 0 : PLACE % 4], sizeof lanes[0]);
    } else {
        made = 4 * LANES;
        for (int i = 0; i < LANES; i++)
            for (int j = 0; j < 4; j++)
                buffer[layout == ONE ? 4 * i + j : j * LANES + i] = lanes[j][i];
    }
}

/* Begin: the layout and the pieces by name, and the first turn. */
static void begin(const char *layout_name, const char *piece_name, uint64_t first) {
    int found = 0;
    for (int i = 0; i < LAYOUTS; i++)
        if (!strcmp(layout_name, layout_names[i]))
            layout = (enum layout)i, found++;
    for (int i = 0; i < PIECES; i++)
        if (!strcmp(piece_name, piece_names[i]))
            piece = (enum piece)i, found++;
    if (found != 2) {
        fprintf(stderr, "unknown layout or piece: %s %s\n", layout_name, piece_name);
        exit(2);
    }
    turn = first;
    for (int i = 0; i < LANES; i++) {
        set_key(i, layout == SEEDS ? (uint64_t)i : 0, layout == PATHS ? (uint64_t)i : 0);
        draw[i] = layout == DRAWS ? (uint32_t)i : 0;
    }
}

static inline uint32_t whole_word(void) {
    if (used == made)
        refill(), used = 0;
    return buffer[used++];
}

static inline uint32_t next_word(void) {
    static uint64_t bits;
    static int count;
    uint32_t w;
    int size = piece == TOP24 ? 24 : 31;
    if (piece == WORD)
        return whole_word();
    if (piece == REVERSE) {
        w = whole_word();
        w = (w >> 1 & 0x55555555) | (w & 0x55555555) << 1;
        w = (w >> 2 & 0x33333333) | (w & 0x33333333) << 2;
        w = (w >> 4 & 0x0F0F0F0F) | (w & 0x0F0F0F0F) << 4;
        return __builtin_bswap32(w);
    }
    while (count < 32) {
        w = whole_word();
        bits = bits << size | (piece == TOP24 ? w >> 8 : w & 0x7FFFFFFF);
        count += size;
    }
    count -= 32;
    return (uint32_t)(bits >> count);
}
