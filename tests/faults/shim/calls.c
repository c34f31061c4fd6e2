/* A disk that fails: stands between a program and the C library (LD_PRELOAD) for the files below one folder.
 *
 * FAULTS_ROOT     the folder; without it nothing is done. Everything else in the file system stays as it is.
 * FAULTS_CONTROL  which calls fail, and how: control.c
 * FAULTS_JOURNAL  every change of a file, for the disk as it is after a power cut: journal.c; rig/disk.py makes it
 *
 * One lock is held over a call and its record, so that the order of the records is the order of the calls. A sync waits (and a delayed
 * call sleeps) without it, for a slow disk holds up who waits for it, not everybody.
 *
 * Not seen: mappings (SQLite maps its -shm file only), raw system calls, stdio (glibc calls itself), descriptors made by dup. rig/disk.py compares the
 * folder with the journal after each cut, so what is not seen would be noticed. */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { DESCRIPTORS = 1 << 20 };

static char root[PATH_MAX];
static size_t root_length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files[DESCRIPTORS];
static uint64_t syncs;

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULTS_ROOT"), *journal = getenv("FAULTS_JOURNAL");
    if (folder == NULL || realpath(folder, root) == NULL)
        return;
    control_open(getenv("FAULTS_CONTROL"));
    if (journal != NULL)
        journal_open(journal);
    root_length = strlen(root);
}

/* The path below the root, or NULL for what is none of our business. */
static const char *below(int folder, const char *path, char *buffer) {
    if (root_length == 0 || path == NULL)
        return NULL;
    if (path[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, buffer, PATH_MAX - 1);
        if (length < 0 || (size_t)length + strlen(path) + 2 > PATH_MAX)
            return NULL;
        buffer[length] = '/';
        strcpy(buffer + length + 1, path);
        path = buffer;
    }
    if (strncmp(path, root, root_length) != 0 || (path[root_length] != '/' && path[root_length] != '\0'))
        return NULL;
    path += root_length;
    while (*path == '/')
        path++;
    return path;
}

static bool is_shared_memory(const char *name) {
    size_t length = strlen(name);
    return length > 4 && strcmp(name + length - 4, "-shm") == 0;
}

static struct file *file_of(int fd) { return fd >= 0 && fd < DESCRIPTORS ? files[fd] : NULL; }

static int64_t size_of(int fd) {
    struct stat stat;
    return fstat(fd, &stat) == 0 ? stat.st_size : 0;
}

static void nap(int64_t us) {
    struct timespec rest = {us / 1000000, us % 1000000 * 1000};
    while (us > 0 && nanosleep(&rest, &rest) != 0 && errno == EINTR)
        ;
}

/* Never comes back. The lock is held, so nothing else reaches the disk. */
static void lose_power(void) {
    journal_write('X', 0, 0, 0, NULL, NULL, NULL);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

static void record(bool journaled, bool cut, char type, uint64_t inode, uint64_t offset, uint64_t length, const char *name,
                   const char *name2, const void *data) {
    if (journaled)
        journal_write(type, inode, offset, length, name, name2, data);
    if (cut)
        lose_power();
}

/* Asks the rules, and waits where they say so; comes back with the lock held. `-shm` cannot be cut: it is not on the disk. */
static struct verdict judge(unsigned op, const char *name, uint64_t inode, bool journaled, int64_t from, int64_t to, int64_t growth) {
    pthread_mutex_lock(&lock);
    struct verdict verdict = control_judge(journaled ? op : op & ~(unsigned)(OP_CREATE | OP_UNLINK), name, inode, from, to, growth);
    verdict.cut &= journaled;
    if (verdict.delay_us > 0) {
        pthread_mutex_unlock(&lock);
        nap(verdict.delay_us);
        pthread_mutex_lock(&lock);
    }
    return verdict;
}

static long done(long result) {
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static long fail(int error) {
    pthread_mutex_unlock(&lock);
    errno = error;
    return -1;
}

/* Opening and closing. */

static void remember(int fd, const char *name, int flags) {
    struct stat stat;
    struct file *file = fd < DESCRIPTORS ? calloc(1, sizeof *file) : NULL;
    if (file == NULL || fstat(fd, &stat) != 0 || strlen(name) >= sizeof file->name)
        _exit(95);
    file->inode = stat.st_ino;
    file->folder = S_ISDIR(stat.st_mode);
    file->append = (flags & O_APPEND) != 0;
    file->journaled = !is_shared_memory(name);
    strcpy(file->name, name);
    files[fd] = file;
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char buffer[PATH_MAX];
    const char *name = below(folder, path, buffer);
    if (name == NULL || (flags & O_PATH) != 0)
        return (int)syscall(SYS_openat, folder, path, flags, mode);
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) != 0;
    bool journaled = !is_shared_memory(name);
    struct stat before;
    bool makes = (flags & O_CREAT) != 0 && fstatat(folder, path, &before, 0) != 0;
    struct verdict verdict = judge(makes ? OP_OPEN | OP_CREATE : writes ? OP_OPEN : OP_OPENR, name, 0, journaled, 0, INT64_MAX, 0);
    if (verdict.error != 0)
        return (int)fail(verdict.error);
    bool shortens = !makes && (flags & O_TRUNC) != 0 && fstatat(folder, path, &before, 0) == 0;
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    if (fd < 0)
        return (int)done(fd);
    remember(fd, name, flags);
    if (makes)
        record(journaled, verdict.cut, 'C', files[fd]->inode, 0, 0, name, NULL, NULL);
    else if (shortens) {
        control_gave_back(before.st_size);
        record(journaled, verdict.cut, 'T', files[fd]->inode, 0, 0, NULL, NULL, NULL);
    }
    return (int)done(fd);
}

static mode_t mode_of(int flags, va_list more) { return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0; }

#define OPENS(name)                                 \
    int name(const char *path, int flags, ...) {    \
        va_list more;                               \
        va_start(more, flags);                      \
        mode_t mode = mode_of(flags, more);         \
        va_end(more);                               \
        return open_at(AT_FDCWD, path, flags, mode); \
    }
#define OPENS_AT(name)                                       \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more;                                        \
        va_start(more, flags);                               \
        mode_t mode = mode_of(flags, more);                  \
        va_end(more);                                        \
        return open_at(folder, path, flags, mode);           \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }

int close(int fd) {
    if (file_of(fd) != NULL) {
        pthread_mutex_lock(&lock);
        free(files[fd]);
        files[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_close, fd);
}

/* Reading and writing. `at` is -1 for the place where the descriptor is. */

static ssize_t read_at(int fd, void *bytes, size_t length, off_t at) {
    struct file *file = file_of(fd);
    if (file != NULL && !file->folder) {
        int64_t from = at >= 0 ? at : syscall(SYS_lseek, fd, 0, SEEK_CUR);
        struct verdict verdict = judge(OP_READ, file->name, file->inode, file->journaled, from, from + (int64_t)length, 0);
        pthread_mutex_unlock(&lock);
        if (verdict.error != 0) {
            errno = verdict.error;
            return -1;
        }
    }
    return at >= 0 ? syscall(SYS_pread64, fd, bytes, length, at) : syscall(SYS_read, fd, bytes, length);
}

ssize_t read(int fd, void *bytes, size_t length) { return read_at(fd, bytes, length, -1); }
ssize_t pread(int fd, void *bytes, size_t length, off_t at) { return read_at(fd, bytes, length, at); }
ssize_t pread64(int fd, void *bytes, size_t length, off64_t at) { return read_at(fd, bytes, length, at); }

static ssize_t write_at(int fd, const void *bytes, size_t length, off_t at) {
    struct file *file = file_of(fd);
    if (file == NULL)
        return at >= 0 ? syscall(SYS_pwrite64, fd, bytes, length, at) : syscall(SYS_write, fd, bytes, length);
    int64_t size = size_of(fd), from = at >= 0 ? at : file->append ? size : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    int64_t end = from + (int64_t)length;
    struct verdict verdict = judge(OP_WRITE, file->name, file->inode, file->journaled, from, end, end > size ? end - size : 0);
    if (verdict.error != 0)
        return fail(verdict.error);
    if (length > verdict.most)
        length = verdict.most;
    ssize_t written = at >= 0 ? syscall(SYS_pwrite64, fd, bytes, length, at) : syscall(SYS_write, fd, bytes, length);
    if (written >= 0)
        record(file->journaled, verdict.cut, 'W', file->inode, (uint64_t)from, (uint64_t)written, NULL, NULL, bytes);
    return done(written);
}

ssize_t write(int fd, const void *bytes, size_t length) { return write_at(fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return write_at(fd, bytes, length, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { return write_at(fd, bytes, length, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (file_of(fd) == NULL)
        return syscall(SYS_writev, fd, parts, count);
    /* The first part that has something: a short write is a right of writev. */
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len > 0)
            return write_at(fd, parts[i].iov_base, parts[i].iov_len, -1);
    return 0;
}

static int set_size(int fd, off_t size) {
    struct file *file = file_of(fd);
    if (file == NULL)
        return (int)syscall(SYS_ftruncate, fd, size);
    int64_t before = size_of(fd);
    struct verdict verdict = judge(OP_TRUNCATE, file->name, file->inode, file->journaled, size, INT64_MAX, size - before);
    if (verdict.error != 0)
        return (int)fail(verdict.error);
    int result = (int)syscall(SYS_ftruncate, fd, size);
    if (result == 0) {
        control_gave_back(before - size);
        record(file->journaled, verdict.cut, 'T', file->inode, 0, (uint64_t)size, NULL, NULL, NULL);
    }
    return (int)done(result);
}

int ftruncate(int fd, off_t size) { return set_size(fd, size); }
int ftruncate64(int fd, off64_t size) { return set_size(fd, size); }

/* Callers fall back on reading and writing, which are seen. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    if (file_of(from) == NULL && file_of(to) == NULL)
        return syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
    errno = EXDEV;
    return -1;
}

static ssize_t send_file(int to, int from, off_t *from_at, size_t length) {
    if (file_of(from) == NULL && file_of(to) == NULL)
        return syscall(SYS_sendfile, to, from, from_at, length);
    errno = EINVAL;
    return -1;
}

ssize_t sendfile(int to, int from, off_t *from_at, size_t length) { return send_file(to, from, from_at, length); }
ssize_t sendfile64(int to, int from, off64_t *from_at, size_t length) { return send_file(to, from, from_at, length); }

static int allocate(int fd, int mode, off_t from, off_t length) {
    if (file_of(fd) == NULL)
        return (int)syscall(SYS_fallocate, fd, mode, from, length);
    errno = EOPNOTSUPP;
    return -1;
}

int fallocate(int fd, int mode, off_t from, off_t length) { return allocate(fd, mode, from, length); }
int fallocate64(int fd, int mode, off64_t from, off64_t length) { return allocate(fd, mode, from, length); }
int posix_fallocate(int fd, off_t from, off_t length) { return allocate(fd, 0, from, length) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t from, off64_t length) { return allocate(fd, 0, from, length) == 0 ? 0 : errno; }

/* Syncing. What is written while it runs is not covered: the reader of the journal sees where it began. */

static int sync_file(int fd, long number) {
    struct file *file = file_of(fd);
    if (file == NULL)
        return (int)syscall(number, fd);
    pthread_mutex_lock(&lock);
    struct verdict verdict = control_judge(OP_SYNC, file->name, file->inode, 0, INT64_MAX, 0);
    uint64_t ordinal = ++syncs;
    const char *name = file->folder ? file->name : NULL;
    record(file->journaled, verdict.cut && file->journaled, 'B', file->inode, ordinal, 0, name, NULL, NULL);
    pthread_mutex_unlock(&lock);
    nap(verdict.delay_us);
    int result = verdict.error != 0 || verdict.lie ? 0 : (int)syscall(number, fd);
    char type = verdict.error != 0 || result != 0 ? 'F' : verdict.lie ? 'L' : 'S';
    pthread_mutex_lock(&lock);
    record(file->journaled, false, type, file->inode, ordinal, 0, name, NULL, NULL);
    return verdict.error != 0 ? (int)fail(verdict.error) : (int)done(result);
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

/* Names. */

static int rename_at(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
    const char *name = below(from_folder, from, from_buffer), *name2 = below(to_folder, to, to_buffer);
    if (name == NULL && name2 == NULL)
        return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (name == NULL || name2 == NULL) { /* in or out of the folder: that is another file system */
        errno = EXDEV;
        return -1;
    }
    struct verdict verdict = judge(OP_RENAME, name, 0, true, 0, INT64_MAX, 0);
    if (verdict.error != 0)
        return (int)fail(verdict.error);
    int result = (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (result == 0)
        record(!is_shared_memory(name), verdict.cut, 'R', 0, 0, 0, name, name2, NULL);
    return (int)done(result);
}

int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) { return rename_at(from_folder, from, to_folder, to, 0); }
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    return rename_at(from_folder, from, to_folder, to, flags);
}

static int remove_at(int folder, const char *path, int flags) {
    char buffer[PATH_MAX];
    const char *name = below(folder, path, buffer);
    if (name == NULL)
        return (int)syscall(SYS_unlinkat, folder, path, flags);
    bool journaled = !is_shared_memory(name);
    struct stat before;
    bool there = fstatat(folder, path, &before, AT_SYMLINK_NOFOLLOW) == 0;
    struct verdict verdict = judge(OP_UNLINK, name, 0, journaled, 0, INT64_MAX, 0);
    if (verdict.error != 0)
        return (int)fail(verdict.error);
    int result = (int)syscall(SYS_unlinkat, folder, path, flags);
    if (result == 0) {
        control_gave_back(there ? before.st_size : 0);
        record(journaled, verdict.cut, (flags & AT_REMOVEDIR) != 0 ? 'D' : 'U', 0, 0, 0, name, NULL, NULL);
    }
    return (int)done(result);
}

int unlink(const char *path) { return remove_at(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return remove_at(folder, path, flags); }
int rmdir(const char *path) { return remove_at(AT_FDCWD, path, AT_REMOVEDIR); }

static int make_at(int folder, const char *path, mode_t mode) {
    char buffer[PATH_MAX];
    const char *name = below(folder, path, buffer);
    if (name == NULL)
        return (int)syscall(SYS_mkdirat, folder, path, mode);
    struct stat stat;
    if (fstatat(folder, path, &stat, 0) == 0) { /* Linux says so even where it could not write */
        errno = EEXIST;
        return -1;
    }
    struct verdict verdict = judge(OP_CREATE, name, 0, true, 0, INT64_MAX, 0);
    if (verdict.error != 0)
        return (int)fail(verdict.error);
    int result = (int)syscall(SYS_mkdirat, folder, path, mode);
    if (result == 0 && fstatat(folder, path, &stat, 0) == 0)
        record(true, verdict.cut, 'M', stat.st_ino, 0, 0, name, NULL, NULL);
    return (int)done(result);
}

int mkdir(const char *path, mode_t mode) { return make_at(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return make_at(folder, path, mode); }
