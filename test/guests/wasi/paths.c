/* Paths, links and what is done to names. */

#include "suite.h"

#define CASE(name) static void name(int argc, char **argv)
#define UNUSED (void)argc, (void)argv

CASE(path_open_missing) {
    UNUSED;
    fd_t fd;
    FAILS(open_at(root, "file", READ, &fd), E(NOENT));
    FAILS(open_at(root, "folder/file", READ | WRITE | CREATE, &fd), E(NOENT));
}

CASE(path_open_create_existing) {
    UNUSED;
    make_file("file", "text");
    fd_t fd;
    FAILS(open_at(root, "file", READ | WRITE | CREATE | EXCLUSIVE, &fd), E(EXIST));
    fd = opened(root, "file", READ | CREATE);
    EXPECT(strcmp(get(fd), "text") == 0);
}

CASE(path_open_dirfd_not_dir) {
    UNUSED;
    make_file("file", "text");
    fd_t file = opened(root, "file", READ), fd;
    FAILS(open_at(file, "foo", READ, &fd), E(NOTDIR), E(NOTCAPABLE), E(BADF));
    FAILS(open_at(root, "file", FOLDER, &fd), E(NOTDIR));
    FAILS(open_at(root, "file/foo", READ, &fd), E(NOTDIR));
    FAILS(open_at(100, "file", READ, &fd), E(BADF));
}

CASE(path_open_read_write) {
    UNUSED;
    make_file("file", "text");
    fd_t reader = opened(root, "file", READ), writer = opened(root, "file", WRITE), both = opened(root, "file", READ | WRITE);
    uint8_t bytes[8];
    __wasi_size_t length = 0;
    __wasi_iovec_t in = { bytes, sizeof bytes };
    __wasi_ciovec_t out = { (const uint8_t *)"TE", 2 };
    FAILS(__wasi_fd_write(reader, &out, 1, &length), E(BADF), E(NOTCAPABLE), E(PERM));
    FAILS(__wasi_fd_read(writer, &in, 1, &length), E(BADF), E(NOTCAPABLE), E(PERM));
    OK(__wasi_fd_write(writer, &out, 1, &length));
    OK(__wasi_fd_read(reader, &in, 1, &length));
    EXPECT(length == 4 && memcmp(bytes, "TExt", 4) == 0);
    put(both, "--");
    EXPECT(strcmp(get(both), "xt") == 0);
}

CASE(path_open_preopen) {
    UNUSED;
    make_file("file", "text");
    fd_t fd = opened(root, ".", FOLDER);
    EXPECT(opened(fd, "file", READ) != fd);
    fd = opened(root, ".", FOLDER | READ);
    FAILS(open_at(root, ".", READ | WRITE | TRUNCATE, &fd), E(ISDIR), E(INVAL), E(NOTCAPABLE));
}

CASE(path_open_nonblock) {
    UNUSED;
    fd_t fd;
    OK(__wasi_path_open(root, 0, ".", 0, 0, 0, __WASI_FDFLAGS_NONBLOCK, &fd));
    OK(__wasi_fd_close(fd));
}

CASE(path_exists) {
    UNUSED;
    make_folder("folder");
    make_file("file", "");
    EXPECT(stat_of("folder", 0).filetype == __WASI_FILETYPE_DIRECTORY && stat_of("folder", 1).filetype == __WASI_FILETYPE_DIRECTORY);
    EXPECT(stat_of("file", 0).filetype == __WASI_FILETYPE_REGULAR_FILE && stat_of("file", 1).filetype == __WASI_FILETYPE_REGULAR_FILE);
    stat_t stat;
    FAILS(__wasi_path_filestat_get(root, 0, "no-such", &stat), E(NOENT));
    FAILS(__wasi_path_filestat_get(root, 0, "file/no-such", &stat), E(NOTDIR));
}

CASE(path_filestat) {
    UNUSED;
    make_file("file", "text");
    stat_t before = stat_of("file", 0);
    EXPECT(before.size == 4 && before.nlink == 1);
    fd_t fd;
    __wasi_rights_t rights = __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE;
    /* Not every host can write in step. */
    __wasi_fdflags_t flags = __WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_SYNC;
    if (__wasi_path_open(root, 0, "file", 0, rights, 0, flags, &fd) == E(NOTSUP)) {
        flags = __WASI_FDFLAGS_APPEND;
        OK(__wasi_path_open(root, 0, "file", 0, rights, 0, flags, &fd));
    }
    __wasi_fdstat_t opened;
    OK(__wasi_fd_fdstat_get(fd, &opened));
    EXPECT((opened.fs_flags & flags) == flags);
    OK(__wasi_path_filestat_set_times(root, 0, "file", 0, before.mtim - 1000000000, __WASI_FSTFLAGS_MTIM));
    EXPECT(stat_of("file", 0).mtim == before.mtim - 1000000000);
    __wasi_fstflags_t both = __WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW;
    FAILS(__wasi_path_filestat_set_times(root, 0, "file", 0, 0, both), E(INVAL));
    both = __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_ATIM_NOW;
    FAILS(__wasi_path_filestat_set_times(root, 0, "file", 0, 0, both), E(INVAL));
    EXPECT(stat_of("file", 0).mtim == before.mtim - 1000000000);
    FAILS(__wasi_path_filestat_set_times(root, 0, "no-such", 0, 0, __WASI_FSTFLAGS_MTIM), E(NOENT));
}

CASE(interesting_paths) {
    UNUSED;
    make_folder("folder");
    make_folder("folder/inner");
    make_file("folder/inner/file", "text");
    fd_t inside = opened(root, "folder", FOLDER), fd;
    /* Nothing is above what is open. */
    FAILS(open_at(inside, "/folder/inner/file", READ, &fd), E(PERM), E(NOTCAPABLE));
    FAILS(open_at(inside, "../folder/inner/file", READ, &fd), E(PERM), E(NOTCAPABLE));
    FAILS(open_at(inside, "inner/../../folder/inner/file", READ, &fd), E(PERM), E(NOTCAPABLE));
    FAILS(open_at(inside, "..", FOLDER, &fd), E(PERM), E(NOTCAPABLE));
    fd = opened(inside, "inner/.//../inner///./file", READ);
    EXPECT(strcmp(get(fd), "text") == 0);
    /* A name with a zero byte in it is none: it is not the one that ends there. */
    EXPECT(opened(inside, "inner/", FOLDER) && opened(inside, "inner/.", FOLDER) && opened(inside, "inner/..", FOLDER));
    FAILS(open_at(inside, "inner/file/", READ, &fd), E(NOTDIR), E(NOENT));
    FAILS(open_at(inside, "inner/file//", READ, &fd), E(NOTDIR), E(NOENT));
    FAILS(open_at(inside, "inner/file/.", READ, &fd), E(NOTDIR), E(NOENT));
    FAILS(open_at(inside, "inner/file/..", READ, &fd), E(NOTDIR), E(NOENT));
    FAILS(open_at(inside, "", READ, &fd), E(NOENT), E(INVAL));
}

CASE(symlink_create) {
    UNUSED;
    make_file("file", "text");
    make_folder("folder");
    make_link("file", "to-file");
    make_link("folder", "to-folder");
    fd_t fd = opened(root, "to-file", READ | FOLLOW);
    EXPECT(strcmp(get(fd), "text") == 0);
    opened(root, "to-folder", FOLDER | FOLLOW);
    EXPECT(stat_of("to-file", 1).filetype == __WASI_FILETYPE_REGULAR_FILE);
    FAILS(__wasi_path_symlink("other", root, "to-file"), E(EXIST));
    /* One that leads out of the folder leads nowhere, or, as natively, to what the guest has anyway. */
    fd_t inside = opened(root, "folder", FOLDER);
    make_link("../file", "folder/up");
    if (open_at(inside, "up", READ | FOLLOW, &fd) == 0) {
        EXPECT(strcmp(get(fd), "text") == 0);
    } else {
        FAILS(open_at(inside, "up", READ | FOLLOW, &fd), E(PERM), E(NOTCAPABLE));
    }
}

CASE(symlink_filestat) {
    UNUSED;
    make_file("file", "a longer text");
    make_link("file", "link");
    stat_t stat = stat_of("link", 0);
    EXPECT(stat.filetype == __WASI_FILETYPE_SYMBOLIC_LINK && stat.size == 4);
    EXPECT(stat_of("link", 1).size == 13 && stat_of("link", 1).ino == stat_of("file", 0).ino && stat.ino != stat_of("file", 0).ino);
}

CASE(symlink_loop) {
    UNUSED;
    make_link("itself", "itself");
    fd_t fd;
    FAILS(open_at(root, "itself", READ, &fd), E(LOOP));
    FAILS(open_at(root, "itself", READ | FOLLOW, &fd), E(LOOP));
    make_link("b/x", "a");
    make_link("a/x", "b");
    FAILS(open_at(root, "a", READ | FOLLOW, &fd), E(LOOP));
}

CASE(dangling_symlink) {
    UNUSED;
    make_link("target", "link");
    fd_t fd;
    FAILS(open_at(root, "link", FOLDER, &fd), E(NOTDIR), E(LOOP));
    FAILS(open_at(root, "link", READ, &fd), E(LOOP));
    FAILS(open_at(root, "link", READ | FOLLOW, &fd), E(NOENT));
    OK(__wasi_path_unlink_file(root, "link"));
}

CASE(nofollow_errors) {
    UNUSED;
    make_folder("folder");
    make_file("file", "");
    make_link("folder", "to-folder");
    make_link("file", "to-file");
    fd_t fd;
    FAILS(open_at(root, "to-folder", READ, &fd), E(LOOP));
    FAILS(open_at(root, "to-folder", FOLDER, &fd), E(LOOP), E(NOTDIR));
    FAILS(open_at(root, "to-file", READ, &fd), E(LOOP));
    FAILS(open_at(root, "to-file", FOLDER, &fd), E(LOOP), E(NOTDIR));
    FAILS(open_at(root, "to-file", FOLDER | FOLLOW, &fd), E(NOTDIR));
    FAILS(__wasi_path_remove_directory(root, "to-folder"), E(NOTDIR));
    OK(__wasi_path_unlink_file(root, "to-folder"));
    opened(root, "folder", FOLDER);
}

CASE(readlink) {
    UNUSED;
    make_link("target", "link");
    uint8_t bytes[16] = { 0 };
    __wasi_size_t length = 0;
    OK(__wasi_path_readlink(root, "link", bytes, sizeof bytes, &length));
    EXPECT(length == 6 && memcmp(bytes, "target\0", 7) == 0);
    memset(bytes, 0, sizeof bytes);
    FAILS(__wasi_path_readlink(root, "link", bytes, 3, &length), E(SUCCESS), E(RANGE));
    EXPECT(bytes[3] == 0 && length <= 6);
    make_file("file", "");
    FAILS(__wasi_path_readlink(root, "file", bytes, sizeof bytes, &length), E(INVAL));
    FAILS(__wasi_path_readlink(root, "no-such", bytes, sizeof bytes, &length), E(NOENT));
}

CASE(path_link) {
    UNUSED;
    make_file("file", "text");
    make_folder("folder");
    OK(__wasi_path_link(root, 0, "file", root, "link"));
    EXPECT(stat_of("file", 0).ino == stat_of("link", 0).ino && stat_of("file", 0).nlink == 2);
    OK(__wasi_path_unlink_file(root, "file"));
    fd_t fd = opened(root, "link", READ);
    EXPECT(strcmp(get(fd), "text") == 0);
    fd_t inside = opened(root, "folder", FOLDER);
    OK(__wasi_path_link(root, 0, "link", inside, "inner"));
    EXPECT(stat_of("folder/inner", 0).ino == stat_of("link", 0).ino);
    FAILS(__wasi_path_link(root, 0, "link", root, "link"), E(EXIST));
    FAILS(__wasi_path_link(root, 0, "link", root, "folder"), E(EXIST));
    FAILS(__wasi_path_link(root, 0, "no-such", root, "new"), E(NOENT));
    FAILS(__wasi_path_link(root, 0, "folder", root, "new"), E(PERM), E(ACCES));
    FAILS(__wasi_path_link(root, 0, "link", root, "new/"), E(NOENT));
    make_link("nowhere", "dangling");
    OK(__wasi_path_link(root, 0, "dangling", root, "same"));
    EXPECT(stat_of("same", 0).filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
    FAILS(__wasi_path_link(root, 0, "link", root, "dangling"), E(EXIST));
    make_link("itself", "itself");
    OK(__wasi_path_link(root, 0, "itself", root, "loop"));
    /* Links are not followed. */
    FAILS(__wasi_path_link(root, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, "dangling", root, "followed"), E(INVAL), E(NOENT));
}

CASE(path_rename) {
    UNUSED;
    make_file("file", "text");
    make_file("other", "");
    make_folder("folder");
    make_folder("empty");
    make_folder("full");
    make_file("full/inner", "");
    OK(__wasi_path_rename(root, "file", root, "other"));
    EXPECT(stat_of("other", 0).size == 4);
    stat_t stat;
    FAILS(__wasi_path_filestat_get(root, 0, "file", &stat), E(NOENT));
    OK(__wasi_path_rename(root, "folder", root, "empty"));
    FAILS(__wasi_path_rename(root, "empty", root, "full"), E(NOTEMPTY), E(EXIST));
    FAILS(__wasi_path_rename(root, "empty", root, "other"), E(NOTDIR));
    FAILS(__wasi_path_rename(root, "other", root, "empty"), E(ISDIR));
    FAILS(__wasi_path_rename(root, "no-such", root, "new"), E(NOENT));
    FAILS(__wasi_path_rename(root, "full", root, "full/inside"), E(INVAL));
    fd_t inside = opened(root, "empty", FOLDER);
    OK(__wasi_path_rename(root, "other", inside, "moved"));
    EXPECT(stat_of("empty/moved", 0).size == 4);
    FAILS(__wasi_path_rename(inside, "../full", root, "new"), E(PERM), E(NOTCAPABLE));
}

CASE(path_rename_dir_trailing_slashes) {
    UNUSED;
    make_folder("source");
    OK(__wasi_path_rename(root, "source/", root, "target"));
    OK(__wasi_path_rename(root, "target/", root, "source/"));
    EXPECT(stat_of("source", 0).filetype == __WASI_FILETYPE_DIRECTORY);
    make_file("file", "");
    FAILS(__wasi_path_rename(root, "file/", root, "new"), E(NOTDIR));
    FAILS(__wasi_path_rename(root, "file", root, "new/"), E(NOTDIR), E(NOENT));
}

CASE(path_symlink_trailing_slashes) {
    UNUSED;
    FAILS(__wasi_path_symlink("source", root, "target/"), E(NOENT), E(NOTDIR));
    make_folder("folder");
    FAILS(__wasi_path_symlink("source", root, "folder/"), E(EXIST));
    FAILS(__wasi_path_symlink("source", root, "folder"), E(EXIST));
    make_file("file", "");
    FAILS(__wasi_path_symlink("source", root, "file/"), E(NOTDIR), E(EXIST));
}

CASE(unlink_file_trailing_slashes) {
    UNUSED;
    make_folder("folder");
    FAILS(__wasi_path_unlink_file(root, "folder"), E(ISDIR), E(PERM), E(ACCES));
    FAILS(__wasi_path_unlink_file(root, "folder/"), E(ISDIR), E(PERM), E(ACCES), E(NOTDIR));
    make_file("file", "");
    FAILS(__wasi_path_unlink_file(root, "file/"), E(NOTDIR), E(NOENT));
    OK(__wasi_path_unlink_file(root, "file"));
    FAILS(__wasi_path_unlink_file(root, "file"), E(NOENT));
}

CASE(remove_directory_trailing_slashes) {
    UNUSED;
    make_folder("folder");
    OK(__wasi_path_remove_directory(root, "folder"));
    make_folder("folder");
    /* wasmtime takes no slash here, which is of no harm. */
    FAILS(__wasi_path_remove_directory(root, "folder/"), E(SUCCESS), E(INVAL));
    FAILS(__wasi_path_remove_directory(root, "folder"), E(SUCCESS), E(NOENT));
    FAILS(__wasi_path_remove_directory(root, "folder"), E(NOENT));
    make_file("file", "");
    FAILS(__wasi_path_remove_directory(root, "file"), E(NOTDIR));
    FAILS(__wasi_path_remove_directory(root, "file/"), E(NOTDIR));
}

CASE(remove_nonempty_directory) {
    UNUSED;
    make_folder("folder");
    make_folder("folder/inner");
    FAILS(__wasi_path_remove_directory(root, "folder"), E(NOTEMPTY));
    OK(__wasi_path_remove_directory(root, "folder/inner"));
    OK(__wasi_path_remove_directory(root, "folder"));
    make_folder("folder");
    FAILS(__wasi_path_create_directory(root, "folder"), E(EXIST));
}

const struct suite_case path_cases[] = {
    { "path_open_missing", path_open_missing },
    { "path_open_create_existing", path_open_create_existing },
    { "path_open_dirfd_not_dir", path_open_dirfd_not_dir },
    { "path_open_read_write", path_open_read_write },
    { "path_open_preopen", path_open_preopen },
    { "path_open_nonblock", path_open_nonblock },
    { "path_exists", path_exists },
    { "path_filestat", path_filestat },
    { "interesting_paths", interesting_paths },
    { "symlink_create", symlink_create },
    { "symlink_filestat", symlink_filestat },
    { "symlink_loop", symlink_loop },
    { "dangling_symlink", dangling_symlink },
    { "nofollow_errors", nofollow_errors },
    { "readlink", readlink },
    { "path_link", path_link },
    { "path_rename", path_rename },
    { "path_rename_dir_trailing_slashes", path_rename_dir_trailing_slashes },
    { "path_symlink_trailing_slashes", path_symlink_trailing_slashes },
    { "unlink_file_trailing_slashes", unlink_file_trailing_slashes },
    { "remove_directory_trailing_slashes", remove_directory_trailing_slashes },
    { "remove_nonempty_directory", remove_nonempty_directory },
    { 0, 0 },
};
