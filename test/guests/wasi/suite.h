/*
 * What the cases of the suite share. A case is a function without parameters; the first thing that is not as it should be ends
 * the program with 1 and a line that says what.
 */

#ifndef SUITE_H
#define SUITE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

typedef __wasi_fd_t fd_t;
typedef __wasi_filestat_t stat_t;


/* Expects something to be so. */
#define EXPECT(what) do { if (!(what)) { fprintf(stderr, "%s:%d: not so: %s\n", __FILE_NAME__, __LINE__, #what); exit(1); } } while (0)

/* Expects a call to fail with one of these errors; a zero among them means that it may succeed. */
#define FAILS(call, ...) do { \
    static const __wasi_errno_t suite_known[] = { __VA_ARGS__ }; \
    suite_one_of((call), suite_known, sizeof suite_known / sizeof *suite_known, __FILE_NAME__, __LINE__, #call); \
} while (0)

/* Expects a call to succeed. */
#define OK(call) FAILS(call, __WASI_ERRNO_SUCCESS)

#define E(name) __WASI_ERRNO_##name

void suite_one_of(__wasi_errno_t found, const __wasi_errno_t *known, size_t length, const char *file, int line, const char *call);

enum { READ = 1, WRITE = 2, CREATE = 4, EXCLUSIVE = 8, TRUNCATE = 16, FOLDER = 32, APPEND = 64, FOLLOW = 128, WRITE_SIZE = 256 };

/* The folder that the cases work in: the last one that is preopened as "/". */
extern fd_t root;

/* Opens a path as the flags say. */
__wasi_errno_t open_at(fd_t folder, const char *path, int flags, fd_t *fd);
/* Opens what must be there. */
fd_t opened(fd_t folder, const char *path, int flags);
/* Makes a file with this text in it. */
void make_file(const char *path, const char *text);
void make_folder(const char *path);
void make_link(const char *target, const char *path);
/* Writes or reads all of a text. */
void put(fd_t fd, const char *text);
/* Reads what comes, up to 255 bytes, into a text that the next call overwrites. */
const char *get(fd_t fd);
/* Returns what a path is, following a link at its end or not. */
stat_t stat_of(const char *path, int follow);

struct suite_case { const char *name; void (*run)(int argc, char **argv); };
extern const struct suite_case process_cases[], file_cases[], path_cases[];

#endif
