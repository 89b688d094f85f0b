/* Tiles of pairs, for int8.c, which includes this once for each way to multiply them.
 *
 *   PAIRS(name)          the name of a function or table of this way
 *   PAIRS_TARGET         what the compiler must know of it
 *   PAIRS_DOT(acc, x, y) adds to each 32-bit lane of acc the two products of 16-bit numbers that x and y hold there
 *
 * A tile is rows x (vectors * VW) of C. A's panel has, at each pair of depths, a word for each row; B's panel a word for each
 * column. A word is the whole number of the even depth (low half) and of the odd one (high half).
 *
 * A lane would overflow after 2^31 / 2^27 = 16 pairs. So after each 15 what is above 13 bits is carried into another word, and
 * the rest stays: 15 * 2^27 + 2^13 < 2^31. */

PAIRS_TARGET INLINE void PAIRS(body)(const int rows, const int vectors, int64_t pairs, const int32_t *a, const int32_t *b,
                                     double *to) {
    vi low[TILE_ROWS][TILE_VECTORS], high[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) low[i][v] = high[i][v] = vset_i(0);
    for (int64_t from = 0; from < pairs; from += PAIRS_UNTIL_CARRY) {
        int64_t count = least(pairs - from, PAIRS_UNTIL_CARRY);
        for (int64_t pair = 0; pair < count; pair++) {
            vi y[TILE_VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) y[v] = (vi)vload_u((const uint32_t *)b + v * VW);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                vi x = vset_i(a[i]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) low[i][v] = PAIRS_DOT(low[i][v], x, y[v]);
            }
            a += rows;
            b += vectors * VW;
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                high[i][v] += low[i][v] >> CARRIED_BITS;
                low[i][v] &= vset_i((1 << CARRIED_BITS) - 1);
            }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            vd n = __builtin_convertvector(high[i][v], vd) * (double)(1 << CARRIED_BITS) +
                   __builtin_convertvector(low[i][v], vd);
            memcpy(to + (i * TILE_VECTORS + v) * VW, &n, sizeof n);
        }
}

#define PAIRS_OF(rows, vectors)                                                                                        \
    PAIRS_TARGET static void PAIRS(rows##_##vectors)(int64_t depth, const void *a, const void *b, double *to) {        \
        PAIRS(body)(rows, vectors, (depth + 1) / 2, a, b, to);                                                         \
    }
EVERY_TILE(PAIRS_OF)

#define PAIRS_ENTRY(rows, vectors) [rows - 1][vectors - 1] = PAIRS(rows##_##vectors),
static const tile_of_whole PAIRS(tiles)[TILE_ROWS][TILE_VECTORS] = {EVERY_TILE(PAIRS_ENTRY)};

#undef PAIRS_ENTRY
#undef PAIRS_OF
#undef PAIRS_DOT
#undef PAIRS_TARGET
#undef PAIRS
