/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a process whose private memory is bounded says of it on its page when it dies: native code that gets no memory
 * aborts, or writes to address 0, and nobody else can see why. */
#include "palm_memory.h"

#include <signal.h>
#include <string.h>

enum { NEAR = 8 }; /* an eighth of the bound is left, or less: more was asked for than there was, most likely */

static const int deadly[] = {SIGABRT, SIGSEGV};
enum { N_DEADLY = sizeof deadly / sizeof *deadly };

static palm_memory *watched;
static struct sigaction before[N_DEADLY];

/* libstdc++'s: the std::type_info of the C++ exception that this thread has caught, or could not catch. */
extern void *__cxa_current_exception_type(void);

/* By the C++ ABI, a type_info is its virtual table and its name. */
static bool is_bad_alloc(void)
{
    const char *const *type = __cxa_current_exception_type();
    return type && (!strcmp(type[1], "St9bad_alloc") || !strcmp(type[1], "St20bad_array_new_length"));
}

void palm_memory_ended(palm_memory *memory, bool lacked)
{
    memory->had = palm_memory_limit_had();
    memory->lacked = lacked || memory->had >= memory->limit - memory->limit / NEAR;
}

static void on_death(int number)
{
    for (int i = 0; i < N_DEADLY; i++) /* first: what follows may fault, too */
        sigaction(deadly[i], &before[i], NULL);
    palm_memory_ended(watched, number == SIGABRT && is_bad_alloc());
    raise(number); /* to who was there before us, faulthandler perhaps */
}

void palm_memory_watch(palm_memory *memory, uint64_t limit)
{
    memory->limit = limit;
    if (watched)
        return;
    watched = memory;
    struct sigaction ours = {.sa_handler = on_death, .sa_flags = SA_NODEFER | SA_ONSTACK};
    for (int i = 0; i < N_DEADLY; i++)
        sigaction(deadly[i], &ours, &before[i]);
}
