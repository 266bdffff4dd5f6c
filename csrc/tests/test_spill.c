/* SPDX-License-Identifier: BSD-3-Clause
 * A pipe that nobody reads: what is in it stays for a while, then it is emptied, and lines are neither lost nor counted
 * twice; who waits to write goes on. */
#include "../src/spill.h"
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static int reader, writer;
static palmi_spill spill;

static void make(void)
{
    int ends[2];
    char path[64];
    CHECK(!pipe(ends));
    reader = ends[0], writer = ends[1];
    CHECK(fcntl(reader, F_SETFL, O_NONBLOCK) >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", writer);
    spill = (palmi_spill){.fd = open(path, O_RDWR | O_NONBLOCK)};
    CHECK(spill.fd >= 0);
}

static void end(void)
{
    close(reader), close(writer), close(spill.fd);
}

/* Returns how many lines it took to fill it. */
static uint64_t fill(void)
{
    uint64_t n = 0;
    while (write(spill.fd, "a line of text\n", 15) == 15)
        n++;
    return n;
}

/* All that is in it; adds up lines, and those of which a mark tells. */
static uint64_t read_all(uint64_t *told)
{
    static char text[1 << 20];
    size_t n = 0;
    ssize_t got;
    while ((got = read(reader, text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    uint64_t lines = 0;
    for (char *p = text, *stop; (stop = strchr(p, '\n')); p = stop + 1) {
        char *mark = memchr(p, '\x1e', (size_t)(stop - p));
        if (mark)
            *told += strtoull(mark + 2, NULL, 10);
        else
            lines++;
    }
    return lines;
}

static void test_it_waits_for_its_reader(void)
{
    make();
    uint64_t n = fill(), told = 0;
    for (int i = 1; i < PALMI_SPILL_PATIENCE; i++)
        palmi_spill_beat(&spill);
    CHECK(read_all(&told) == n && !told);
    palmi_spill_beat(&spill);
    CHECK(!spill.full && !spill.lost);
    end();
}

static void test_then_it_is_emptied(void)
{
    make();
    uint64_t n = fill(), told = 0;
    for (int i = 0; i < PALMI_SPILL_PATIENCE; i++)
        palmi_spill_beat(&spill);
    CHECK(write(writer, "more\n", 5) == 5);
    CHECK(read_all(&told) == 1 && told == n);
    end();
}

static void test_again_at_once_while_nobody_reads(void)
{
    make();
    uint64_t made = fill(), told = 0;
    for (int i = 0; i < PALMI_SPILL_PATIENCE; i++)
        palmi_spill_beat(&spill);
    for (int i = 0; i < 3; i++) {
        made += fill();
        palmi_spill_beat(&spill);
    }
    uint64_t lines = read_all(&told);
    CHECK(lines + told == made);
    end();
}

static void test_what_is_no_mark(void)
{
    make();
    CHECK(write(writer, "a\x1e\nb\x1e!12\nc\x1e!x\n\x1e", 15) == 15);
    palmi_spill_empty(&spill);
    uint64_t told = 0;
    CHECK(read_all(&told) == 0 && told == 14);
    end();
}

static void *write_much(void *arg)
{
    for (int i = 0; i < 20000; i++)
        CHECK(write(writer, "a line of text\n", 15) == 15);
    __atomic_store_n((int *)arg, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void test_who_waits_goes_on(void)
{
    make();
    pthread_t thread;
    int over = 0;
    CHECK(!pthread_create(&thread, NULL, write_much, &over));
    while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE))
        palmi_spill_beat(&spill);
    pthread_join(thread, NULL);
    end();
}

int main(void)
{
    test_it_waits_for_its_reader();
    test_then_it_is_emptied();
    test_again_at_once_while_nobody_reads();
    test_what_is_no_mark();
    test_who_waits_goes_on();
    return 0;
}
