/* SPDX-License-Identifier: BSD-3-Clause
 * Sealed against growing and shrinking, so that no peer can cause SIGBUS. */
#include "sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
/* No F_SEAL_FUTURE_WRITE: punching holes would fail under it. Peers map an arena's data read-only. */
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, SEALS_WANTED = F_SEAL_SHRINK | F_SEAL_GROW };

int palmi_sealed_new(uint64_t bytes)
{
    int fd = memfd_create("palm", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("palm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, SEALS)) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool is_sealed(int fd, uint64_t *bytes)
{
    struct stat s;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS_WANTED) != SEALS_WANTED || fstat(fd, &s) || !S_ISREG(s.st_mode))
        return false;
    *bytes = (uint64_t)s.st_size;
    return true;
}

int palmi_sealed_open(int32_t pid, int32_t fd, int flags, uint64_t *bytes)
{
    char path[64];
    struct stat s;
    if (pid <= 0 || fd < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, (int)fd);
    if (stat(path, &s) || !S_ISREG(s.st_mode)) /* opening a device may do things */
        return -1;
    int file = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file >= 0 && !is_sealed(file, bytes)) {
        close(file);
        return -1;
    }
    return file;
}
