/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A target for libFuzzer. Built with -DPALM_FUZZ_MAIN it needs no engine:
 *   fuzz_envelope CORPUS                   reads each file of the directory once
 *   fuzz_envelope CORPUS --random N SEED   and then N inputs made of them by damage; the same ones for the same seed
 *
 * An input is: one byte, the number of parts modulo 8; 4 bytes for the size of each; the frame. */
#include "check.h"
#include "envelope_walk.h"

static unsigned long verdicts[PALM_ERR_COUNT];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static palm_reader *reader;
    uint64_t parts[7];
    palm_envelope e;
    void *frame;
    uint32_t n_parts = size ? data[0] % 8 : 0;
    if (size < 1 + 4 * (size_t)n_parts)
        return 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t part;
        memcpy(&part, data + 1 + 4 * i, sizeof part);
        parts[i] = part;
    }
    data += 1 + 4 * n_parts;
    size -= 1 + 4 * n_parts;
    if (!reader)
        CHECK_OK(palm_reader_new(&reader));
    CHECK(!posix_memalign(&frame, PALM_ALIGN, size)); /* so that a sanitizer sees who reads beyond it */
    if (size)
        memcpy(frame, data, size);
    palm_err err = palm_reader_read(reader, frame, size, parts, n_parts, &e);
    if (!err)
        walk_again(&e);
    CHECK((unsigned)err < PALM_ERR_COUNT);
    verdicts[err]++;
    free(frame);
    return 0;
}

#ifdef PALM_FUZZ_MAIN
#include <dirent.h>
#include <sys/stat.h>

enum { INPUT_ROOM = 1 << 16, CORPUS_ROOM = 1024 };
static struct input { uint8_t *bytes; size_t size; } corpus[CORPUS_ROOM];
static int n_corpus;
static uint64_t state; /* of the generator: xorshift64* */

static uint64_t draw(uint64_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return below ? (state * UINT64_C(2685821657736338717) >> 16) % below : 0;
}

static void load(const char *directory, const char *name)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (stat(path, &st) || !S_ISREG(st.st_mode))
        return;
    CHECK(n_corpus < CORPUS_ROOM && st.st_size <= INPUT_ROOM);
    struct input *in = &corpus[n_corpus++];
    in->size = (size_t)st.st_size;
    in->bytes = malloc(in->size + 1);
    FILE *file = fopen(path, "rb");
    CHECK(file && in->bytes && fread(in->bytes, 1, in->size, file) == in->size);
    fclose(file);
}

static int by_size(const void *a, const void *b)
{
    const struct input *x = a, *y = b;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return memcmp(x->bytes, y->bytes, x->size);
}

static void load_all(const char *directory)
{
    DIR *dir = opendir(directory);
    if (!dir)
        perror(directory);
    CHECK(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        load(directory, entry->d_name);
    closedir(dir);
    CHECK(n_corpus);
    qsort(corpus, (size_t)n_corpus, sizeof *corpus, by_size); /* the same order on every file system */
}

static void write_number(struct input *in)
{
    static const uint64_t odd[] = {0, 1, 2, 3, 4, 7, 8, 16, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1024, 4096, 4097,
                                   16384, 65535, 1 << 20, INT32_MAX, UINT32_MAX, (uint64_t)1 << 32, INT64_MAX,
                                   (uint64_t)1 << 63, UINT64_MAX - 63, UINT64_MAX - 1, UINT64_MAX};
    size_t width = (size_t)1 << draw(4);
    if (in->size < width)
        return;
    size_t at = draw(in->size - width + 1);
    uint64_t value = 0;
    memcpy(&value, in->bytes + at, width);
    switch (draw(3)) {
    case 0:
        value = odd[draw(sizeof odd / sizeof *odd)];
        break;
    case 1:
        value += draw(16) * 4;
        break;
    default:
        value -= draw(16) * 4;
    }
    memcpy(in->bytes + at, &value, width);
}

static void copy_within(struct input *in, const struct input *from)
{
    size_t n = from->size < in->size ? from->size : in->size;
    n = 1 + draw(n < 64 ? n : 64);
    if (n > in->size || n > from->size)
        return;
    memmove(in->bytes + draw(in->size - n + 1), from->bytes + draw(from->size - n + 1), n);
}

static void insert(struct input *in)
{
    size_t n = (1 + draw(16)) * 4, at = draw(in->size + 1);
    if (in->size + n > INPUT_ROOM)
        return;
    memmove(in->bytes + at + n, in->bytes + at, in->size - at);
    memset(in->bytes + at, (int)draw(3), n);
    in->size += n;
}

static void damage(struct input *in)
{
    switch (draw(16)) {
    case 0:
        in->size = draw(in->size + 1);
        break;
    case 1:
        insert(in);
        break;
    case 2:
    case 3:
        copy_within(in, &corpus[draw((uint64_t)n_corpus)]);
        break;
    case 4:
    case 5:
        copy_within(in, in);
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        if (in->size)
            in->bytes[draw(in->size)] ^= (uint8_t)(1 << draw(8));
        break;
    default:
        write_number(in);
    }
}

static void make(struct input *in)
{
    const struct input *from = &corpus[draw((uint64_t)n_corpus)];
    in->size = from->size;
    memcpy(in->bytes, from->bytes, in->size);
    if (!draw(64))
        for (size_t i = 0; i < in->size; i++)
            in->bytes[i] = (uint8_t)draw(256);
    for (uint64_t n = 1 + draw(4); n; n--)
        damage(in);
}

static void report(const char *what)
{
    printf("%s:", what);
    for (int i = 0; i < PALM_ERR_COUNT; i++)
        if (verdicts[i])
            printf(" %s %lu", palm_errname((palm_err)i), verdicts[i]);
    printf("\n");
    memset(verdicts, 0, sizeof verdicts);
}

int main(int argc, char **argv)
{
    static uint8_t bytes[INPUT_ROOM];
    struct input in = {bytes, 0};
    if (argc != 2 && !(argc == 5 && !strcmp(argv[2], "--random"))) {
        fprintf(stderr, "usage: fuzz_envelope CORPUS [--random N SEED]\n");
        return 2;
    }
    load_all(argv[1]);
    for (int i = 0; i < n_corpus; i++)
        LLVMFuzzerTestOneInput(corpus[i].bytes, corpus[i].size);
    report("corpus");
    if (argc == 5) {
        state = strtoull(argv[4], NULL, 0) * 2 + 1;
        for (unsigned long long n = strtoull(argv[3], NULL, 0); n; n--) {
            make(&in);
            LLVMFuzzerTestOneInput(in.bytes, in.size);
        }
        report("random");
    }
    for (int i = 0; i < n_corpus; i++)
        free(corpus[i].bytes);
    return 0;
}
#endif
