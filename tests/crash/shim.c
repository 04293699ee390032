// The fault shim: an LD_PRELOAD library that sees every libc call by which a process changes files below one directory.
//
// It counts those calls, and on request writes one line of text for each (the trace), kills the process before, in the
// middle of or after call n, lets call n fail or come up short, and keeps a journal of all that happened, bytes
// included, from which powerloss.py builds what a disk may hold after a power cut. Another process may be had look on
// before each of them. Not its job: judging anything.
//
// Invariants: one mutex orders all watched calls, so the journal's order is the true one. Only a sync runs outside the
// mutex, as two journal entries (begun, ended), since writes may land while it runs. A kill is sent under the
// mutex: no watched call and no mark of another thread can follow it. Writes through mmap, io_uring or stdio are not
// seen: Journal.whole() in powerloss.py finds them by comparing a full replay with the directory. Any thread may call
// anything; crash_start once per process, by the thread that runs the program.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault { NONE, KILL, KILL_HALF, KILL_AFTER, FAIL, SHORT };
enum op { START, MARK, CREATE, MKDIR, WRITE, TRUNCATE, GROW, SYNC, ENDED, RENAME, UNLINK, LINK, SYMLINK };
enum traits { PLAIN = 0, IS_WRITE = 1, NEEDS_ROOM = 2 };
enum action { PASS, RUN, REFUSE, HALF };

// Shared with the harness's process, so that it outlives a kill. Field order: as in server.py.
struct board {
    int64_t calls, submitted, acked, accepted, fired, unsupported;
    char call[512];
};

// An entry of the journal; path, path2 and data follow. Field order: as in powerloss.py.
struct entry {
    uint32_t op, dsync, path_len, path2_len;
    int64_t call, thread, ino, offset, result;
    uint64_t data_len;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct board* board;
static char root[PATH_MAX];
static size_t root_len;
static int fault, fault_errno, sticky, sync_delay_us;
static int64_t fault_at;
static int trace_fd = -1, journal_fd = -1, onlooker_fd = -1;

static int below_root(const char* path) {
    return strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == 0);
}

static const char* inside(const char* path) { return path[root_len] ? path + root_len + 1 : ""; }

static int watched_fd(int fd, char* path) {
    if (!board || fd < 0) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    return n > 0 && below_root(path);
}

// The last component is not followed: it may not exist yet.
static int watched_path(int dirfd, const char* path, char* full) {
    if (!board || !path || !*path) return 0;
    char joined[2 * PATH_MAX], parent[PATH_MAX];
    if (path[0] == '/' || dirfd == AT_FDCWD) {
        snprintf(joined, sizeof joined, "%s", path);
    } else {
        char link[64], at[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, at, sizeof at - 1);
        if (n < 0) return 0;
        at[n] = 0;
        snprintf(joined, sizeof joined, "%s/%s", at, path);
    }
    for (size_t n = strlen(joined); n > 1 && joined[n - 1] == '/'; --n) joined[n - 1] = 0;
    char *slash = strrchr(joined, '/'), *name = slash ? slash + 1 : joined;
    if (slash) *slash = 0;
    if (!realpath(slash ? (*joined ? joined : "/") : ".", parent)) return 0;
    int n = snprintf(full, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", name);
    return n < PATH_MAX && below_root(full);
}

static int64_t inode(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? (int64_t)st.st_ino : -1;
}

static void put_all(int fd, const void* data, size_t n) {
    for (const char* p = data; n;) {
        ssize_t r = syscall(SYS_write, fd, p, n);
        if (r < 0) abort();
        p += r, n -= (size_t)r;
    }
}

static void journal(struct entry e, const char* path, const char* path2, const struct iovec* iov, int count) {
    if (journal_fd < 0) return;
    e.call = board->calls, e.thread = syscall(SYS_gettid);
    e.path_len = path ? (uint32_t)strlen(path) : 0, e.path2_len = path2 ? (uint32_t)strlen(path2) : 0;
    put_all(journal_fd, &e, sizeof e);
    put_all(journal_fd, path, e.path_len);
    put_all(journal_fd, path2, e.path2_len);
    size_t left = e.data_len;
    for (int i = 0; i < count && left; ++i) {
        size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;
        put_all(journal_fd, iov[i].iov_base, n);
        left -= n;
    }
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

// Another process looks at the files as they are before this call; the call waits for it.
static void have_looked(void) {
    char byte = '?';
    if (onlooker_fd < 0) return;
    if (syscall(SYS_write, onlooker_fd, &byte, 1) != 1 || syscall(SYS_read, onlooker_fd, &byte, 1) != 1) abort();
}

// Counts a call and says what becomes of it. Sticky: all later calls fail, after a SHORT too. The mutex is held by the
// caller, before and after.
static enum action count(const char* name, const char* path, int64_t offset, int64_t len, int traits) {
    int64_t n = ++board->calls;
    char line[512];
    int size = snprintf(line, sizeof line, "%lld %s %.300s offset=%lld len=%lld%s%s\n", (long long)n, name,
                        inside(path), (long long)offset, (long long)len, traits & IS_WRITE ? " write" : "",
                        traits & NEEDS_ROOM ? " room" : "");
    if (trace_fd >= 0) put_all(trace_fd, line, (size_t)size);
    have_looked();
    int again = sticky && board->fired;
    if (!(n == fault_at || again) || fault == NONE) return RUN;
    int fail = fault == FAIL || again;
    if (fail && fault_errno == ENOSPC && !(traits & NEEDS_ROOM)) return RUN;
    if (!fail && fault == SHORT && !(traits & IS_WRITE)) return RUN;
    if (!board->fired) memcpy(board->call, line, (size_t)size - 1);
    board->fired = 1;
    if (fault == KILL || (fault == KILL_HALF && !(traits & IS_WRITE))) die();
    if (fail) {
        errno = fault_errno;
        return REFUSE;
    }
    return fault == KILL_AFTER ? RUN : HALF;
}

static void leave(void) {
    if (board->calls == fault_at && board->fired && (fault == KILL_HALF || fault == KILL_AFTER)) die();
    int e = errno;
    pthread_mutex_unlock(&mutex);
    errno = e;
}

static ssize_t raw_write(int fd, const struct iovec* iov, int n, int64_t offset) {
    if (offset < 0) return syscall(SYS_writev, fd, iov, n);
    return syscall(SYS_pwritev, fd, iov, n, (unsigned long)offset, (unsigned long)((uint64_t)offset >> 32));
}

static ssize_t put(const char* name, int fd, const struct iovec* iov, int n, int64_t offset) {
    char path[PATH_MAX];
    if (!watched_fd(fd, path)) return raw_write(fd, iov, n, offset);
    size_t len = 0;
    for (int i = 0; i < n; ++i) len += iov[i].iov_len;
    pthread_mutex_lock(&mutex);
    int flags = fcntl(fd, F_GETFL);
    struct stat st = {0};
    fstat(fd, &st);
    int64_t at = flags & O_APPEND ? st.st_size : offset >= 0 ? offset : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    enum action act = count(name, path, at, (int64_t)len, IS_WRITE | NEEDS_ROOM);
    ssize_t r = -1;
    if (act == HALF && len > 1) {
        struct iovec cut[n];
        size_t left = len / 2;
        for (int i = 0; i < n; ++i) {
            cut[i] = iov[i];
            if (cut[i].iov_len > left) cut[i].iov_len = left;
            left -= cut[i].iov_len;
        }
        r = raw_write(fd, cut, n, offset);
    } else if (act != REFUSE) {
        r = raw_write(fd, iov, n, offset);
    }
    if (r > 0 && st.st_nlink > 0) {  // a file without a name is gone after a crash
        struct entry e = {
            .op = WRITE, .dsync = (flags & O_DSYNC) != 0, .ino = inode(fd), .offset = at, .data_len = (uint64_t)r};
        journal(e, inside(path), NULL, iov, n);
        if (e.dsync) journal((struct entry){.op = ENDED, .result = 0, .offset = board->calls}, NULL, NULL, NULL, 0);
    }
    leave();
    return r;
}

static int sync_fd(const char* name, long number, int fd) {
    char path[PATH_MAX];
    if (!watched_fd(fd, path)) return (int)syscall(number, fd);
    pthread_mutex_lock(&mutex);
    enum action act = count(name, path, 0, 0, NEEDS_ROOM);
    int64_t token = board->calls;
    journal((struct entry){.op = SYNC, .ino = inode(fd)}, inside(path), NULL, NULL, 0);
    int r = -1, e = errno;
    if (act != REFUSE) {
        pthread_mutex_unlock(&mutex);
        if (sync_delay_us) usleep((useconds_t)sync_delay_us);
        r = (int)syscall(number, fd);
        e = errno;
        pthread_mutex_lock(&mutex);
    }
    journal((struct entry){.op = ENDED, .result = r, .offset = token}, NULL, NULL, NULL, 0);
    if (fault == KILL_AFTER && token == fault_at) die();
    pthread_mutex_unlock(&mutex);
    errno = e;
    return r;
}

static int open_at(const char* name, int dirfd, const char* path, int flags, mode_t mode) {
    char full[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !watched_path(dirfd, path, full))
        return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) board->unsupported = 1;
    pthread_mutex_lock(&mutex);
    struct stat st;
    int there = stat(full, &st) == 0;
    int changes = there ? (flags & O_TRUNC) && st.st_size && !(flags & O_EXCL) : (flags & O_CREAT) != 0;
    enum action act = changes ? count(name, full, 0, flags, there ? PLAIN : NEEDS_ROOM) : RUN;
    int fd = act == REFUSE ? -1 : (int)syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= 0 && changes)
        journal((struct entry){.op = there ? TRUNCATE : CREATE, .ino = inode(fd)}, inside(full), NULL, NULL, 0);
    if (changes)
        leave();
    else
        pthread_mutex_unlock(&mutex);
    return fd;
}

static int set_size(const char* name, int fd, const char* path, int64_t size) {
    char full[PATH_MAX];
    int watched = path ? watched_path(AT_FDCWD, path, full) : watched_fd(fd, full);
    if (!watched) return (int)(path ? syscall(SYS_truncate, path, size) : syscall(SYS_ftruncate, fd, size));
    pthread_mutex_lock(&mutex);
    int r = -1;
    if (count(name, full, size, 0, NEEDS_ROOM) != REFUSE)
        r = (int)(path ? syscall(SYS_truncate, path, size) : syscall(SYS_ftruncate, fd, size));
    struct stat st = {0};
    if (r == 0 && (path ? stat(full, &st) : fstat(fd, &st)) == 0)
        journal((struct entry){.op = TRUNCATE, .ino = (int64_t)st.st_ino, .offset = size}, inside(full), NULL, NULL, 0);
    leave();
    return r;
}

static int allocate(const char* name, int fd, int mode, int64_t offset, int64_t len) {
    char path[PATH_MAX];
    if (!watched_fd(fd, path)) return (int)syscall(SYS_fallocate, fd, mode, offset, len);
    pthread_mutex_lock(&mutex);
    int r = -1;
    if (count(name, path, offset, len, NEEDS_ROOM) != REFUSE) r = (int)syscall(SYS_fallocate, fd, mode, offset, len);
    if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE) board->unsupported = 1;
    if (r == 0 && mode == 0)
        journal((struct entry){.op = GROW, .ino = inode(fd), .offset = offset + len}, inside(path), NULL, NULL, 0);
    leave();
    return r;
}

// All calls that change directories, and chmod: one or two paths, five arguments at most.
static int change(const char* name, enum op op, long number, int dir1, const char* path1, int dir2, const char* path2,
                  long last, int traits) {
    char full1[PATH_MAX] = "", full2[PATH_MAX] = "";
    int one = op != SYMLINK && watched_path(dir1, path1, full1), two = path2 && watched_path(dir2, path2, full2);
    int watched = one || two;
    enum action act = RUN;
    if (watched) {
        pthread_mutex_lock(&mutex);
        act = count(name, one ? full1 : full2, 0, 0, traits);
        if ((op == RENAME && (last & ~1L)) || (path2 && op != SYMLINK && one != two)) board->unsupported = 1;
    }
    int r = -1;
    if (act != REFUSE) {
        if (number == SYS_symlinkat)
            r = (int)syscall(number, path1, dir2, path2);
        else if (path2)
            r = (int)syscall(number, dir1, path1, dir2, path2, last);
        else
            r = (int)syscall(number, dir1, path1, last);
    }
    if (!watched) return r;
    struct stat st = {0};
    if (r == 0 && (op == MKDIR || op == SYMLINK)) lstat(op == MKDIR ? full1 : full2, &st);
    if (r == 0 && op != MARK)
        journal((struct entry){.op = op, .ino = (int64_t)st.st_ino}, one ? inside(full1) : path1,
                two ? inside(full2) : NULL, NULL, 0);
    leave();
    return r;
}

#define CWD AT_FDCWD
#include "shim_calls.h"

// What the program under test and the harness call by ctypes.
void crash_start(struct board* shared, const char* dir, int kind, int64_t at, int error, int keep_failing,
                 const char* trace, const char* journal_path, int delay_us) {
    if (!realpath(dir, root)) abort();
    root_len = strlen(root);
    fault = kind, fault_at = at, fault_errno = error, sticky = keep_failing, sync_delay_us = delay_us;
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    if (*trace) trace_fd = (int)syscall(SYS_openat, AT_FDCWD, trace, flags, 0600);
    if (*journal_path) journal_fd = (int)syscall(SYS_openat, AT_FDCWD, journal_path, flags, 0600);
    board = shared;
    journal((struct entry){.op = START}, NULL, NULL, NULL, 0);
}

// From here on a byte on `fd` asks another process to look before every call, and the call waits for one in return.
void crash_onlooker(int fd) {
    pthread_mutex_lock(&mutex);
    onlooker_fd = fd;
    pthread_mutex_unlock(&mutex);
}

// Up to event n all was: 0 submitted, 1 acknowledged, 2 acknowledged as safe from a kill, not from power loss. None of
// the three ever falls.
void crash_mark(int kind, int64_t n) {
    if (!board) return;
    pthread_mutex_lock(&mutex);
    int64_t* mark = kind == 0 ? &board->submitted : kind == 1 ? &board->acked : &board->accepted;
    if (n > *mark) *mark = n;
    if (kind != 2) journal((struct entry){.op = MARK, .result = kind, .offset = n}, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&mutex);
}
