/* Calls the kernels of a shared object as a file says, and compares what they leave in memory with what the file says:
 *
 *     replay KERNELS.so CALLS THREADS CONTROL
 *
 * For machines on which no Python runs, such as an emulated one. CALLS is written by replaying.py, which says how. CONTROL,
 * in hex, is what the floating-point control register is set to before each call (0: left alone); a kernel must give the
 * same bits under any, and hand it back. Prints each call that went wrong; ends with 0 if none did, 1 if some, 2 if it
 * could not try.
 *
 * How a kernel of any signature is called: both ABIs (System V x86-64, AAPCS64) pass integers and pointers in so many
 * registers, floating-point numbers in eight others, and what is left on the stack in slots of eight bytes. So one call
 * with all of them filled serves every kernel that takes at most eight floating-point numbers. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define STICKY 0x3fu
#else
#define STICKY 0u
#endif

enum { INTEGER = 0, NUMBER32 = 1, NUMBER64 = 2, BYTES = 3, FLOATS = 4, MOST = 24, FLOAT_REGISTERS = 8 };

typedef int64_t I;
typedef double D;
/* INTEGER_REGISTERS integers, eight numbers, the rest of the integers. */
#if defined(__x86_64__)
typedef int (*kernel)(I, I, I, I, I, I, D, D, D, D, D, D, D, D, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I);
#define CALL(f, i, d)                                                                                                  \
    f(i[0], i[1], i[2], i[3], i[4], i[5], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], i[6], i[7], i[8], i[9], i[10], \
      i[11], i[12], i[13], i[14], i[15], i[16], i[17], i[18], i[19], i[20], i[21], i[22], i[23])
#elif defined(__aarch64__)
typedef int (*kernel)(I, I, I, I, I, I, I, I, D, D, D, D, D, D, D, D, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I);
#define CALL(f, i, d)                                                                                                  \
    f(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], i[8], i[9], i[10], \
      i[11], i[12], i[13], i[14], i[15], i[16], i[17], i[18], i[19], i[20], i[21], i[22], i[23])
#else
#error "replay.c knows how x86-64 and AArch64 pass arguments"
#endif

static FILE *calls;

static void quit(const char *what, const char *of) {
    fprintf(stderr, "%s: %s\n", what, of);
    exit(2);
}

static void take(void *to, size_t size_bytes) {
    if (size_bytes && fread(to, size_bytes, 1, calls) != 1) quit("the file of calls ends too early", "");
}

static int64_t take_integer(void) {
    int64_t n;
    take(&n, sizeof n);
    return n;
}

struct memory {
    int64_t kind, size_bytes;
    unsigned char *now, *wanted;
};

static int is_nan(uint32_t word) { return (word & 0x7fffffffu) > 0x7f800000u; }

/* The first byte that is not as wanted, -1 where all are. */
static int64_t first_wrong(const struct memory *it) {
    if (it->kind == BYTES) {
        for (int64_t i = 0; i < it->size_bytes; i++)
            if (it->now[i] != it->wanted[i]) return i;
        return -1;
    }
    for (int64_t i = 0; i < it->size_bytes; i += 4) {
        uint32_t now, wanted;
        memcpy(&now, it->now + i, 4);
        memcpy(&wanted, it->wanted + i, 4);
        if (now != wanted && !(is_nan(now) && is_nan(wanted))) return i;
    }
    return -1;
}

int main(int count, char **given) {
    if (count != 5) quit("usage", "replay KERNELS.so CALLS THREADS CONTROL");
    void *kernels = dlopen(given[1], RTLD_NOW);
    if (!kernels) quit("cannot be loaded", dlerror());
    calls = fopen(given[2], "rb");
    if (!calls) quit("cannot be read", given[2]);
    int (*set_threads)(int) = (int (*)(int))dlsym(kernels, "tolsey_set_threads");
    uint64_t (*control_get)(void) = (uint64_t(*)(void))dlsym(kernels, "tolsey_control_get");
    void (*control_set)(uint64_t) = (void (*)(uint64_t))dlsym(kernels, "tolsey_control_set");
    const char *(*isa)(void) = (const char *(*)(void))dlsym(kernels, "tolsey_isa");
    if (!set_threads || !control_get || !control_set || !isa || set_threads(atoi(given[3]))) quit("not ours", given[1]);
    const uint64_t foreign = strtoull(given[4], NULL, 16), before = control_get();

    int64_t total = take_integer(), wrong = 0;
    for (int64_t call = 0; call < total; call++) {
        char name[64] = {0};
        int64_t length = take_integer(), arguments, integers = 0, numbers = 0, memories = 0;
        if (length < 1 || length >= (int64_t)sizeof name) quit("a kernel's name is too long", "");
        take(name, (size_t)length);
        kernel it = (kernel)dlsym(kernels, name);
        if (!it) quit("no such kernel", name);
        I integer[MOST] = {0};
        D number[FLOAT_REGISTERS] = {0};
        struct memory memory[MOST];
        arguments = take_integer();
        for (int64_t a = 0; a < arguments; a++) {
            int64_t kind = take_integer(), bits = take_integer();
            if (kind == NUMBER32 || kind == NUMBER64) {
                if (numbers == FLOAT_REGISTERS) quit("too many floating-point numbers", name);
                memcpy(&number[numbers++], &bits, 8); /* a binary32 lies in the lower half of its register */
                continue;
            }
            if (integers == MOST) quit("too many arguments", name);
            integer[integers++] = bits;
            if (kind == INTEGER) continue;
            struct memory *m = &memory[memories++];
            int64_t offset = bits;
            *m = (struct memory){.kind = kind, .size_bytes = take_integer()};
            m->now = malloc((size_t)m->size_bytes + 1);
            m->wanted = malloc((size_t)m->size_bytes + 1);
            if (!m->now || !m->wanted) quit("no memory", name);
            take(m->now, (size_t)m->size_bytes);
            take(m->wanted, (size_t)m->size_bytes);
            integer[integers - 1] = (I)(intptr_t)(m->now + offset);
        }
        if (foreign) control_set(foreign);
        int answer = CALL(it, integer, number);
        uint64_t after = control_get();
        control_set(before);
        int bad = answer != 0 || (foreign && (after ^ foreign) & ~(uint64_t)STICKY);
        if (answer) printf("call %lld, %s: answered %d\n", (long long)call, name, answer);
        else if (bad) printf("call %lld, %s: the control register was not handed back\n", (long long)call, name);
        for (int64_t m = 0; m < memories; m++) {
            int64_t at = first_wrong(&memory[m]);
            if (at >= 0) printf("call %lld, %s: memory %lld differs at byte %lld of %lld\n", (long long)call, name,
                                (long long)m, (long long)at, (long long)memory[m].size_bytes);
            bad |= at >= 0;
            free(memory[m].now);
            free(memory[m].wanted);
        }
        wrong += bad;
    }
    printf("%s, %s thread(s): %lld calls, %lld wrong\n", isa(), given[3], (long long)total, (long long)wrong);
    return wrong != 0;
}
