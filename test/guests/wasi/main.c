/*
 * Cases of WASI preview 1. What each of them checks is what the public test suite of WASI checks under the same name; the
 * first argument says which one is to run, and 0 is the exit code when all was as it should be.
 */

#include "suite.h"

fd_t root;

void suite_one_of(__wasi_errno_t found, const __wasi_errno_t *known, size_t length, const char *file, int line, const char *call) {
    for (size_t i = 0; i < length; i++) {
        if (known[i] == found) {
            return;
        }
    }
    fprintf(stderr, "%s:%d: %s gives %d, not", file, line, call, found);
    for (size_t i = 0; i < length; i++) {
        fprintf(stderr, " %d", known[i]);
    }
    fprintf(stderr, "\n");
    exit(1);
}

__wasi_errno_t open_at(fd_t folder, const char *path, int flags, fd_t *fd) {
    __wasi_rights_t rights = 0, of_folders = __WASI_RIGHTS_FD_READDIR | __WASI_RIGHTS_PATH_OPEN | __WASI_RIGHTS_PATH_CREATE_FILE
        | __WASI_RIGHTS_PATH_CREATE_DIRECTORY | __WASI_RIGHTS_PATH_FILESTAT_GET | __WASI_RIGHTS_PATH_UNLINK_FILE
        | __WASI_RIGHTS_PATH_REMOVE_DIRECTORY | __WASI_RIGHTS_PATH_RENAME_SOURCE | __WASI_RIGHTS_PATH_RENAME_TARGET
        | __WASI_RIGHTS_PATH_READLINK | __WASI_RIGHTS_PATH_SYMLINK | __WASI_RIGHTS_PATH_LINK_SOURCE | __WASI_RIGHTS_PATH_LINK_TARGET;
    if (flags & FOLDER) {
        rights |= of_folders;
    } else {
        rights |= __WASI_RIGHTS_FD_SEEK | __WASI_RIGHTS_FD_TELL | __WASI_RIGHTS_FD_FDSTAT_SET_FLAGS | __WASI_RIGHTS_FD_ADVISE
            | __WASI_RIGHTS_FD_FILESTAT_SET_TIMES | __WASI_RIGHTS_POLL_FD_READWRITE;
    }
    rights |= __WASI_RIGHTS_FD_FILESTAT_GET;
    if (flags & WRITE_SIZE) {
        rights |= __WASI_RIGHTS_PATH_FILESTAT_SET_SIZE;
    }
    if (flags & READ) {
        rights |= __WASI_RIGHTS_FD_READ;
    }
    if (flags & WRITE) {
        rights |= __WASI_RIGHTS_FD_WRITE | __WASI_RIGHTS_FD_FILESTAT_SET_SIZE | __WASI_RIGHTS_FD_ALLOCATE | __WASI_RIGHTS_FD_SYNC
            | __WASI_RIGHTS_FD_DATASYNC;
    }
    __wasi_oflags_t how = 0;
    how |= flags & CREATE ? __WASI_OFLAGS_CREAT : 0;
    how |= flags & EXCLUSIVE ? __WASI_OFLAGS_EXCL : 0;
    how |= flags & TRUNCATE ? __WASI_OFLAGS_TRUNC : 0;
    how |= flags & FOLDER ? __WASI_OFLAGS_DIRECTORY : 0;
    __wasi_lookupflags_t look = flags & FOLLOW ? __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW : 0;
    /* What is opened in a folder may be all that may be in the root. */
    static __wasi_fdstat_t all;
    OK(__wasi_fd_fdstat_get(root, &all));
    __wasi_rights_t inherited = flags & FOLDER ? all.fs_rights_inheriting : 0;
    return __wasi_path_open(folder, look, path, how, rights, inherited, flags & APPEND ? __WASI_FDFLAGS_APPEND : 0, fd);
}

fd_t opened(fd_t folder, const char *path, int flags) {
    fd_t fd = 0;
    OK(open_at(folder, path, flags, &fd));
    EXPECT(fd > 3);
    return fd;
}

void make_file(const char *path, const char *text) {
    fd_t fd = opened(root, path, READ | WRITE | CREATE | EXCLUSIVE);
    put(fd, text);
    OK(__wasi_fd_close(fd));
}

void make_folder(const char *path) {
    OK(__wasi_path_create_directory(root, path));
}

void make_link(const char *target, const char *path) {
    OK(__wasi_path_symlink(target, root, path));
}

void put(fd_t fd, const char *text) {
    while (*text) {
        __wasi_ciovec_t part = { (const uint8_t *)text, strlen(text) };
        __wasi_size_t written = 0;
        OK(__wasi_fd_write(fd, &part, 1, &written));
        EXPECT(written > 0 && written <= strlen(text));
        text += written;
    }
}

const char *get(fd_t fd) {
    static char text[256];
    __wasi_iovec_t part = { (uint8_t *)text, sizeof text - 1 };
    __wasi_size_t length = 0;
    OK(__wasi_fd_read(fd, &part, 1, &length));
    text[length] = 0;
    return text;
}

stat_t stat_of(const char *path, int follow) {
    stat_t stat;
    OK(__wasi_path_filestat_get(root, follow ? __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW : 0, path, &stat));
    return stat;
}

/* Descriptors 0 to 2 are streams; folders follow. */
static void find_root(void) {
    for (fd_t fd = 3;; fd++) {
        __wasi_prestat_t stat;
        if (__wasi_fd_prestat_get(fd, &stat) != 0) {
            break;
        }
        uint8_t name[2] = { 0 };
        if (stat.u.dir.pr_name_len == 1 && __wasi_fd_prestat_dir_name(fd, name, 1) == 0 && name[0] == '/') {
            root = fd;
        }
    }
    EXPECT(root >= 3);
}

int main(int argc, char **argv) {
    const struct suite_case *lists[] = { process_cases, file_cases, path_cases };
    EXPECT(argc > 1);
    find_root();
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (const struct suite_case *one = lists[i]; one->name; one++) {
            if (strcmp(one->name, argv[1]) == 0) {
                one->run(argc - 2, argv + 2);
                return 0;
            }
        }
    }
    fprintf(stderr, "there is no case %s\n", argv[1]);
    return 64;
}
