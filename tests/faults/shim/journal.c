/* The journal: every change of a file below the root, in order, in a file on a tmpfs, where SIGKILL leaves it.
 *
 * One record after the other, little-endian: "TGJ1", type (1), 3 zero bytes, inode (8), offset (8), length (8), length of the
 * name (4) and of the second name (4), then the names, then (W only) `length` bytes of data. A record that is not whole is the last one.
 *
 *   C  a file was made: inode, name             M  a folder was made: inode, name
 *   W  bytes were written: inode, offset, data  T  the size was set: inode, length
 *   R  name became name2                        U  the name of a file was removed    D  the name of a folder was removed
 *   B  a sync began: inode, offset = its number; name for a folder
 *   S  ... and worked      F  ... and failed      L  ... was a lie: it said that it worked, and nothing was done
 *   X  the power went away here, in the middle of the record before
 *
 * A record is written after the call itself has worked, and before anybody is told. So a process that is killed in between
 * has done something that nobody knows of, which power cuts undo anyway. */
#include "shim.h"

#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <fcntl.h>

static int journal = -1;

struct record {
    char magic[4];
    char type, zero[3];
    uint64_t inode, offset, length;
    uint32_t name, name2;
};
_Static_assert(sizeof(struct record) == 40, "the reader counts on it");

void journal_open(const char *path) {
    /* High enough that programs which count on getting the lowest free number do not meet it. */
    int opened = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    journal = opened < 0 ? -1 : (int)syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 500);
    if (journal >= 0)
        syscall(SYS_close, opened);
    else
        journal = opened;
    if (journal < 0)
        _exit(97);
}

void journal_write(char type, uint64_t inode, uint64_t offset, uint64_t length, const char *name, const char *name2, const void *data) {
    if (journal < 0)
        return;
    struct record record = {{'T', 'G', 'J', '1'}, type, {0, 0, 0}, inode, offset, length, 0, 0};
    record.name = name == NULL ? 0 : (uint32_t)strlen(name);
    record.name2 = name2 == NULL ? 0 : (uint32_t)strlen(name2);
    struct iovec parts[4] = {
        {&record, sizeof record},
        {(void *)name, record.name},
        {(void *)name2, record.name2},
        {(void *)data, data == NULL ? 0 : length},
    };
    size_t all = 0;
    for (int i = 0; i < 4; i++)
        all += parts[i].iov_len;
    /* A journal with a hole would judge wrongly: better no process. */
    if (syscall(SYS_writev, journal, parts, 4) != (long)all)
        _exit(98);
}
