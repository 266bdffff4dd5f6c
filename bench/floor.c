/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Round trips in C over the libzmq that pyzmq has loaded: what the sockets can do.
 *
 *   floor LIBZMQ PATTERN DIRECTORY     PATTERN: pair, dealer, pushpull; sockets are made in DIRECTORY
 *
 * Reads lines "N SIZE" and answers each with the median of N round trips in ns. */
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { ZMQ_PAIR = 0, ZMQ_DEALER = 5, ZMQ_PULL = 7, ZMQ_PUSH = 8 };

static void *(*ctx_new)(void), *(*new_socket)(void *, int);
static int (*zbind)(void *, const char *), (*zconnect)(void *, const char *);
static int (*zsend)(void *, const void *, size_t, int), (*zrecv)(void *, void *, size_t, int);

typedef struct ends { void *out, *in; } ends; /* the same socket twice if it goes both ways */

static void *entry(void *library, const char *name)
{
    void *at = dlsym(library, name);
    if (!at) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return at;
}

static void load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    *(void **)&ctx_new = entry(library, "zmq_ctx_new");
    *(void **)&new_socket = entry(library, "zmq_socket");
    *(void **)&zbind = entry(library, "zmq_bind");
    *(void **)&zconnect = entry(library, "zmq_connect");
    *(void **)&zsend = entry(library, "zmq_send");
    *(void **)&zrecv = entry(library, "zmq_recv");
}

static void *attached(void *context, int type, bool here, const char *directory, const char *name)
{
    char endpoint[512];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%s", directory, name);
    void *s = new_socket(context, type);
    if (!s || (here ? zbind : zconnect)(s, endpoint)) {
        fprintf(stderr, "no socket at %s\n", endpoint);
        exit(1);
    }
    return s;
}

static ends open_ends(const char *pattern, const char *directory, bool asks)
{
    void *context = ctx_new();
    if (!strcmp(pattern, "pushpull")) {
        void *in = attached(context, ZMQ_PULL, true, directory, asks ? "answers" : "questions");
        return (ends){attached(context, ZMQ_PUSH, false, directory, asks ? "questions" : "answers"), in};
    }
    void *both = attached(context, !strcmp(pattern, "pair") ? ZMQ_PAIR : ZMQ_DEALER, asks, directory, pattern);
    return (ends){both, both};
}

static void echo(ends e)
{
    static char message[1 << 20];
    for (;;) {
        int n = zrecv(e.in, message, sizeof message, 0);
        if (n >= 0)
            zsend(e.out, message, (size_t)n, 0);
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(ends e, size_t n, size_t size)
{
    static char message[1 << 20];
    uint64_t *times = calloc(n, sizeof *times);
    for (size_t i = 0; i < n; i++) {
        uint64_t began = now_ns();
        zsend(e.out, message, size, 0);
        zrecv(e.in, message, sizeof message, 0);
        times[i] = now_ns() - began;
    }
    qsort(times, n, sizeof *times, ascending);
    uint64_t middle = times[n / 2];
    free(times);
    return middle;
}

int main(int argc, char **argv)
{
    size_t n, size;
    if (argc != 4)
        return 2;
    load(argv[1]);
    pid_t parent = getpid();
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            echo(open_ends(argv[2], argv[3], false));
        return 0;
    }
    ends e = open_ends(argv[2], argv[3], true);
    while (scanf("%zu %zu", &n, &size) == 2 && n && size <= 1 << 20) {
        printf("%llu\n", (unsigned long long)median(e, n, size));
        fflush(stdout);
    }
    return 0;
}
