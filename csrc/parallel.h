/* How many threads a piece of work is worth. */
#ifndef WCY_PARALLEL_H
#define WCY_PARALLEL_H

#include <stddef.h>

/* Multiply-adds (or elements moved) that pay for one more thread: a fork-join costs about a microsecond. */
enum { WORK_PER_THREAD = 1 << 16 };

static inline int team(size_t work, int threads) {
    const size_t useful = 1 + work / WORK_PER_THREAD;
    return useful < (size_t)threads ? (int)useful : threads;
}

#endif
