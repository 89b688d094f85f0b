/* Matrix products in all layouts, batched, with a bias: the chain of docs/numerics/products.md, sections 1 and 2. */
#include "gemm.h"

/* A matrix for each number of the batch, and the steps from one of its numbers to others. */
struct matrices {
    float *first;
    int64_t batch_step, row_step, column_step;

    __device__ float *at(int64_t row, int64_t column) const { return first + row * row_step + column * column_step; }
    __device__ matrices of(int64_t p) const { return matrices{first + p * batch_step, batch_step, row_step, column_step}; }
};

/* As products.py names them; there may be no bias. */
struct product_of {
    int64_t batch, m, n, k;
    matrices a, b, bias, c;
};

struct product_out {
    matrices c, bias;
    bool with_bias, together; /* whether four numbers of a row from a multiple of four on may be stored at once */

    __device__ void put(int64_t row, int64_t column, four chain, int count) {
        if (with_bias) {
            UNROLL for (int e = 0; e < 4; e++)
                if (e < count) chain.number[e] = chain.number[e] + *bias.at(row, column + e);
        }
        if (together && count >= 4) {
            *(four *)c.at(row, column) = chain;
        } else {
            UNROLL for (int e = 0; e < 4; e++)
                if (e < count) *c.at(row, column + e) = chain.number[e];
        }
    }
};

/* blockIdx.z counts the batch. */
template <class Shape> INLINE void gemm(const product_of &it) {
    for (int64_t p = blockIdx.z; p < it.batch; p += gridDim.z) {
        const matrices a = it.a.of(p), b = it.b.of(p), c = it.c.of(p);
        const strided left = {a.first, a.row_step, a.column_step}, right = {b.first, b.column_step, b.row_step};
        const bool together = c.column_step == 1 && in_fours(c.first, c.row_step);
        product_out out = {c, it.bias.of(p), it.bias.first != 0, together};
        products<Shape>(left, right, out, it.m, it.n, it.k);
    }
}

/* With as many blocks on a multiprocessor at least. */
#define GEMM(name, blocks, ...)                                                                                        \
    KERNEL __launch_bounds__(THREADS, blocks) name(const product_of it) { gemm<shape<__VA_ARGS__>>(it); }
GEMM(gemm_128, 2, 4, 2, 2, 8)
GEMM(gemm_64, 4, 1, 2, 4, 16)
GEMM(gemm_32, 4, 1, 1, 2, 32)
