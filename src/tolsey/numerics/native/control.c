/* The floating-point control register: what the law asks for, set at every entry, given back at every exit.
 *
 * Any library in the process may have switched on flush-to-zero or another rounding mode for the calling thread; a kernel
 * must not compute under it, and must not change it for the caller either. x86: MXCSR. ARM: FPCR. */
#include "base.h"

#if defined(__x86_64__)
/* Round to nearest, no flush-to-zero, no denormals-are-zero, all exceptions masked, no flag raised. */
#define LAW 0x1f80u
/* The six sticky flags say what happened, not how to compute. */
#define FLAGS 0x3fu
static uint64_t read_register(void) { return _mm_getcsr(); }
static void write_register(uint64_t word) { _mm_setcsr((unsigned)word); }
#elif defined(__aarch64__)
/* Round to nearest, no flushing (FZ, FZ16, FIZ), no default-NaN mode, no traps: all zero. */
#define LAW 0u
#define FLAGS 0u
static uint64_t read_register(void) {
    uint64_t word;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(word));
    return word;
}
static void write_register(uint64_t word) { __asm__ __volatile__("msr fpcr, %0" : : "r"(word) : "memory"); }
#else
#error "control.c knows the floating-point control register of x86-64 and AArch64 only"
#endif

uint64_t tolsey_control_enter(void) {
    uint64_t word = read_register();
    if ((word & ~(uint64_t)FLAGS) != LAW) write_register(LAW);
    return word;
}

void tolsey_control_leave(const uint64_t *saved) {
    if ((*saved & ~(uint64_t)FLAGS) != LAW) write_register(*saved);
}

TOLSEY_EXPORT uint64_t tolsey_control_get(void) { return read_register(); }
TOLSEY_EXPORT void tolsey_control_set(uint64_t word) { write_register(word); }

/* 1 where arithmetic of the calling thread is the law's, seen by computing: a half-way case to each side, a subnormal
 * made, a subnormal read. Where `entered` is not 0, seen from inside an entry, where it must always be so. */
TOLSEY_EXPORT int tolsey_control_is_lawful(int entered) {
    uint64_t saved = entered ? tolsey_control_enter() : LAW;
    volatile float one = 1.0f, half_ulp = 0x1p-24f, tiny = 0x1p-126f, half = 0.5f, smallest = 0x1p-149f, big = 0x1p100f;
    int lawful = one + half_ulp == 1.0f && (one + 0x1p-23f) + half_ulp == 1.0f + 0x1p-22f &&
                 -one - half_ulp == -1.0f && tiny * half == 0x1p-127f && smallest * big == 0x1p-49f;
    tolsey_control_leave(&saved);
    return lawful;
}

TOLSEY_EXPORT const char *tolsey_isa(void) { return ISA_NAME; }
TOLSEY_EXPORT int tolsey_vector_width(void) { return VW; }
