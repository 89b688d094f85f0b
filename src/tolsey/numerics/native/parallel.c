/* A pool of threads that splits places, never sums.
 *
 * One job at a time. The thread that brings it works too, so with one thread no other is ever made. A job has *seats* for
 * helpers; when its owner finds no piece left, it takes back the seats not yet taken and waits only for helpers that are
 * inside: a worker that woke late costs nothing.
 *
 * Jobs follow each other closely and are short, and a processor that was left idle takes longer to come back than many of them
 * last. So whoever waits watches for a moment (WATCH_NS), letting others run first, before it sleeps on a condition variable and
 * uses no time. With more threads than processors one that watches would hold up the one it waits for: nobody does.
 *
 * Who finds the pool busy, or calls from inside a task, does the whole job alone: the result is the same by construction.
 * After a fork the child has no workers and makes its own (the parent's threads do not exist there). */
#define _GNU_SOURCE /* sched_getaffinity */
#include "base.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum { MAX_THREADS = 256, WATCH_NS = 300000, LOOKS_A_TURN = 32 };

static struct {
    pthread_mutex_t owner; /* held by the thread whose job is in the pool */
    pthread_mutex_t lock;  /* guards the rest */
    pthread_cond_t wake, done;
    int workers;
    atomic_int seats, inside, watches; /* changed under the lock, read without it too */
    tolsey_task task;
    void *ctx;
    int64_t count, grain;
    atomic_int_fast64_t next;
    atomic_int answer;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static atomic_int wanted_threads = 1;
static __thread int in_task;
static pthread_once_t once = PTHREAD_ONCE_INIT;

TOLSEY_EXPORT int tolsey_threads(void) { return wanted_threads; }

int tolsey_helpers(void) { return in_task ? 1 : wanted_threads; }

/* How many threads the next jobs may use, 1 to 256. Any thread may call it; a running job keeps what it has. */
TOLSEY_EXPORT int tolsey_set_threads(int threads) {
    if (threads < 1 || threads > MAX_THREADS) return TOLSEY_BAD_ARGUMENT;
    wanted_threads = threads;
    return TOLSEY_OK;
}

/* Pieces of the pool's job until there is none. Owner and helpers alike. */
static void take_pieces(void) {
    uint64_t saved = tolsey_control_enter();
    in_task = 1;
    while (pool.answer == 0) {
        int64_t begin = atomic_fetch_add(&pool.next, pool.grain);
        if (begin >= pool.count) break;
        int answer = pool.task(pool.ctx, begin, least(begin + pool.grain, pool.count)), none = 0;
        if (answer != 0) atomic_compare_exchange_strong(&pool.answer, &none, answer);
    }
    in_task = 0;
    tolsey_control_leave(&saved);
}

/* Those that this process may use. */
static int processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

INLINE void look_again_soon(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Until a number is 0 (or is not), or the moment is over. */
static void watch(atomic_int *number, int until_zero) {
    if (!pool.watches) return;
    const int64_t end = now_ns() + WATCH_NS;
    do {
        for (int look = 0; look < LOOKS_A_TURN; look++) {
            if ((atomic_load_explicit(number, memory_order_relaxed) == 0) == until_zero) return;
            look_again_soon();
        }
        sched_yield();
    } while (now_ns() < end);
}

static void *work(void *unused) {
    (void)unused;
    for (;;) {
        watch(&pool.seats, 0);
        pthread_mutex_lock(&pool.lock);
        while (pool.seats == 0) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.seats--;
        pool.inside++;
        pthread_mutex_unlock(&pool.lock);
        take_pieces();
        pthread_mutex_lock(&pool.lock);
        if (--pool.inside == 0) pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* Makes workers up to `helpers`, under the lock; fewer where the system refuses. Signals stay with the program's threads. */
static void hire(int helpers) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.workers < helpers) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL) != 0) break;
        pthread_detach(thread);
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void forget_after_fork(void) {
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.workers = pool.seats = pool.inside = 0;
}

static void prepare_for_forks(void) { pthread_atfork(NULL, NULL, forget_after_fork); }

static int alone(int64_t count, int64_t grain, tolsey_task task, void *ctx) {
    uint64_t saved = tolsey_control_enter();
    int answer = 0, before = in_task;
    in_task = 1;
    for (int64_t begin = 0; begin < count && answer == 0; begin += grain)
        answer = task(ctx, begin, least(begin + grain, count));
    in_task = before;
    tolsey_control_leave(&saved);
    return answer;
}

TOLSEY_EXPORT int tolsey_parallel(int64_t count, int64_t grain, tolsey_task task, void *ctx) {
    if (count <= 0) return TOLSEY_OK;
    if (grain < 1) grain = 1;
    int64_t pieces = (count - 1) / grain + 1;
    int helpers = (int)least(wanted_threads, pieces) - 1;
    if (helpers < 1 || in_task || pthread_mutex_trylock(&pool.owner) != 0) return alone(count, grain, task, ctx);

    pthread_once(&once, prepare_for_forks);
    pthread_mutex_lock(&pool.lock);
    hire(helpers);
    pool.watches = helpers < processors();
    pool.task = task;
    pool.ctx = ctx;
    pool.count = count;
    pool.grain = grain;
    pool.next = 0;
    pool.answer = 0;
    pool.seats = (int)least(helpers, pool.workers);
    pthread_mutex_unlock(&pool.lock);
    for (int seat = 0; seat < helpers; seat++) pthread_cond_signal(&pool.wake);

    take_pieces();

    pthread_mutex_lock(&pool.lock);
    pool.seats = 0;
    pthread_mutex_unlock(&pool.lock);
    watch(&pool.inside, 1);
    pthread_mutex_lock(&pool.lock);
    while (pool.inside > 0) pthread_cond_wait(&pool.done, &pool.lock);
    int answer = pool.answer;
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.owner);
    return answer;
}
