/* Integer matrix units, and copies into shared memory that run beside the work: what CUDA C has no words for, in PTX.
 *
 * A warp's 32 threads hold the operands together (PTX ISA, "Matrix fragments for mma.m16n8k32"). Of A, 16 lines by 32 k, thread
 * t has four words of four neighbours along k each:
 *
 *   word[0]  line t / 4,     k t % 4 * 4 …       word[2]  the same line, k + 16
 *   word[1]  line t / 4 + 8, the same k          word[3]  line t / 4 + 8, k + 16
 *
 * of B, 8 columns by 32 k, word[0] and word[2] of that, and of C, 16 rows by 8 columns, rows t / 4 and t / 4 + 8, columns
 * t % 4 * 2 and the next. No sum saturates: they wrap, and what is added here never does.
 *
 * Compute capability 7.5 has units of 8 x 8 x 16, four of which are one, and no such copies. tests/numerics/emulator.h stands in
 * for all of it on a CPU. */
#ifndef TOLSEY_CUDA_MATRIX_UNITS_H
#define TOLSEY_CUDA_MATRIX_UNITS_H

#include "lane.h"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define TOLSEY_AMPERE
#endif

struct alignas(16) words {
    uint32_t word[4];
};

#if defined(__CUDACC_RTC__)
INLINE void mma_16x8x32(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
INLINE void mma_8x8x16(int32_t &c0, int32_t &c1, uint32_t a, uint32_t b) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};" : "+r"(c0), "+r"(c1) : "r"(a), "r"(b));
}
INLINE void cp_async_16(void *shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(__cvta_generic_to_global(global))
                 : "memory");
}
INLINE void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS> INLINE void cp_async_wait_group() { asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory"); }
#endif

/* c += a · b over 32 k, of 16 rows and 8 columns. */
INLINE void multiply_add(int32_t (&c)[4], const words &a, uint32_t b0, uint32_t b1) {
#if defined(TOLSEY_AMPERE)
    mma_16x8x32(c, a.word, b0, b1);
#else
    mma_8x8x16(c[0], c[1], a.word[0], b0);
    mma_8x8x16(c[2], c[3], a.word[1], b0);
    mma_8x8x16(c[0], c[1], a.word[2], b1);
    mma_8x8x16(c[2], c[3], a.word[3], b1);
#endif
}

/* Copies of one thread, in groups: a group is there, for that thread, once it has waited until at most GROUPS later ones are
 * under way. */
INLINE void copy_behind(words *shared, const words *global) {
#if defined(TOLSEY_AMPERE)
    cp_async_16(shared, global);
#else
    *shared = *global;
    asm volatile("" ::: "memory"); /* one after the other: more would not fit into registers */
#endif
}
INLINE void end_group() {
#if defined(TOLSEY_AMPERE)
    cp_async_commit_group();
#endif
}
template <int GROUPS> INLINE void wait_until_under_way() {
#if defined(TOLSEY_AMPERE)
    cp_async_wait_group<GROUPS>();
#endif
}

#endif
