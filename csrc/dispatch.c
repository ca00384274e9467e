/* Which level runs: baseline flags, the processor's own word, fastest first. */
#ifdef __linux__
#    define _GNU_SOURCE
#    include <sys/syscall.h>
#    include <unistd.h>
#endif
#ifdef _OPENMP
#    include <omp.h>
#endif

#include "kernels.h"

extern const wcy_kernels wcy_kernels_baseline;
#ifdef WCY_HAVE_avx2
extern const wcy_kernels wcy_kernels_avx2;
static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
#endif
#ifdef WCY_HAVE_avx512
extern const wcy_kernels wcy_kernels_avx512;
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif
#ifdef WCY_HAVE_avx512vnni
extern const wcy_kernels wcy_kernels_avx512vnni;
static int has_avx512vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif
#ifdef WCY_HAVE_amx
extern const wcy_kernels wcy_kernels_amx;

/* Linux gives a process the tile registers when it asks: state component 18 of arch_prctl's
 * ARCH_REQ_XCOMP_PERM. */
static int tiles_granted(void) {
#    if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#    else
    return 0;
#    endif
}

static int has_amx(void) {
    return has_avx512vnni() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-tile") &&
           __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-bf16") && tiles_granted();
}
#endif

static const wcy_kernels *available[6];

/* Runs when the module is loaded, before any thread can ask. */
__attribute__((constructor)) static void find_available(void) {
    size_t count = 0;
#ifdef WCY_HAVE_avx2
    __builtin_cpu_init();
#endif
#ifdef WCY_HAVE_amx
    if (has_amx()) available[count++] = &wcy_kernels_amx;
#endif
#ifdef WCY_HAVE_avx512vnni
    if (has_avx512vnni()) available[count++] = &wcy_kernels_avx512vnni;
#endif
#ifdef WCY_HAVE_avx512
    if (has_avx512()) available[count++] = &wcy_kernels_avx512;
#endif
#ifdef WCY_HAVE_avx2
    if (has_avx2()) available[count++] = &wcy_kernels_avx2;
#endif
    available[count] = &wcy_kernels_baseline;
}

const wcy_kernels *const *wcy_available(void) { return available; }

void wcy_release_threads(void) {
#ifdef _OPENMP
    omp_pause_resource_all(omp_pause_soft);
#endif
}
