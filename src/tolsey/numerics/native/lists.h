/* Which numbers of a tensor are reduced together: its dims sorted into kept and reduced, and where a list's numbers lie. */
#ifndef TOLSEY_LISTS_H
#define TOLSEY_LISTS_H

#include "base.h"

enum { MAX_RANK = 8 };

struct dim {
    int64_t size, stride;
};

struct lists {
    int64_t n;     /* numbers of one list */
    int64_t kept;  /* groups of lists */
    int64_t width; /* lists of one group, beside each other in memory; 1 where the last dim is reduced */
    int kept_dims, reduced_dims;
    struct dim kept_dim[MAX_RANK], reduced_dim[MAX_RANK]; /* outermost first; kept_dim is without the `width` one */
};

/* Lists of n along the middle of [kept, n, width]. */
INLINE struct lists lists_between(int64_t kept, int64_t n, int64_t width) {
    return (struct lists){.n = n, .kept = kept, .width = width, .kept_dims = 1, .reduced_dims = 1,
                          .kept_dim = {{kept, n * width}}, .reduced_dim = {{n, width}}};
}

/* Of a row-major tensor; bit d of `reduced` is set where dim d is reduced. Dims of size 1 are left out, neighbours of one
 * kind joined. 0 where that is no tensor. */
__attribute__((unused)) static int lists_over(struct lists *it, int64_t rank, const int64_t *sizes, uint32_t reduced) {
    if (rank < 0 || rank > MAX_RANK || reduced >> rank) return 0;
    *it = (struct lists){.n = 1, .kept = 1, .width = 1};
    struct dim joined[MAX_RANK];
    int is_reduced[MAX_RANK], dims = 0;
    int64_t stride = 1;
    for (int64_t d = rank - 1; d >= 0; d--) {
        if (sizes[d] < 0 || (sizes[d] > 1 && stride > INT64_MAX / sizes[d])) return 0;
        int kind = reduced >> d & 1;
        if (sizes[d] == 1) continue;
        if (dims > 0 && is_reduced[dims - 1] == kind)
            joined[dims - 1].size *= sizes[d];
        else {
            joined[dims] = (struct dim){sizes[d], stride};
            is_reduced[dims++] = kind;
        }
        stride *= most(sizes[d], 1);
    }
    for (int i = dims - 1; i >= 0; i--) {
        if (is_reduced[i]) {
            it->reduced_dim[it->reduced_dims++] = joined[i];
            it->n *= joined[i].size;
        } else if (i == 0) {
            it->width = joined[i].size;
        } else {
            it->kept_dim[it->kept_dims++] = joined[i];
            it->kept *= joined[i].size;
        }
    }
    return 1;
}

INLINE int64_t offset_of(const struct dim *dim, int dims, int64_t index) {
    int64_t offset = 0;
    for (int d = dims - 1; d > 0; d--) {
        offset += index % dim[d].size * dim[d].stride;
        index /= dim[d].size;
    }
    return dims > 0 ? offset + index * dim[0].stride : 0;
}

/* Numbers first … first + length - 1 of a list whose last dim is reduced: in place where they are neighbours, else gathered
 * into the thread's scratch. NULL: no memory. */
__attribute__((unused)) static const float *list_part(const struct lists *it, const float *x, int64_t kept, int64_t first, int64_t length) {
    x += offset_of(it->kept_dim, it->kept_dims, kept);
    if (it->reduced_dims <= 1) return x + first;
    float *gathered = tolsey_scratch(SCRATCH_ROW, sizeof(float) * (size_t)length + 1);
    if (!gathered) return NULL;
    const int64_t run = it->reduced_dim[it->reduced_dims - 1].size;
    for (int64_t i = 0; i < length;) {
        int64_t count = least(run - (first + i) % run, length - i);
        memcpy(gathered + i, x + offset_of(it->reduced_dim, it->reduced_dims, first + i), sizeof(float) * (size_t)count);
        i += count;
    }
    return gathered;
}

/* Where numbers first … first + rows - 1 of the lists of a group lie: row[j] is number first + j of each. */
__attribute__((unused)) static void list_rows(const struct lists *it, const float *x, int64_t kept, int64_t first, int64_t rows, const float **row) {
    x += offset_of(it->kept_dim, it->kept_dims, kept);
    if (it->reduced_dims <= 1) {
        const int64_t stride = it->reduced_dims ? it->reduced_dim[0].stride : 0;
        for (int64_t j = 0; j < rows; j++) row[j] = x + (first + j) * stride;
        return;
    }
    for (int64_t j = 0; j < rows; j++) row[j] = x + offset_of(it->reduced_dim, it->reduced_dims, first + j);
}

#endif
