/* SPDX-License-Identifier: BSD-3-Clause
 * How much memory there is: at an exhausted cgroup the kernel kills, whichever way pages are asked for. So the arena
 * has a bound of its own, and looks at the room that is left before it uses fresh pages. */
#include "space_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_EVERY (16ull << 20)      /* bytes: 13 us a file against 11 ms of page faults */
#define MARGIN_MOST (256ull << 20)    /* what has to be left for everybody else */
#define SHORT_NS 10000000ull
enum { TEXT = 8192 };

static bool read_text(const char *path, char text[TEXT])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, TEXT - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* The number behind `key` at the start of a line; false: there is none. */
static bool number_after(const char *text, const char *key, uint64_t *out)
{
    size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length))
            continue;
        char *end;
        *out = strtoull(line + length, &end, 10);
        return end != line + length; /* "max" is no number */
    }
    return false;
}

static bool meminfo(const char *key, uint64_t *bytes)
{
    char text[TEXT];
    if (!read_text("/proc/meminfo", text) || !number_after(text, key, bytes))
        return false;
    *bytes <<= 10;
    return true;
}

/* --------------------------------------------------------------------------------------------------------- cgroups */

static bool cgroup_number(const palmi_cgroup *group, const char *v2, const char *v1, const char *key, uint64_t *out)
{
    char path[TEXT], text[TEXT];
    int n = snprintf(path, sizeof path, "%s/%s", group->directory, group->v1 ? v1 : v2);
    return n > 0 && n < TEXT && read_text(path, text) && number_after(text, key, out);
}

static bool cgroup_limit(const palmi_cgroup *group, uint64_t *out)
{
    /* v1 says "no limit" by a number near 2^63 */
    return cgroup_number(group, "memory.max", "memory.limit_in_bytes", "", out) && *out < 1ull << 62;
}

/* What may be added before the kernel has to take something away; pages of files, it takes without harm. */
static bool cgroup_room(const palmi_cgroup *group, uint64_t *out)
{
    uint64_t limit, used, files = 0;
    if (!cgroup_limit(group, &limit) ||
        !cgroup_number(group, "memory.current", "memory.usage_in_bytes", "", &used))
        return false;
    cgroup_number(group, "memory.stat", "memory.stat", group->v1 ? "total_inactive_file " : "inactive_file ", &files);
    used = used > files ? used - files : 0;
    *out = limit > used ? limit - used : 0;
    return true;
}

/* From `directory` up to `top`: all that have a limit. */
static void add_limits(palmi_bound *bound, char *directory, size_t top, bool v1)
{
    while (bound->n_cgroups < PALMI_CGROUPS) {
        palmi_cgroup group = {directory, v1};
        uint64_t limit;
        if (cgroup_limit(&group, &limit)) {
            group.directory = strdup(directory);
            if (!group.directory)
                return;
            bound->cgroups[bound->n_cgroups++] = group;
            bound->total = limit < bound->total ? limit : bound->total;
        }
        char *slash = strlen(directory) > top ? strrchr(directory, '/') : NULL;
        if (!slash || (size_t)(slash - directory) < top)
            return;
        *slash = 0;
    }
}

/* The path of our cgroup in /proc/self/cgroup: "0::PATH" in v2, "N:...,memory,...:PATH" in v1. */
static bool find_path(const char *text, bool v1, char path[TEXT])
{
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        const char *names = strchr(line, ':'), *end = names ? strchr(names + 1, ':') : NULL;
        if (!end)
            return false;
        bool match = !v1 && end == names + 1 && line[0] == '0';
        for (const char *name = names + 1; v1 && name < end; name += strcspn(name, ",:") + 1)
            match |= !strncmp(name, "memory", 6) && (name[6] == ',' || name[6] == ':');
        if (match)
            return sscanf(end + 1, "%8191[^\n]", path) == 1;
    }
    return false;
}

/* A line of mountinfo: id parent dev ROOT MOUNTPOINT options ... - TYPE source SUPEROPTIONS */
static bool parse_mount(const char *line, bool v1, char root[TEXT], char point[TEXT])
{
    char type[64], super[TEXT];
    const char *dash = strstr(line, " - ");
    if (!dash || sscanf(line, "%*s %*s %*s %8191s %8191s", root, point) != 2 ||
        sscanf(dash + 3, "%63s %*s %8191s", type, super) != 2)
        return false;
    return v1 ? !strcmp(type, "cgroup") && strstr(super, "memory") : !strcmp(type, "cgroup2");
}

static bool find_mount(bool v1, char root[TEXT], char point[TEXT])
{
    char line[TEXT];
    bool found = false;
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts && !found && fgets(line, sizeof line, mounts))
        found = parse_mount(line, v1, root, point);
    if (mounts)
        fclose(mounts);
    return found;
}

/* In a container the mount may show but a part of the tree, and the path may lie outside: then its root must do. */
static void look_for_limits(palmi_bound *bound, bool v1)
{
    char text[TEXT], path[TEXT], root[TEXT], point[TEXT], directory[2 * TEXT];
    if (!read_text("/proc/self/cgroup", text) || !find_path(text, v1, path) || !find_mount(v1, root, point))
        return;
    size_t length = strcmp(root, "/") ? strlen(root) : 0;
    const char *below = !strncmp(path, root, length) ? path + length : "";
    snprintf(directory, sizeof directory, "%s%s", point, strcmp(below, "/") ? below : "");
    if (access(directory, F_OK))
        snprintf(directory, sizeof directory, "%s", point);
    add_limits(bound, directory, strlen(point), v1);
}

/* -------------------------------------------------------------------------------------------------------------- bound */

void palmi_bound_open(palmi_bound *bound)
{
    memset(bound, 0, sizeof *bound);
    if (!meminfo("MemTotal:", &bound->total))
        bound->total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    look_for_limits(bound, false);
    look_for_limits(bound, true);
}

void palmi_bound_close(palmi_bound *bound)
{
    for (uint32_t i = 0; i < bound->n_cgroups; i++)
        free(bound->cgroups[i].directory);
    bound->n_cgroups = 0;
}

static uint64_t memory_left(const palmi_bound *bound)
{
    uint64_t least, room;
    if (!meminfo("MemAvailable:", &least))
        least = UINT64_MAX; /* no /proc: nobody knows */
    for (uint32_t i = 0; i < bound->n_cgroups; i++)
        if (cgroup_room(&bound->cgroups[i], &room) && room < least)
            least = room;
    return least;
}

bool palmi_bound_admits(palmi_bound *bound, uint64_t fresh)
{
    if (fresh <= bound->granted) {
        bound->granted -= fresh;
        return true;
    }
    uint64_t now = palmi_now_ns();
    if (now < bound->short_until)
        return false;
    uint64_t margin = bound->total / 64 < MARGIN_MOST ? bound->total / 64 : MARGIN_MOST;
    uint64_t left = memory_left(bound);
    left = left > margin ? left - margin : 0;
    if (left < fresh) {
        bound->short_until = now + SHORT_NS;
        return false;
    }
    uint64_t ahead = left - fresh;
    bound->granted = fresh >= LOOK_EVERY ? 0 : ahead < LOOK_EVERY - fresh ? ahead : LOOK_EVERY - fresh;
    return true;
}
