/* The one product: C[i,j] = chain over k of fma(A[i,k], B[k,j], acc) from +0, k ascending, then + bias[i,j] once.
 *
 * Matrix products and convolutions differ only in where A and B come from and where C goes, so those three are handed
 * over as values: two `side`s, which copy a piece of themselves into a packed panel, and a `target`, which says where
 * columns lie. gemm.c has the strided ones, conv.c the ones that look at an image through a window. */
#ifndef TOLSEY_GEMM_H
#define TOLSEY_GEMM_H

#include "base.h"

/* A or B. Lanes are rows of A or columns of B: what lies side by side in a vector or a tile. Depth is k.
 *
 * pack writes element (lane0 + l, k0 + k) to to[k * step + l] for l < lanes and k < depth, and +0 for lanes <= l < step.
 * rows, for an A that has its depth side by side (else NULL), writes it to to[l * step + k]: quicker, for nothing is turned.
 * lie, for a B that can be read where it lies (else NULL), says where element (lane0 + v * VW, 0) is, for v < vectors. The rest
 * of a vector of lanes is side by side with it, and k is depths[k] further on. It takes the place of pack where C has so few
 * rows that `tolsey_reads_in_place`; `lying` is what it hangs on, as `more` is pack's. */
struct side {
    void (*pack)(const struct side *it, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to, int64_t step);
    void (*rows)(const struct side *it, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to, int64_t step);
    const float *data;
    int64_t lane_step, depth_step;
    const void *more;
    void (*lie)(const struct side *it, int64_t lane0, int64_t vectors, const float **to);
    const int64_t *depths;
    const void *lying;
};

/* C. Element (i, j) lies at data[i * row_step + place of j]; places writes those of columns j0 … j0 + count - 1. The bias
 * of (i, j), where there is one, at bias[i * bias_row_step + j * bias_column_step]. */
struct target {
    float *data;
    int64_t row_step, column_step;
    void (*places)(const struct target *it, int64_t j0, int64_t count, int64_t *place);
    const float *bias;
    int64_t bias_row_step, bias_column_step;
    const void *more;
};

/* A matrix of any steps; `more` is not used. */
struct side tolsey_strided(const float *data, int64_t lane_step, int64_t depth_step);
/* Packs what has its depth side by side, into a part of a panel: `wide` lanes of each step, +0 beyond `lanes`. */
void tolsey_pack_depth(const float *from, int64_t lane_step, int64_t lanes, int64_t depth, float *to, int64_t step,
                       int64_t wide);
/* Copies `depth` floats of each of so many rows. */
void tolsey_copy_rows(const float *from, int64_t from_step, int64_t rows, int64_t depth, float *to, int64_t to_step);
void tolsey_places_strided(const struct target *it, int64_t j0, int64_t count, int64_t *place);

/* Whether a product of m rows and n columns packs B anew for each few rows, so that it had better not be packed. */
int tolsey_reads_in_place(int64_t m, int64_t n);
/* How many threads so many multiplications are worth. */
int tolsey_threads_worth(double multiplications);
/* How many of so many short pieces a thread takes at a time. */
int64_t tolsey_grain(int64_t pieces, int64_t threads);
/* C of m rows and n columns over depth k. Threads share out C. TOLSEY_OK or TOLSEY_NO_MEMORY. */
int tolsey_product(int64_t m, int64_t n, int64_t k, const struct side *a, const struct side *b, const struct target *c);

/* What else multiplies sides into a target, by another law (int8.c); matrix products and convolutions are made of it alike. As
 * tolsey_gemm and the convolutions; NULL is TOLSEY_BAD_ARGUMENT. */
typedef int (*tolsey_multiplication)(int64_t m, int64_t n, int64_t k, const struct side *a, const struct side *b,
                                     const struct target *c);
int tolsey_gemm_by(tolsey_multiplication multiplication, int64_t batch, int64_t m, int64_t n, int64_t k,         //
                   const float *a, int64_t a_batch, int64_t a_row, int64_t a_column,                             //
                   const float *b, int64_t b_batch, int64_t b_row, int64_t b_column,                             //
                   const float *bias, int64_t bias_batch, int64_t bias_row, int64_t bias_column,                 //
                   float *c, int64_t c_batch, int64_t c_row, int64_t c_column);
int tolsey_convolution_by(tolsey_multiplication multiplication, const int64_t *geometry, const float *input,
                          const float *weight, const float *bias, float *output);
int tolsey_convolution_backward_input_by(tolsey_multiplication multiplication, const int64_t *geometry,
                                         const float *output_gradient, const float *weight, const float *bias,
                                         float *input_gradient);
int tolsey_convolution_backward_weight_by(tolsey_multiplication multiplication, const int64_t *geometry,
                                          const float *output_gradient, const float *input, float *weight_gradient);

#endif
