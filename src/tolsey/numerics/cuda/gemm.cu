/* Matrix products in all layouts, batched, with a bias: the chain of docs/numerics/products.md, sections 1 and 2. */
#include "gemm.h"

struct product_out {
    float *c;
    int64_t row_step, column_step;
    const float *bias;
    int64_t bias_row, bias_column;

    __device__ void put(int64_t row, int64_t column, float chain) {
        c[row * row_step + column * column_step] = bias ? chain + bias[row * bias_row + column * bias_column] : chain;
    }
};

/* Parameters as products.py names them; blockIdx.z counts the batch. */
#define GEMM(name, R)                                                                                                  \
    KERNEL __launch_bounds__(THREADS, 2) name(                                                                         \
        int64_t batch, int64_t m, int64_t n, int64_t k, const float *a, int64_t a_batch, int64_t a_row,                \
        int64_t a_column, const float *b, int64_t b_batch, int64_t b_row, int64_t b_column, const float *bias,         \
        int64_t bias_batch, int64_t bias_row, int64_t bias_column, float *c, int64_t c_batch, int64_t c_row,           \
        int64_t c_column) {                                                                                            \
        for (int64_t p = blockIdx.z; p < batch; p += gridDim.z) {                                                      \
            const strided left = {a + p * a_batch, a_row, a_column}, right = {b + p * b_batch, b_column, b_row};       \
            product_out out = {c + p * c_batch,                                                                        \
                               c_row,                                                                                  \
                               c_column,                                                                               \
                               bias ? bias + p * bias_batch : bias,                                                    \
                               bias_row,                                                                               \
                               bias_column};                                                                           \
            products<R>(left, right, out, m, n, k);                                                                    \
        }                                                                                                              \
    }
GEMM(gemm_64, 1)
GEMM(gemm_128, 2)
