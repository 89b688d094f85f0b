/* Philox4x32-10 many blocks at a time: the words and masks of docs/numerics/functions.md, section 7, and of
 * protocol/philox.py, which defines them one block at a time. */
#include "base.h"

enum { ROUNDS = 10, WORDS_A_BLOCK = 4, WORDS_A_VECTOR = WORDS_A_BLOCK * VW, WORDS_AT_ONCE = 1 << 14, DOMAIN_MASK = 2 };

struct draw {
    uint64_t seed, first_index;
    uint32_t domain, stream, threshold;
    void *out;
};

/* Words of the VW blocks from `index` on, block by block. */
INLINE void vector_of_words(const struct draw *it, uint64_t index, uint32_t words[WORDS_A_VECTOR]) {
    vu c0 = (vu)vcount() + (uint32_t)index, c1 = vset_u((uint32_t)(index >> 32));
    c1 += (vu)(c0 < vset_u((uint32_t)index)) & 1;
    vu c2 = vset_u(it->stream), c3 = vset_u(it->domain);
    uint32_t k0 = (uint32_t)it->seed, k1 = (uint32_t)(it->seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        const vu m0 = vset_u(0xD2511F53u), m1 = vset_u(0xCD9E8D57u);
        vu high0 = vmulhi_u(m0, c0), low0 = m0 * c0, high1 = vmulhi_u(m1, c2), low1 = m1 * c2;
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int l = 0; l < VW; l++) {
        words[4 * l] = c0[l];
        words[4 * l + 1] = c1[l];
        words[4 * l + 2] = c2[l];
        words[4 * l + 3] = c3[l];
    }
}

/* A task that writes out[j] from `word` for each word j; pieces begin at whole blocks. */
#define WORDS_TASK(name, type, expression)                                                                             \
    static int name##_places(void *ctx, int64_t begin, int64_t end) {                                                  \
        const struct draw *it = (const struct draw *)ctx;                                                              \
        type *out = (type *)it->out;                                                                                   \
        uint32_t words[WORDS_A_VECTOR];                                                                                \
        FOR_STRIDES(at, WORDS_A_VECTOR, begin, end) {                                                                  \
            vector_of_words(it, it->first_index + (uint64_t)at / WORDS_A_BLOCK, words);                                \
            int64_t count = least(WORDS_A_VECTOR, end - at);                                                           \
            for (int64_t j = 0; j < count; j++) {                                                                      \
                const uint32_t word = words[j];                                                                        \
                out[at + j] = (expression);                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        return 0;                                                                                                      \
    }
WORDS_TASK(words, uint32_t, word)
WORDS_TASK(mask_f32, float, word >> 8 < it->threshold ? 1.0f : 0.0f)
WORDS_TASK(mask_u8, uint8_t, word >> 8 < it->threshold)

TASK_KERNEL(philox_words, (uint64_t seed, uint32_t domain, uint32_t stream, uint64_t first_index, uint32_t *out, int64_t n),
            n, WORDS_AT_ONCE, words_places, struct draw,
            {.seed = seed, .first_index = first_index, .domain = domain, .stream = stream, .out = out})

/* n where a mask of so many elements can be drawn, else -1. */
INLINE int64_t mask_length(int64_t n, uint32_t threshold) {
    return n > (int64_t)WORDS_A_BLOCK << 32 || threshold > 1u << 24 ? -1 : n;
}

/* `position` is step * micro-batches + micro-batch, the upper half of the counter's index. */
#define MASK_KERNEL(name, type, task)                                                                                  \
    TASK_KERNEL(name, (uint64_t seed, uint32_t stream, uint32_t position, uint32_t threshold, type *out, int64_t n),   \
                mask_length(n, threshold), WORDS_AT_ONCE, task, struct draw,                                           \
                {.seed = seed, .first_index = (uint64_t)position << 32, .domain = DOMAIN_MASK, .stream = stream,       \
                 .threshold = threshold, .out = out})
MASK_KERNEL(keep_mask, float, mask_f32_places)
MASK_KERNEL(keep_mask_u8, uint8_t, mask_u8_places)
