/*
 * The demo program, and the guest of most tests: one small thing per subcommand, each visible from outside.
 *
 * Without a subcommand it prints a line a second for ever. Every line is flushed, so that whoever reads the output sees
 * it at once. It exits with 64 for a wrong command line and 1 when the system refuses something.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

/* Prints why `what` cannot be done to `subject`. */
static int fail(const char *what, const char *subject) {
    fprintf(stderr, "cannot %s %s: %s\n", what, subject, strerror(errno));
    return 1;
}

static int finish(FILE *file, const char *subject) {
    if (ferror(file) || fflush(file) != 0) {
        return fail("write", subject);
    }
    return 0;
}

static int echo(int count, char **words) {
    for (int i = 0; i < count; i++) {
        printf("%s%s", i == 0 ? "" : " ", words[i]);
    }
    printf("\n");
    return finish(stdout, "standard output");
}

/* Copies all of `from` to standard output. */
static int copy(FILE *from, const char *subject) {
    char buffer[4096];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, from)) > 0) {
        if (fwrite(buffer, 1, n, stdout) != n || fflush(stdout) != 0) {
            return fail("write", "standard output");
        }
    }
    return ferror(from) ? fail("read", subject) : 0;
}

static int read_file(const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return fail("open", path);
    }
    int status = copy(file, path);
    fclose(file);
    return status;
}

static int write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        return fail("open", path);
    }
    fprintf(file, "%s\n", text);
    int status = finish(file, path);
    return fclose(file) == 0 ? status : fail("write", path);
}

static int print_environment(void) {
    for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
        printf("%s\n", *variable);
    }
    return finish(stdout, "standard output");
}

static int print_error(const char *text) {
    fprintf(stderr, "%s\n", text);
    return finish(stderr, "standard error");
}

/* Sleeps and says so before and after. A number that is none counts as 0, as it does for exit. */
static int sleep_for(const char *seconds) {
    printf("sleeping %s\n", seconds);
    fflush(stdout);
    sleep((unsigned)strtoul(seconds, NULL, 10));
    printf("slept\n");
    return finish(stdout, "standard output");
}

/* Says of each standard stream whether it is a terminal. */
static int print_terminals(void) {
    for (int fd = 0; fd < 3; fd++) {
        printf("%s%s", fd == 0 ? "" : " ", isatty(fd) ? "yes" : "no");
    }
    printf("\n");
    return finish(stdout, "standard output");
}

/* Takes memory, writes to all of it, and says so. */
static int allocate(const char *mebibytes) {
    size_t size = (size_t)strtoul(mebibytes, NULL, 10) << 20;
    char *memory = malloc(size);
    if (memory == NULL) {
        return fail("allocate", "memory");
    }
    for (size_t i = 0; i < size; i += 4096) {
        ((volatile char *)memory)[i] = 1;
    }
    printf("allocated %s MiB\n", mebibytes);
    return finish(stdout, "standard output");
}

/* Computes for ever, and calls nothing that could notice. */
static int spin(void) {
    printf("spinning\n");
    fflush(stdout);
    for (volatile unsigned i = 0;; i++) {
    }
}

static int tick(void) {
    for (unsigned long i = 1;; i++) {
        printf("tick %lu\n", i);
        int status = finish(stdout, "standard output");
        if (status != 0) {
            return status;
        }
        sleep(1);
    }
}

static int usage(void) {
    fputs("usage: demo [echo WORD... | sleep SECONDS | exit CODE | write PATH [TEXT] | read PATH | env | trap\n"
          "             | stderr TEXT | cat | terminal | allocate MEBIBYTES | spin]\n",
          stderr);
    return 64;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        return tick();
    }
    const char *verb = argv[1];
    const char *first = argc > 2 ? argv[2] : NULL;
    if (strcmp(verb, "echo") == 0) {
        return echo(argc - 2, argv + 2);
    }
    if (strcmp(verb, "env") == 0) {
        return print_environment();
    }
    if (strcmp(verb, "cat") == 0) {
        return copy(stdin, "standard input");
    }
    if (strcmp(verb, "terminal") == 0) {
        return print_terminals();
    }
    if (strcmp(verb, "trap") == 0) {
        __builtin_trap();
    }
    if (strcmp(verb, "spin") == 0) {
        return spin();
    }
    if (first == NULL) {
        return usage();
    }
    if (strcmp(verb, "sleep") == 0) {
        return sleep_for(first);
    }
    if (strcmp(verb, "exit") == 0) {
        exit((int)strtol(first, NULL, 10));
    }
    if (strcmp(verb, "write") == 0) {
        return write_file(first, argc > 3 ? argv[3] : "written by demo");
    }
    if (strcmp(verb, "read") == 0) {
        return read_file(first);
    }
    if (strcmp(verb, "allocate") == 0) {
        return allocate(first);
    }
    if (strcmp(verb, "stderr") == 0) {
        return print_error(first);
    }
    return usage();
}

/* Called by name, as demo.wasm#greet. */
__attribute__((export_name("greet"))) void greet(void) {
    printf("hello from greet\n");
    fflush(stdout);
}
