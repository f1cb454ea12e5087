/*
 * Calls what takes a path, once for each argument: `CALL:PATH` or `CALL:PATH:OTHER`. Each prints a line with what came of it. Built as
 * wasm and for this machine, so that the lines of both can be compared.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *name_of(int error) {
    switch (error) {
    case EACCES: return "EACCES";
    case EBADF: return "EBADF";
    case EEXIST: return "EEXIST";
    case EINVAL: return "EINVAL";
    case EISDIR: return "EISDIR";
    case ELOOP: return "ELOOP";
    case ENOENT: return "ENOENT";
    case ENOSYS: return "ENOSYS";
    case ENOTDIR: return "ENOTDIR";
    case ENOTEMPTY: return "ENOTEMPTY";
    case EPERM: return "EPERM";
    case EROFS: return "EROFS";
    case EXDEV: return "EXDEV";
    case EBUSY: return "EBUSY";
#ifdef ENOTCAPABLE
    case ENOTCAPABLE: return "ENOTCAPABLE";
#endif
    default: return strerror(error);
    }
}

static void said(int result) {
    puts(result == 0 ? "ok" : name_of(errno));
}

static void first_line(int file) {
    char text[256];
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (length < 0) {
        puts(name_of(errno));
    } else {
        text[length] = '\0';
        text[strcspn(text, "\n")] = '\0';
        puts(text);
    }
    if (file >= 0) {
        close(file);
    }
}

static void put(int file, const char *text) {
    if (file < 0 || write(file, text, strlen(text)) < 0) {
        puts(name_of(errno));
    } else {
        puts("ok");
    }
    if (file >= 0) {
        close(file);
    }
}

static void kind(const char *path, int (*look)(const char *, struct stat *)) {
    struct stat found;
    if (look(path, &found) != 0) {
        puts(name_of(errno));
    } else {
        puts(S_ISDIR(found.st_mode) ? "folder" : S_ISREG(found.st_mode) ? "file" : S_ISLNK(found.st_mode) ? "link" : "other");
    }
}

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list(const char *path) {
    DIR *folder = opendir(path);
    if (folder == NULL) {
        puts(name_of(errno));
        return;
    }
    char *names[64];
    size_t count = 0;
    for (struct dirent *entry; count < 64 && (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            names[count++] = strdup(entry->d_name);
        }
    }
    closedir(folder);
    qsort(names, count, sizeof *names, compare);
    for (size_t i = 0; i < count; i++) {
        printf("%s%s", i == 0 ? "" : " ", names[i]);
    }
    puts("");
}

static void read_link(const char *path) {
    char target[256];
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length < 0) {
        puts(name_of(errno));
    } else {
        printf("%.*s\n", (int)length, target);
    }
}

#ifdef __wasi__
#include <wasi/api.h>

static int opened(__wasi_fd_t folder, const char *path) {
    __wasi_fd_t file;
    __wasi_errno_t error = __wasi_path_open(folder, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, path, 0, __WASI_RIGHTS_FD_READ,
                                            __WASI_RIGHTS_FD_READ, 0, &file);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return (int)file;
}

/* Opens a path as it is in the first folder, as libraries do that have no list of folders (AssemblyScript, Zig without libc). */
static int open_in_first(const char *path) {
    return opened(3, path);
}

/* Opens a path as Go's library does: absolute by PWD, in the folder with the longest name that it begins with. */
static int open_by_pwd(const char *path) {
    char whole[512], name[256];
    const char *pwd = getenv("PWD");
    snprintf(whole, sizeof whole, "%s%s%s", path[0] == '/' ? "" : pwd == NULL ? "" : pwd, path[0] == '/' ? "" : "/", path);
    __wasi_fd_t best = 0;
    size_t longest = 0;
    __wasi_prestat_t given;
    for (__wasi_fd_t fd = 3; __wasi_fd_prestat_get(fd, &given) == 0; fd++) {
        size_t length = given.u.dir.pr_name_len;
        if (length >= sizeof name || __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, length) != 0) {
            continue;
        }
        if (length > longest && strncmp(whole, name, length) == 0) {
            longest = length;
            best = fd;
        }
    }
    const char *rest = whole + longest + strspn(whole + longest, "/");
    return opened(best, *rest == '\0' ? "." : rest);
}
#else
static int open_in_first(const char *path) {
    return open(path, O_RDONLY);
}

static int open_by_pwd(const char *path) {
    return open(path, O_RDONLY);
}
#endif

static void call(const char *name, const char *path, const char *other) {
    if (strcmp(name, "read") == 0) {
        first_line(open(path, O_RDONLY));
    } else if (strcmp(name, "first") == 0) {
        first_line(open_in_first(path));
    } else if (strcmp(name, "pwd") == 0) {
        first_line(open_by_pwd(path));
    } else if (strcmp(name, "write") == 0) {
        put(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), other);
    } else if (strcmp(name, "new") == 0) {
        put(open(path, O_WRONLY | O_CREAT | O_EXCL, 0644), other);
    } else if (strcmp(name, "nofollow") == 0) {
        first_line(open(path, O_RDONLY | O_NOFOLLOW));
    } else if (strcmp(name, "below") == 0 || strcmp(name, "new-below") == 0) {
        int folder = open(path, O_RDONLY | O_DIRECTORY);
        if (folder < 0) {
            puts(name_of(errno));
        } else if (name[0] == 'b') {
            first_line(openat(folder, other, O_RDONLY));
        } else {
            said(mkdirat(folder, other, 0755));
        }
        if (folder >= 0) {
            close(folder);
        }
    } else if (strcmp(name, "stat") == 0) {
        kind(path, stat);
    } else if (strcmp(name, "lstat") == 0) {
        kind(path, lstat);
    } else if (strcmp(name, "list") == 0) {
        list(path);
    } else if (strcmp(name, "mkdir") == 0) {
        said(mkdir(path, 0755));
    } else if (strcmp(name, "rmdir") == 0) {
        said(rmdir(path));
    } else if (strcmp(name, "unlink") == 0) {
        said(unlink(path));
    } else if (strcmp(name, "rename") == 0) {
        said(rename(path, other));
    } else if (strcmp(name, "link") == 0) {
        said(link(path, other));
    } else if (strcmp(name, "symlink") == 0) {
        said(symlink(path, other));
    } else if (strcmp(name, "readlink") == 0) {
        read_link(path);
    } else if (strcmp(name, "touch") == 0) {
        said(utimensat(AT_FDCWD, path, NULL, 0));
    } else if (strcmp(name, "cwd") == 0) {
        char folder[256];
        puts(getcwd(folder, sizeof folder) == NULL ? name_of(errno) : folder);
    } else if (strcmp(name, "env") == 0) {
        const char *value = getenv(path);
        puts(value == NULL ? "not set" : value);
    } else if (strcmp(name, "chdir") == 0) {
        said(chdir(path));
    } else {
        puts("no such call");
    }
}

int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        char *text = strdup(words[i]);
        char *name = strtok(text, ":");
        char *path = strtok(NULL, ":");
        char *other = strtok(NULL, ":");
        printf("%s = ", words[i]);
        call(name, path == NULL ? "" : path, other == NULL ? "" : other);
        fflush(stdout);
        free(text);
    }
    return 0;
}
