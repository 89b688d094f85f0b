/* Working memory that a thread keeps between calls: a fresh block from the system costs a page fault every 4 KiB, more than
 * the arithmetic of a small product. Freed when the thread ends. */
#define _POSIX_C_SOURCE 200809L
#include "base.h"
#include <pthread.h>
#include <stdlib.h>

struct scratch {
    void *at[SCRATCH_SLOTS];
    size_t size_bytes[SCRATCH_SLOTS];
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int have_key;
static __thread struct scratch *mine;

static void free_all(void *of_thread) {
    struct scratch *it = of_thread;
    for (int slot = 0; slot < SCRATCH_SLOTS; slot++) free(it->at[slot]);
    free(it);
}

static void make_key(void) { have_key = pthread_key_create(&key, free_all) == 0; }

void *tolsey_scratch(enum scratch_slot slot, size_t size_bytes) {
    if (!mine) {
        pthread_once(&once, make_key);
        struct scratch *fresh = have_key ? calloc(1, sizeof *fresh) : NULL;
        if (!fresh || pthread_setspecific(key, fresh) != 0) {
            free(fresh);
            return NULL;
        }
        mine = fresh;
    }
    if (size_bytes > mine->size_bytes[slot]) {
        void *at = NULL;
        if (posix_memalign(&at, 64, size_bytes) != 0) return NULL;
        free(mine->at[slot]);
        mine->at[slot] = at;
        mine->size_bytes[slot] = size_bytes;
    }
    return mine->at[slot];
}
