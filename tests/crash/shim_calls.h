// The libc names that shim.c takes over, each led to one of its few functions. Included by shim.c alone.
// copy_file_range and sendfile into a watched file are refused, which callers take as "copy it yourself". Not here:
// sync_file_range, which promises nothing about durability; msync, since stores into a mapping cannot be seen anyway.

#define OPENER(name)                                                            \
    int name(const char* path, int flags, ...) {                                \
        va_list args;                                                           \
        va_start(args, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0; \
        va_end(args);                                                           \
        return open_at("open", CWD, path, flags, mode);                         \
    }
#define OPENER_AT(name)                                                         \
    int name(int dir, const char* path, int flags, ...) {                       \
        va_list args;                                                           \
        va_start(args, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0; \
        va_end(args);                                                           \
        return open_at("openat", dir, path, flags, mode);                       \
    }
OPENER(open)
OPENER(open64)
OPENER_AT(openat)
OPENER_AT(openat64)
int __open_2(const char* path, int flags) { return open_at("open", CWD, path, flags, 0); }
int __open64_2(const char* path, int flags) { return open_at("open", CWD, path, flags, 0); }
int __openat_2(int dir, const char* path, int flags) { return open_at("openat", dir, path, flags, 0); }
int __openat64_2(int dir, const char* path, int flags) { return open_at("openat", dir, path, flags, 0); }
int creat(const char* path, mode_t mode) { return open_at("creat", CWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char* path, mode_t mode) { return open_at("creat", CWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

#define ONE(data, n) (&(struct iovec){(void*)(data), n}), 1
ssize_t write(int fd, const void* data, size_t n) { return put("write", fd, ONE(data, n), -1); }
ssize_t writev(int fd, const struct iovec* iov, int n) { return put("writev", fd, iov, n, -1); }
ssize_t pwrite(int fd, const void* data, size_t n, off_t at) { return put("pwrite", fd, ONE(data, n), at); }
ssize_t pwrite64(int fd, const void* data, size_t n, off64_t at) { return put("pwrite", fd, ONE(data, n), at); }
ssize_t pwritev(int fd, const struct iovec* iov, int n, off_t at) { return put("pwritev", fd, iov, n, at); }
ssize_t pwritev64(int fd, const struct iovec* iov, int n, off64_t at) { return put("pwritev", fd, iov, n, at); }
// A negative offset means the current one here too. Flags are rare: passed on, but the run is then not to be trusted.
ssize_t pwritev2(int fd, const struct iovec* iov, int n, off_t at, int flags) {
    if (!flags) return put(at < 0 ? "writev" : "pwritev", fd, iov, n, at);
    if (board) board->unsupported = 1;
    return syscall(SYS_pwritev2, fd, iov, n, (unsigned long)at, (unsigned long)((uint64_t)at >> 32), flags);
}
ssize_t pwritev64v2(int fd, const struct iovec* iov, int n, off64_t at, int flags) {
    return pwritev2(fd, iov, n, at, flags);
}

int fsync(int fd) { return sync_fd("fsync", SYS_fsync, fd); }
int fdatasync(int fd) { return sync_fd("fdatasync", SYS_fdatasync, fd); }
int ftruncate(int fd, off_t size) { return set_size("ftruncate", fd, NULL, size); }
int ftruncate64(int fd, off64_t size) { return set_size("ftruncate", fd, NULL, size); }
int truncate(const char* path, off_t size) { return set_size("truncate", -1, path, size); }
int truncate64(const char* path, off64_t size) { return set_size("truncate", -1, path, size); }
int fallocate(int fd, int mode, off_t at, off_t n) { return allocate("fallocate", fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { return allocate("fallocate", fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) { return allocate("posix_fallocate", fd, 0, at, n) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t n) { return allocate("posix_fallocate", fd, 0, at, n) ? errno : 0; }

int renameat2(int d1, const char* from, int d2, const char* to, unsigned flags) {
    return change("rename", RENAME, SYS_renameat2, d1, from, d2, to, flags, NEEDS_ROOM);
}
int renameat(int d1, const char* from, int d2, const char* to) { return renameat2(d1, from, d2, to, 0); }
int rename(const char* from, const char* to) { return renameat2(CWD, from, CWD, to, 0); }
int unlinkat(int dir, const char* path, int flags) {
    return change(flags ? "rmdir" : "unlink", UNLINK, SYS_unlinkat, dir, path, 0, NULL, flags, PLAIN);
}
int unlink(const char* path) { return unlinkat(CWD, path, 0); }
int rmdir(const char* path) { return unlinkat(CWD, path, AT_REMOVEDIR); }
int remove(const char* path) {
    struct stat st;
    return unlinkat(CWD, path, lstat(path, &st) == 0 && S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
}
int mkdirat(int dir, const char* path, mode_t mode) {
    return change("mkdir", MKDIR, SYS_mkdirat, dir, path, 0, NULL, mode, NEEDS_ROOM);
}
int mkdir(const char* path, mode_t mode) { return mkdirat(CWD, path, mode); }
int linkat(int d1, const char* from, int d2, const char* to, int flags) {
    return change("link", LINK, SYS_linkat, d1, from, d2, to, flags, NEEDS_ROOM);
}
int link(const char* from, const char* to) { return linkat(CWD, from, CWD, to, 0); }
int symlinkat(const char* target, int dir, const char* path) {
    return change("symlink", SYMLINK, SYS_symlinkat, CWD, target, dir, path, 0, NEEDS_ROOM);
}
int symlink(const char* target, const char* path) { return symlinkat(target, CWD, path); }
// Modes are not part of what a power cut is modelled on: MARK as the kind keeps them out of the journal.
int chmod(const char* path, mode_t mode) {
    return change("chmod", MARK, SYS_fchmodat, CWD, path, 0, NULL, mode, PLAIN);
}
int fchmod(int fd, mode_t mode) {
    char path[PATH_MAX];
    if (!watched_fd(fd, path)) return (int)syscall(SYS_fchmod, fd, mode);
    pthread_mutex_lock(&mutex);
    int r = count("fchmod", path, 0, 0, PLAIN) == REFUSE ? -1 : (int)syscall(SYS_fchmod, fd, mode);
    leave();
    return r;
}

static int refuse_copy(int out) {
    char path[PATH_MAX];
    if (!watched_fd(out, path)) return 0;
    errno = EINVAL;
    return 1;
}
ssize_t copy_file_range(int in, off64_t* at_in, int out, off64_t* at_out, size_t n, unsigned flags) {
    return refuse_copy(out) ? -1 : syscall(SYS_copy_file_range, in, at_in, out, at_out, n, flags);
}
ssize_t sendfile(int out, int in, off_t* at, size_t n) {
    return refuse_copy(out) ? -1 : syscall(SYS_sendfile, out, in, at, n);
}
ssize_t sendfile64(int out, int in, off64_t* at, size_t n) { return sendfile(out, in, at, n); }
