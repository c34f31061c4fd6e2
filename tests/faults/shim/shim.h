/* What the parts of the shim tell each other. See calls.c for what it is, control.c and journal.c for the two files it uses. */
#ifndef TIDEGATE_FAULTS_SHIM_H
#define TIDEGATE_FAULTS_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Kinds of calls, as bits: the words in front of a rule. */
enum {
    OP_OPEN = 1 << 0,   /* open for writing, or one that makes the file */
    OP_OPENR = 1 << 1,  /* open for reading only */
    OP_CREATE = 1 << 2, /* an open that made the file, mkdir */
    OP_READ = 1 << 3,
    OP_WRITE = 1 << 4,
    OP_TRUNCATE = 1 << 5,
    OP_SYNC = 1 << 6,
    OP_RENAME = 1 << 7,
    OP_UNLINK = 1 << 8, /* unlink, rmdir */
};

/* A file or folder below the root that is open. */
struct file {
    uint64_t inode;
    bool folder;
    bool append;
    bool journaled; /* not the -shm file: it is memory that looks like a file, and never survives */
    char name[256]; /* below the root; "" is the root itself */
};

/* What the rules say about a call. */
struct verdict {
    int error;          /* fail with this, or 0 */
    bool lie;           /* say that it worked without doing it */
    bool cut;           /* the power goes away in the middle of it */
    int64_t delay_us;   /* wait so long first */
    size_t most;        /* write at most so many bytes */
};

/* control.c */
void control_open(const char *path);
struct verdict control_judge(unsigned op, const char *name, uint64_t inode, int64_t from, int64_t to, int64_t growth);
void control_gave_back(int64_t bytes);

/* journal.c */
void journal_open(const char *path);
void journal_write(char type, uint64_t inode, uint64_t offset, uint64_t length, const char *name, const char *name2, const void *data);

#endif
