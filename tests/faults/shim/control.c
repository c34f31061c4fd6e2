/* The control file: which calls fail, and how. Read again whenever it was replaced (write another and rename it over the old one).
 *
 * One rule a line, all of them apply to each call, `#` begins a comment:
 *
 *   KINDS EFFECT [after N] [count N] [chance P] [range A-B] [file GLOB] [inode N]
 *
 * KINDS, joined by commas: open (for writing), openr (for reading only), create, read, write, truncate, sync, rename, unlink;
 * any = all that change something (create, write, truncate, sync, rename, unlink); readonly = any and open.
 * EFFECT:
 *   eio, erofs, enospc, edquot, eacces, emfile   the call fails with this and does nothing. A `sync` that fails forgets what was not
 *                          on the disk yet, as Linux does: the pages count as clean, and the next sync that works does not write them.
 *   enospc budget BYTES    so much may the files grow in all (shrinking and removing give it back), then the disk is full; what
 *                          is already there can be overwritten
 *   delay DURATION         the call takes so much longer: 250ms, 3s
 *   lie                    `sync` only: says that it worked and does nothing
 *   cut                    the power goes away in the middle of this call: SIGKILL
 *
 * after N: not the first N calls that match. count N: N times at most. chance P: in P percent of the calls (`seed N` on a line of its
 * own makes that repeatable). range A-B: only calls that touch these bytes of the file. file GLOB: only files whose path below the root matches.
 * inode N: only this file, whatever it is called by now (read and write only): a bad place stays with its file.
 *
 *   sync eio count 1
 *   readonly erofs
 *   write enospc budget 65536
 *   sync delay 3s file *-wal
 *   read eio range 8192-12288 file tidegate.db
 *   any cut after 1234
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RULES = 32, TEXT = 8192 };
enum { ANY = OP_CREATE | OP_WRITE | OP_TRUNCATE | OP_SYNC | OP_RENAME | OP_UNLINK };

struct rule {
    unsigned kinds;
    int error;
    bool lie, cut, budgeted;
    int64_t budget, delay_us, after, count, seen, done, from, to;
    unsigned chance;
    uint64_t inode; /* 0: any */
    char glob[128];
};

static char path[4096];
static struct rule rules[RULES];
static int rule_count;
static uint64_t dice = 88172645463325252u;
static struct {
    ino_t inode;
    struct timespec changed;
} version;

static const struct {
    const char *word;
    unsigned kinds;
} kinds[] = {
    {"open", OP_OPEN}, {"openr", OP_OPENR}, {"create", OP_CREATE}, {"read", OP_READ}, {"write", OP_WRITE}, {"truncate", OP_TRUNCATE},
    {"sync", OP_SYNC}, {"rename", OP_RENAME}, {"unlink", OP_UNLINK}, {"any", ANY}, {"readonly", ANY | OP_OPEN},
};
static const struct {
    const char *word;
    int error;
} errors[] = {{"eio", EIO}, {"erofs", EROFS}, {"enospc", ENOSPC}, {"edquot", EDQUOT}, {"eacces", EACCES}, {"emfile", EMFILE}};

/* A test with a rule that says nothing would pass for nothing. */
static void refuse(const char *what) {
    fprintf(stderr, "faults: the control file %s: what is \"%s\"?\n", path, what);
    _exit(96);
}

static int64_t number(const char *word) {
    char *end = NULL;
    if (word == NULL)
        refuse("(a number is missing)");
    int64_t value = strtoll(word, &end, 10);
    if (end == word || *end != '\0')
        refuse(word);
    return value;
}

static int64_t duration_us(const char *word) {
    char *end = NULL;
    if (word == NULL)
        refuse("(a duration is missing)");
    int64_t value = strtoll(word, &end, 10);
    if (strcmp(end, "ms") == 0)
        return value * 1000;
    if (strcmp(end, "s") == 0)
        return value * 1000000;
    refuse(word);
    return 0;
}

static unsigned kinds_of(char *words) {
    unsigned found = 0;
    char *rest = NULL;
    for (char *word = strtok_r(words, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest)) {
        unsigned before = found;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (strcmp(word, kinds[i].word) == 0)
                found |= kinds[i].kinds;
        if (found == before)
            refuse(word);
    }
    return found;
}

static void effect(struct rule *rule, const char *word, char **rest) {
    if (word == NULL)
        refuse("(an effect is missing)");
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strcmp(word, errors[i].word) == 0) {
            rule->error = errors[i].error;
            return;
        }
    if (strcmp(word, "delay") == 0)
        rule->delay_us = duration_us(strtok_r(NULL, " \t", rest));
    else if (strcmp(word, "lie") == 0)
        rule->lie = true;
    else if (strcmp(word, "cut") == 0)
        rule->cut = true;
    else
        refuse(word);
}

static void option(struct rule *rule, const char *word, char **rest) {
    char *value = strtok_r(NULL, " \t", rest);
    if (strcmp(word, "after") == 0)
        rule->after = number(value);
    else if (strcmp(word, "count") == 0)
        rule->count = number(value);
    else if (strcmp(word, "chance") == 0)
        rule->chance = (unsigned)number(value);
    else if (strcmp(word, "budget") == 0) {
        rule->budgeted = true;
        rule->budget = number(value);
    } else if (strcmp(word, "range") == 0) {
        char *dash = value == NULL ? NULL : strchr(value, '-');
        if (dash == NULL)
            refuse("(a range is A-B)");
        *dash = '\0';
        rule->from = number(value);
        rule->to = number(dash + 1);
    } else if (strcmp(word, "inode") == 0)
        rule->inode = (uint64_t)number(value);
    else if (strcmp(word, "file") == 0 && value != NULL && strlen(value) < sizeof rule->glob)
        strcpy(rule->glob, value);
    else
        refuse(word);
}

static void read_line(char *line) {
    line[strcspn(line, "#")] = '\0';
    char *rest = NULL, *word = strtok_r(line, " \t", &rest);
    if (word == NULL)
        return;
    if (strcmp(word, "seed") == 0) {
        dice = (uint64_t)number(strtok_r(NULL, " \t", &rest)) * 2 + 1;
        return;
    }
    if (rule_count == RULES)
        refuse("(too many rules)");
    struct rule *rule = &rules[rule_count++];
    *rule = (struct rule){.count = INT64_MAX, .chance = 100, .to = INT64_MAX};
    rule->kinds = kinds_of(word);
    effect(rule, strtok_r(NULL, " \t", &rest), &rest);
    while ((word = strtok_r(NULL, " \t", &rest)) != NULL)
        option(rule, word, &rest);
}

static void read_again_if_replaced(void) {
    struct stat now;
    if (path[0] == '\0')
        return;
    if (stat(path, &now) != 0) {
        rule_count = 0;
        version.inode = 0;
        return;
    }
    if (now.st_ino == version.inode && memcmp(&now.st_mtim, &version.changed, sizeof now.st_mtim) == 0)
        return;
    char text[TEXT];
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : syscall(SYS_read, file, text, sizeof text - 1);
    if (file >= 0)
        syscall(SYS_close, file);
    if (length < 0 || length == TEXT - 1)
        refuse("(not readable, or too long)");
    text[length] = '\0';
    version.inode = now.st_ino;
    version.changed = now.st_mtim;
    rule_count = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest))
        read_line(line);
}

void control_open(const char *control) {
    if (control != NULL && strlen(control) < sizeof path)
        strcpy(path, control);
}

static unsigned roll_percent(void) {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (unsigned)(dice % 100);
}

/* `from` to `to`: the bytes of the file that the call touches; `growth`: by how much it makes the file longer. */
struct verdict control_judge(unsigned op, const char *name, uint64_t inode, int64_t from, int64_t to, int64_t growth) {
    struct verdict verdict = {.most = SIZE_MAX};
    read_again_if_replaced();
    for (int i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        bool matches = (rule->kinds & op) != 0 && from < rule->to && to > rule->from
                       && (rule->inode == 0 || rule->inode == inode) && (rule->glob[0] == '\0' || fnmatch(rule->glob, name, 0) == 0);
        if (!matches)
            continue;
        rule->seen += 1;
        if (rule->seen <= rule->after || rule->done >= rule->count || roll_percent() >= rule->chance)
            continue;
        if (rule->budgeted) {
            if (growth <= 0)
                continue;
            if (growth <= rule->budget) {
                rule->budget -= growth;
                continue;
            }
            /* As much as fits, then the next call finds it full. */
            if (op == OP_WRITE && rule->budget > 0 && (to - from) - (growth - rule->budget) > 0) {
                verdict.most = (size_t)((to - from) - (growth - rule->budget));
                rule->budget = 0;
                continue;
            }
        }
        rule->done += 1;
        verdict.delay_us += rule->delay_us;
        verdict.lie |= rule->lie;
        verdict.cut |= rule->cut;
        if (verdict.error == 0)
            verdict.error = rule->error;
    }
    return verdict;
}

/* Files became shorter, or were removed. */
void control_gave_back(int64_t bytes) {
    for (int i = 0; i < rule_count; i++)
        if (rules[i].budgeted && bytes > 0)
            rules[i].budget += bytes;
}
