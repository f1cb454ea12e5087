/* Files and folders that are open. */

#include "suite.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CASE(name) static void name(int argc, char **argv)
#define UNUSED (void)argc, (void)argv

static uint64_t seek_to(fd_t fd, int64_t offset, __wasi_whence_t whence) {
    __wasi_filesize_t position = 0;
    OK(__wasi_fd_seek(fd, offset, whence, &position));
    __wasi_filesize_t told = 0;
    OK(__wasi_fd_tell(fd, &told));
    EXPECT(told == position);
    return position;
}

static stat_t file_stat(fd_t fd) {
    stat_t stat;
    OK(__wasi_fd_filestat_get(fd, &stat));
    return stat;
}

CASE(file_seek_tell) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE);
    __wasi_filesize_t position = 1;
    OK(__wasi_fd_tell(fd, &position));
    EXPECT(position == 0);
    put(fd, "0123456789");
    EXPECT(seek_to(fd, -4, __WASI_WHENCE_CUR) == 6);
    EXPECT(strcmp(get(fd), "6789") == 0);
    EXPECT(seek_to(fd, -3, __WASI_WHENCE_END) == 7);
    EXPECT(seek_to(fd, 1000, __WASI_WHENCE_SET) == 1000);
    EXPECT(strcmp(get(fd), "") == 0);
    FAILS(__wasi_fd_seek(fd, -2000, __WASI_WHENCE_CUR, &position), E(INVAL));
    EXPECT(seek_to(fd, 0, __WASI_WHENCE_CUR) == 1000);
}

CASE(file_pread_pwrite) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE);
    __wasi_ciovec_t out[] = { { (const uint8_t *)"0123", 4 }, { (const uint8_t *)"4567", 4 } };
    __wasi_size_t length = 0;
    /* A call may do less than all, but not nothing. */
    OK(__wasi_fd_pwrite(fd, out, 2, 2, &length));
    EXPECT(length == 8 || length == 4);
    if (length == 4) {
        OK(__wasi_fd_pwrite(fd, out + 1, 1, 6, &length));
    }
    EXPECT(file_stat(fd).size == 10);
    uint8_t first[3], second[8];
    __wasi_iovec_t in[] = { { first, sizeof first }, { second, sizeof second } };
    OK(__wasi_fd_pread(fd, in, 2, 1, &length));
    EXPECT((length == 9 || length == 3) && memcmp(first, "\0" "01", 3) == 0);
    if (length == 3) {
        OK(__wasi_fd_pread(fd, in + 1, 1, 4, &length));
    }
    EXPECT(memcmp(second, "234567", 6) == 0);
    /* Neither moves the position. */
    EXPECT(seek_to(fd, 0, __WASI_WHENCE_CUR) == 0);
    OK(__wasi_fd_pread(fd, in, 2, 100, &length));
    EXPECT(length == 0);
}

CASE(file_truncation) {
    UNUSED;
    make_file("file", "a text");
    fd_t fd = opened(root, "file", READ | WRITE | TRUNCATE);
    EXPECT(file_stat(fd).size == 0 && strcmp(get(fd), "") == 0);
}

CASE(file_unbuffered_write) {
    UNUSED;
    fd_t writer = opened(root, "file", WRITE | CREATE), reader = opened(root, "file", READ);
    put(writer, "now");
    EXPECT(strcmp(get(reader), "now") == 0);
}

CASE(fd_advise) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE);
    OK(__wasi_fd_filestat_set_size(fd, 100));
    OK(__wasi_fd_advise(fd, 10, 50, __WASI_ADVICE_NORMAL));
    OK(__wasi_fd_advise(fd, 0, 0, __WASI_ADVICE_SEQUENTIAL));
    EXPECT(file_stat(fd).size == 100);
}

CASE(fd_filestat_set) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE);
    EXPECT(file_stat(fd).size == 0 && file_stat(fd).filetype == __WASI_FILETYPE_REGULAR_FILE);
    OK(__wasi_fd_filestat_set_size(fd, 100));
    EXPECT(file_stat(fd).size == 100);
    stat_t before = file_stat(fd);
    OK(__wasi_fd_filestat_set_times(fd, 0, 1000000000, __WASI_FSTFLAGS_MTIM));
    stat_t after = file_stat(fd);
    EXPECT(after.mtim == 1000000000 && after.atim == before.atim && after.size == 100);
    FAILS(__wasi_fd_filestat_set_times(fd, 0, 0, __WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW), E(INVAL));
    OK(__wasi_fd_filestat_set_times(fd, 0, 0, __WASI_FSTFLAGS_MTIM_NOW));
    EXPECT(file_stat(fd).mtim > 1700000000000000000ull);
}

CASE(fd_flags_set) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE | APPEND);
    __wasi_fdstat_t stat;
    OK(__wasi_fd_fdstat_get(fd, &stat));
    EXPECT(stat.fs_flags == __WASI_FDFLAGS_APPEND && stat.fs_filetype == __WASI_FILETYPE_REGULAR_FILE);
    put(fd, "first ");
    seek_to(fd, 0, __WASI_WHENCE_SET);
    put(fd, "second");
    OK(__wasi_fd_fdstat_set_flags(fd, 0));
    seek_to(fd, 0, __WASI_WHENCE_SET);
    put(fd, "FIRST");
    seek_to(fd, 0, __WASI_WHENCE_SET);
    EXPECT(strcmp(get(fd), "FIRST second") == 0);
    OK(__wasi_fd_fdstat_get(fd, &stat));
    EXPECT(stat.fs_flags == 0);
}

CASE(pwrite_with_append) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE | APPEND);
    put(fd, "first ");
    /* Linux appends whatever the offset. */
    __wasi_ciovec_t out = { (const uint8_t *)"second", 6 };
    __wasi_size_t length = 0;
    OK(__wasi_fd_pwrite(fd, &out, 1, 0, &length));
    EXPECT(length == 6 && file_stat(fd).size == 12);
    EXPECT(strcmp(get(opened(root, "file", READ)), "first second") == 0);
}

CASE(directory_seek) {
    UNUSED;
    make_folder("folder");
    fd_t fd = opened(root, "folder", FOLDER);
    __wasi_filesize_t position = 0;
    FAILS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_CUR, &position), E(BADF), E(ISDIR), E(NOTCAPABLE));
    __wasi_fdstat_t stat;
    OK(__wasi_fd_fdstat_get(fd, &stat));
    EXPECT(stat.fs_filetype == __WASI_FILETYPE_DIRECTORY && !(stat.fs_rights_base & __WASI_RIGHTS_FD_SEEK));
}

CASE(dir_fd_op_failures) {
    UNUSED;
    uint8_t bytes[16];
    __wasi_size_t length = 0;
    __wasi_filesize_t position = 0;
    __wasi_iovec_t in = { bytes, sizeof bytes };
    __wasi_ciovec_t out = { bytes, sizeof bytes };
    make_folder("folder");
    fd_t folders[] = { root, opened(root, "folder", FOLDER) };
    for (int i = 0; i < 2; i++) {
        fd_t fd = folders[i];
        FAILS(__wasi_fd_read(fd, &in, 1, &length), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_pread(fd, &in, 1, 0, &length), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_write(fd, &out, 1, &length), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_pwrite(fd, &out, 1, 0, &length), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &position), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_CUR, &position), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_END, &position), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_tell(fd, &position), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_allocate(fd, 0, 10), E(BADF), E(ISDIR), E(NOTCAPABLE));
        FAILS(__wasi_fd_filestat_set_size(fd, 0), E(BADF), E(ISDIR), E(NOTCAPABLE), E(INVAL));
    }
    FAILS(__wasi_fd_prestat_dir_name(root, bytes, 0), E(INVAL), E(NAMETOOLONG));
    OK(__wasi_fd_prestat_dir_name(root, bytes, 2));
    EXPECT(bytes[0] == '/');
}

CASE(file_allocate) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE);
    EXPECT(file_stat(fd).size == 0);
    /* Not every host can. */
    __wasi_errno_t error = __wasi_fd_allocate(fd, 0, 100);
    if (error == E(NOTSUP)) {
        EXPECT(file_stat(fd).size == 0);
        return;
    }
    FAILS(error, E(SUCCESS));
    EXPECT(file_stat(fd).size == 100);
    OK(__wasi_fd_allocate(fd, 10, 10));
    EXPECT(file_stat(fd).size == 100);
    OK(__wasi_fd_allocate(fd, 90, 20));
    EXPECT(file_stat(fd).size == 110);
}

CASE(fd_fdstat_set_rights) {
    UNUSED;
    make_file("file", "text");
    fd_t fd = opened(root, "file", READ | WRITE);
    __wasi_fdstat_t stat;
    OK(__wasi_fd_fdstat_get(fd, &stat));
    EXPECT(stat.fs_rights_base & __WASI_RIGHTS_FD_READ);
    __wasi_rights_t less = stat.fs_rights_base & ~__WASI_RIGHTS_FD_READ;
    /* Not every host has rights that can be given up. */
    if (__wasi_fd_fdstat_set_rights(fd, less, stat.fs_rights_inheriting) == E(NOTSUP)) {
        EXPECT(strcmp(get(fd), "text") == 0);
        return;
    }
    __wasi_fdstat_t now;
    OK(__wasi_fd_fdstat_get(fd, &now));
    EXPECT(now.fs_rights_base == less);
    uint8_t bytes[8];
    __wasi_size_t length = 0;
    __wasi_iovec_t in = { bytes, sizeof bytes };
    FAILS(__wasi_fd_read(fd, &in, 1, &length), E(BADF), E(NOTCAPABLE));
    /* What is given up is lost. */
    FAILS(__wasi_fd_fdstat_set_rights(fd, stat.fs_rights_base, stat.fs_rights_inheriting), E(NOTCAPABLE));
    put(fd, "TEXT");
}

CASE(truncation_rights) {
    UNUSED;
    make_folder("folder");
    make_file("folder/file", "text");
    fd_t folder = opened(root, "folder", FOLDER | WRITE_SIZE), fd;
    __wasi_fdstat_t stat;
    OK(__wasi_fd_fdstat_get(folder, &stat));
    EXPECT(!(stat.fs_rights_base & __WASI_RIGHTS_FD_FILESTAT_SET_SIZE));
    if (!(stat.fs_rights_base & __WASI_RIGHTS_PATH_FILESTAT_SET_SIZE)) {
        return;
    }
    fd = opened(folder, "file", READ | WRITE | TRUNCATE);
    EXPECT(file_stat(fd).size == 0);
    put(fd, "text");
    __wasi_rights_t less = stat.fs_rights_base & ~__WASI_RIGHTS_PATH_FILESTAT_SET_SIZE;
    if (__wasi_fd_fdstat_set_rights(folder, less, stat.fs_rights_inheriting) == 0) {
        FAILS(open_at(folder, "file", READ | WRITE | TRUNCATE, &fd), E(PERM), E(NOTCAPABLE));
        EXPECT(file_stat(opened(folder, "file", READ)).size == 4);
    }
}

CASE(fstflags_validate) {
    UNUSED;
    fd_t fd = opened(root, "file", READ | WRITE | CREATE);
    stat_t before = file_stat(fd);
    FAILS(__wasi_fd_filestat_set_times(fd, 1, 1, __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_ATIM_NOW), E(INVAL));
    FAILS(__wasi_fd_filestat_set_times(fd, 1, 1, __WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW), E(INVAL));
    EXPECT(file_stat(fd).atim == before.atim && file_stat(fd).mtim == before.mtim);
}

CASE(isatty_of_c) {
    UNUSED;
    make_file("file", "text");
    int fd = open("/file", O_RDONLY);
    /* Nor is an output of this program one: it goes to a pipe. */
    EXPECT(fd > 0 && isatty(fd) == 0 && isatty(1) == 0);
}

/* Reads all names of a folder, `size` bytes at a time; returns how many there are, and marks those of the form fileNNN. */
static int names(fd_t fd, size_t size, uint8_t *marks) {
    int count = 0;
    __wasi_dircookie_t cookie = 0;
    uint8_t *bytes = malloc(size);
    for (;;) {
        __wasi_size_t length = 0, at = 0;
        OK(__wasi_fd_readdir(fd, bytes, size, cookie, &length));
        int whole = 0;
        while (length - at >= sizeof(__wasi_dirent_t)) {
            __wasi_dirent_t entry;
            memcpy(&entry, bytes + at, sizeof entry);
            at += sizeof entry;
            if (length - at < entry.d_namlen) {
                break;
            }
            const char *name = (const char *)bytes + at;
            if (entry.d_namlen == 7 && memcmp(name, "file", 4) == 0) {
                EXPECT(entry.d_type == __WASI_FILETYPE_REGULAR_FILE && entry.d_ino != 0);
                marks[(name[4] - '0') * 100 + (name[5] - '0') * 10 + name[6] - '0']++;
            } else {
                EXPECT(name[0] == '.' && entry.d_type == __WASI_FILETYPE_DIRECTORY);
            }
            at += entry.d_namlen;
            cookie = entry.d_next;
            count++;
            whole = 1;
        }
        if (length < size) {
            free(bytes);
            return count;
        }
        EXPECT(whole);
    }
}

CASE(fd_readdir) {
    UNUSED;
    make_folder("folder");
    fd_t folder = opened(root, "folder", FOLDER | READ);
    static uint8_t marks[1000];
    /* Itself and what it lies in. */
    EXPECT(names(folder, 4096, marks) == 2);
    for (int i = 0; i < 200; i++) {
        char path[] = "folder/file000";
        snprintf(path, sizeof path, "folder/file%03d", i);
        make_file(path, "");
    }
    for (size_t size = 64; size <= 65536; size *= 8) {
        memset(marks, 0, sizeof marks);
        EXPECT(names(folder, size, marks) == 202);
        for (int i = 0; i < 1000; i++) {
            EXPECT(marks[i] == (i < 200));
        }
    }
    fd_t file = opened(root, "folder/file000", READ);
    __wasi_size_t length = 0;
    uint8_t bytes[64];
    FAILS(__wasi_fd_readdir(file, bytes, sizeof bytes, 0, &length), E(NOTDIR), E(BADF), E(NOTCAPABLE));
}

CASE(renumber) {
    UNUSED;
    make_file("one", "1");
    make_file("two", "22");
    fd_t one = opened(root, "one", READ), two = opened(root, "two", READ);
    OK(__wasi_fd_renumber(one, two));
    stat_t stat;
    FAILS(__wasi_fd_filestat_get(one, &stat), E(BADF));
    EXPECT(file_stat(two).size == 1);
    FAILS(__wasi_fd_renumber(one, two), E(BADF));
    FAILS(__wasi_fd_renumber(two, 1000000), E(BADF));
}

CASE(close_preopen) {
    UNUSED;
    fd_t again = opened(root, ".", FOLDER);
    OK(__wasi_fd_close(root));
    stat_t stat;
    FAILS(__wasi_fd_filestat_get(root, &stat), E(BADF));
    EXPECT(file_stat(again).filetype == __WASI_FILETYPE_DIRECTORY);
}

CASE(overwrite_preopen) {
    UNUSED;
    make_file("file", "text");
    fd_t again = opened(root, ".", FOLDER);
    OK(__wasi_fd_renumber(again, root));
    EXPECT(stat_of("file", 0).size == 4);
}

CASE(dangling_fd) {
    UNUSED;
    for (int round = 0; round < 2; round++) {
        fd_t fd = opened(root, "file", READ | WRITE | CREATE | EXCLUSIVE);
        put(fd, "text");
        OK(__wasi_path_unlink_file(root, "file"));
        seek_to(fd, 0, __WASI_WHENCE_SET);
        EXPECT(strcmp(get(fd), "text") == 0);
        make_folder("folder");
        fd_t folder = opened(root, "folder", FOLDER);
        OK(__wasi_path_remove_directory(root, "folder"));
        fd_t none;
        FAILS(open_at(folder, "file", READ | WRITE | CREATE, &none), E(NOENT));
    }
}

/* By the functions of C. */

CASE(fopen_with_access) {
    UNUSED;
    FILE *file = fopen("/file", "w+");
    EXPECT(file && fputs("one\ntwo\n", file) >= 0 && fseek(file, 4, SEEK_SET) == 0);
    char line[16];
    EXPECT(fgets(line, sizeof line, file) && strcmp(line, "two\n") == 0 && fgetc(file) == EOF && fclose(file) == 0);
}

CASE(fopen_with_no_access) {
    UNUSED;
    EXPECT(!fopen("/no-such", "r") && errno == ENOENT);
    EXPECT(!fopen("/no-such/file", "w") && errno == ENOENT);
}

CASE(fdopendir_with_access) {
    UNUSED;
    make_folder("folder");
    make_file("folder/file000", "");
    int fd = open("/folder", O_DIRECTORY | O_RDONLY), count = 0;
    DIR *folder = fdopendir(fd);
    EXPECT(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        count += strcmp(entry->d_name, "file000") == 0;
    }
    EXPECT(count == 1 && closedir(folder) == 0);
}

CASE(lseek_of_c) {
    UNUSED;
    make_file("file", "0123456789");
    int fd = open("/file", O_RDWR);
    char byte = 0;
    EXPECT(lseek(fd, -1, SEEK_END) == 9 && read(fd, &byte, 1) == 1 && byte == '9' && lseek(fd, 0, SEEK_CUR) == 10);
    EXPECT(pread(fd, &byte, 1, 3) == 1 && byte == '3' && pwrite(fd, "x", 1, 3) == 1 && pread(fd, &byte, 1, 3) == 1 && byte == 'x');
    EXPECT(lseek(fd, 0, SEEK_CUR) == 10 && lseek(fd, -1, SEEK_SET) == -1 && errno == EINVAL);
}

CASE(stat_dev_ino) {
    UNUSED;
    make_file("file", "text");
    make_folder("folder");
    OK(__wasi_path_link(root, 0, "file", root, "folder/same"));
    struct stat one, same, other;
    EXPECT(stat("/file", &one) == 0 && stat("/folder/same", &same) == 0 && stat("/folder", &other) == 0);
    EXPECT(one.st_ino == same.st_ino && one.st_dev == same.st_dev && one.st_ino != other.st_ino && one.st_nlink == 2);
    int fd = open("/file", O_RDONLY);
    EXPECT(fstat(fd, &same) == 0 && one.st_ino == same.st_ino && one.st_dev == same.st_dev && same.st_size == 4);
}

const struct suite_case file_cases[] = {
    { "file_seek_tell", file_seek_tell },
    { "file_pread_pwrite", file_pread_pwrite },
    { "file_truncation", file_truncation },
    { "file_unbuffered_write", file_unbuffered_write },
    { "fd_advise", fd_advise },
    { "fd_filestat_set", fd_filestat_set },
    { "fd_flags_set", fd_flags_set },
    { "pwrite_with_append", pwrite_with_append },
    { "directory_seek", directory_seek },
    { "dir_fd_op_failures", dir_fd_op_failures },
    { "file_allocate", file_allocate },
    { "fd_fdstat_set_rights", fd_fdstat_set_rights },
    { "truncation_rights", truncation_rights },
    { "fstflags_validate", fstflags_validate },
    { "isatty", isatty_of_c },
    { "fd_readdir", fd_readdir },
    { "renumber", renumber },
    { "close_preopen", close_preopen },
    { "overwrite_preopen", overwrite_preopen },
    { "dangling_fd", dangling_fd },
    { "fopen_with_access", fopen_with_access },
    { "fopen_with_no_access", fopen_with_no_access },
    { "fdopendir_with_access", fdopendir_with_access },
    { "lseek", lseek_of_c },
    { "stat_dev_ino", stat_dev_ino },
    { 0, 0 },
};
