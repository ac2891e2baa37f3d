/* Makes the n-th call of a kind fail, on files below a folder: LD_PRELOAD=faults.so.

   Built and driven by faults.py. A call counts if its path, or that of its descriptor, begins with
   the folder. Everything of the process is counted, C++ libraries as well as Python. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, READ = 2, OPEN = 4, RENAME = 8, FSYNC = 16, MKDIR = 32, RENAME_FOLDER = 64 };

static char folder[PATH_MAX];
static atomic_int kinds, at, error, keeps, count, fired;

/* Calls of these kinds are counted from now on; number `n` fails with `number`, or moves only half
   of its bytes if that is 0; with `keep` all later ones fail as well. */
void faults_arm(const char *below, int which, int n, int number, int keep) {
  strncpy(folder, below, sizeof folder - 1);
  atomic_store(&count, 0);
  atomic_store(&fired, 0);
  atomic_store(&at, n);
  atomic_store(&error, number);
  atomic_store(&keeps, keep);
  atomic_store(&kinds, which);
}

/* Ends it, and says how many calls were made to fail. */
int faults_disarm(void) {
  atomic_store(&kinds, 0);
  return atomic_load(&fired);
}

static int is_below(const char *path) {
  return path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_open_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* Whether this call is the one that fails; the caller has seen that it counts. */
static int fails(void) {
  int n = atomic_fetch_add(&count, 1) + 1;
  int hit = n == atomic_load(&at) || (atomic_load(&keeps) && n > atomic_load(&at));
  if (hit) atomic_fetch_add(&fired, 1);
  return hit;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define IS(kind) (atomic_load(&kinds) & (kind))
#define BY_PATH(kind, path) (IS(kind) && is_below(path) && fails())
#define BY_FD(kind, fd) (IS(kind) && is_open_below(fd) && fails())

#define FAIL                    \
  do {                          \
    errno = atomic_load(&error); \
    return -1;                  \
  } while (0)

#define MOVE(kind, type, name, parameters, fd, size, arguments, shorter) \
  type name parameters {                                                 \
    if (BY_FD(kind, fd)) {                                               \
      if (atomic_load(&error)) FAIL;                                     \
      if (size > 1) return NEXT(name) shorter;                           \
    }                                                                    \
    return NEXT(name) arguments;                                         \
  }

MOVE(WRITE, ssize_t, write, (int fd, const void *p, size_t n), fd, n, (fd, p, n), (fd, p, n / 2))
MOVE(WRITE, ssize_t, pwrite, (int fd, const void *p, size_t n, off_t o), fd, n, (fd, p, n, o),
     (fd, p, n / 2, o))
MOVE(WRITE, ssize_t, pwrite64, (int fd, const void *p, size_t n, off64_t o), fd, n, (fd, p, n, o),
     (fd, p, n / 2, o))
MOVE(WRITE, ssize_t, writev, (int fd, const struct iovec *v, int n), fd, n, (fd, v, n),
     (fd, v, n / 2))
MOVE(READ, ssize_t, read, (int fd, void *p, size_t n), fd, n, (fd, p, n), (fd, p, n / 2))
MOVE(READ, ssize_t, pread, (int fd, void *p, size_t n, off_t o), fd, n, (fd, p, n, o),
     (fd, p, n / 2, o))
MOVE(READ, ssize_t, pread64, (int fd, void *p, size_t n, off64_t o), fd, n, (fd, p, n, o),
     (fd, p, n / 2, o))

#define MODE                          \
  mode_t mode = 0;                    \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list more;                     \
    va_start(more, flags);            \
    mode = va_arg(more, mode_t);      \
    va_end(more);                     \
  }

#define OPENS(name)                                \
  int name(const char *path, int flags, ...) {     \
    MODE if (BY_PATH(OPEN, path)) FAIL;            \
    return NEXT(name)(path, flags, mode);          \
  }
#define OPENS_AT(name)                                  \
  int name(int fd, const char *path, int flags, ...) { \
    MODE if (BY_PATH(OPEN, path)) FAIL;                \
    return NEXT(name)(fd, path, flags, mode);          \
  }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

static int is_folder(const char *path) {
  struct stat found;
  return stat(path, &found) == 0 && S_ISDIR(found.st_mode);
}

int rename(const char *a, const char *b) {
  if (BY_PATH(RENAME, a)) FAIL;
  if (IS(RENAME_FOLDER) && is_folder(a) && BY_PATH(RENAME_FOLDER, a)) FAIL;
  return NEXT(rename)(a, b);
}
int renameat(int x, const char *a, int y, const char *b) {
  if (BY_PATH(RENAME, a)) FAIL;
  return NEXT(renameat)(x, a, y, b);
}
int renameat2(int x, const char *a, int y, const char *b, unsigned flags) {
  if (BY_PATH(RENAME, a)) FAIL;
  if (IS(RENAME_FOLDER) && is_folder(a) && BY_PATH(RENAME_FOLDER, a)) FAIL;
  return NEXT(renameat2)(x, a, y, b, flags);
}
int link(const char *a, const char *b) {
  if (BY_PATH(RENAME, a)) FAIL;
  return NEXT(link)(a, b);
}
int fsync(int fd) {
  if (BY_FD(FSYNC, fd)) FAIL;
  return NEXT(fsync)(fd);
}
int fdatasync(int fd) {
  if (BY_FD(FSYNC, fd)) FAIL;
  return NEXT(fdatasync)(fd);
}
int mkdir(const char *path, mode_t mode) {
  if (BY_PATH(MKDIR, path)) FAIL;
  return NEXT(mkdir)(path, mode);
}
