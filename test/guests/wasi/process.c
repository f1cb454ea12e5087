/* Arguments, environment, clocks, random bytes, streams, polling. */

#include "suite.h"

#define CASE(name) static void name(int argc, char **argv)
#define UNUSED (void)argc, (void)argv

/* The numbers and sizes that are announced are those of what then comes. */
CASE(args_get) {
    __wasi_size_t count = 0, size = 0;
    OK(__wasi_args_sizes_get(&count, &size));
    EXPECT(count == (__wasi_size_t)argc + 2);
    uint8_t *all[16], bytes[512];
    EXPECT(count <= 16 && size <= sizeof bytes);
    OK(__wasi_args_get(all, bytes));
    __wasi_size_t sum = 0;
    for (__wasi_size_t i = 0; i < count; i++) {
        sum += strlen((char *)all[i]) + 1;
    }
    EXPECT(sum == size);
    EXPECT(argc == 3 && strcmp((char *)all[2], "one") == 0 && strcmp((char *)all[3], "two words") == 0 && all[4][0] == 0);
    EXPECT(strcmp(argv[1], "two words") == 0);
}

CASE(environ_get) {
    UNUSED;
    __wasi_size_t count = 0, size = 0;
    OK(__wasi_environ_sizes_get(&count, &size));
    uint8_t **all = calloc(count, sizeof *all), *bytes = malloc(size);
    OK(__wasi_environ_get(all, bytes));
    int found = 0;
    __wasi_size_t sum = 0;
    for (__wasi_size_t i = 0; i < count; i++) {
        sum += strlen((char *)all[i]) + 1;
        found += strcmp((char *)all[i], "SUITE=a=b c") == 0;
        found += strcmp((char *)all[i], "EMPTY=") == 0;
    }
    EXPECT(sum == size && found == 2);
    EXPECT(strcmp(getenv("SUITE"), "a=b c") == 0);
}

CASE(clock_getres) {
    UNUSED;
    __wasi_timestamp_t time = 0;
    OK(__wasi_clock_res_get(__WASI_CLOCKID_MONOTONIC, &time));
    EXPECT(time > 0 && time <= 1000000000);
    time = 0;
    OK(__wasi_clock_res_get(__WASI_CLOCKID_REALTIME, &time));
    EXPECT(time > 0 && time <= 1000000000);
}

CASE(clock_time_get) {
    UNUSED;
    __wasi_timestamp_t first = 0, second = 0, real = 0;
    OK(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 1, &first));
    OK(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 0, &second));
    EXPECT(first <= second);
    OK(__wasi_clock_time_get(__WASI_CLOCKID_REALTIME, 0, &real));
    /* After 2023. */
    EXPECT(real > 1700000000000000000ull);
}

CASE(random_get) {
    UNUSED;
    static uint8_t some[256], again[256], many[200000];
    OK(__wasi_random_get(some, sizeof some));
    OK(__wasi_random_get(again, sizeof again));
    EXPECT(memcmp(some, again, sizeof some) != 0);
    memset(again, 7, sizeof again);
    OK(__wasi_random_get(again, 0));
    EXPECT(again[0] == 7);
    OK(__wasi_random_get(many, sizeof many));
    int counts[256] = { 0 };
    for (size_t i = 0; i < sizeof many; i++) {
        counts[many[i]]++;
    }
    for (int i = 0; i < 256; i++) {
        EXPECT(counts[i] > 500 && counts[i] < 1100);
    }
}

CASE(sched_yield) {
    UNUSED;
    OK(__wasi_sched_yield());
}

CASE(stdio) {
    UNUSED;
    for (fd_t fd = 0; fd < 3; fd++) {
        __wasi_fdstat_t stat;
        OK(__wasi_fd_fdstat_get(fd, &stat));
        EXPECT(fd == 0 ? stat.fs_rights_base & __WASI_RIGHTS_FD_READ : stat.fs_rights_base & __WASI_RIGHTS_FD_WRITE);
    }
    /* What is no stream any more is not there. */
    OK(__wasi_fd_close(0));
    __wasi_fdstat_t stat;
    FAILS(__wasi_fd_fdstat_get(0, &stat), E(BADF));
}

CASE(fd_write_to_stdout) {
    UNUSED;
    const char *texts[] = { "one ", "", "two\n" };
    __wasi_ciovec_t parts[3];
    for (int i = 0; i < 3; i++) {
        parts[i] = (__wasi_ciovec_t) { (const uint8_t *)texts[i], strlen(texts[i]) };
    }
    /* A call may write less than all, but not nothing. */
    __wasi_size_t written = 0, first = 0;
    while (first < 3) {
        OK(__wasi_fd_write(1, parts + first, 3 - first, &written));
        EXPECT(written > 0);
        while (first < 3 && written >= parts[first].buf_len) {
            written -= parts[first++].buf_len;
        }
        if (first < 3) {
            parts[first].buf += written;
            parts[first].buf_len -= written;
        }
    }
}

CASE(fd_write_to_invalid_fd) {
    UNUSED;
    __wasi_ciovec_t part = { (const uint8_t *)"text", 4 };
    __wasi_size_t written = 0;
    FAILS(__wasi_fd_write(100, &part, 1, &written), E(BADF));
    FAILS(__wasi_fd_close(100), E(BADF));
    FAILS(__wasi_fd_close(UINT32_MAX), E(BADF));
}

static __wasi_subscription_t timer(uint64_t id, uint64_t nanoseconds) {
    __wasi_subscription_t timer = { .userdata = id, .u.tag = __WASI_EVENTTYPE_CLOCK };
    timer.u.u.clock = (__wasi_subscription_clock_t) { .id = __WASI_CLOCKID_MONOTONIC, .timeout = nanoseconds };
    return timer;
}

CASE(poll_oneoff_clock) {
    UNUSED;
    __wasi_subscription_t timers[] = { timer(1, 30000000000ull), timer(2, 20000000) };
    __wasi_event_t events[2];
    __wasi_size_t count = 0;
    __wasi_timestamp_t before = 0, after = 0;
    OK(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 0, &before));
    OK(__wasi_poll_oneoff(timers, events, 2, &count));
    OK(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 0, &after));
    EXPECT(count == 1 && events[0].userdata == 2 && events[0].error == 0 && events[0].type == __WASI_EVENTTYPE_CLOCK);
    EXPECT(after - before >= 20000000 && after - before < 20000000000ull);
    /* A moment that has passed. */
    timers[0].u.u.clock.timeout = 1;
    timers[0].u.u.clock.flags = __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME;
    OK(__wasi_poll_oneoff(timers, events, 1, &count));
    EXPECT(count == 1 && events[0].userdata == 1 && events[0].error == 0);
}

CASE(poll_oneoff_stdio) {
    UNUSED;
    __wasi_event_t events[3];
    __wasi_size_t count = 0;
    __wasi_subscription_t wanted[2] = { timer(1, 10000000000ull), { .userdata = 2, .u.tag = __WASI_EVENTTYPE_FD_WRITE } };
    wanted[1].u.u.fd_write.file_descriptor = 1;
    OK(__wasi_poll_oneoff(wanted, events, 2, &count));
    EXPECT(count == 1 && events[0].userdata == 2 && events[0].error == 0 && events[0].type == __WASI_EVENTTYPE_FD_WRITE);
    /* A descriptor that is not there is an event with an error, or one of the whole call. */
    wanted[1].u.u.fd_write.file_descriptor = 100;
    __wasi_errno_t error = __wasi_poll_oneoff(wanted, events, 2, &count);
    EXPECT(error == E(BADF) || (error == 0 && count == 1 && events[0].userdata == 2 && events[0].error == E(BADF)));
    FAILS(__wasi_poll_oneoff(wanted, events, 0, &count), E(INVAL));
}

CASE(sock_shutdown_invalid_fd) {
    UNUSED;
    FAILS(__wasi_sock_shutdown(100, __WASI_SDFLAGS_RD), E(BADF));
}

CASE(sock_shutdown_not_sock) {
    UNUSED;
    make_file("file", "text");
    fd_t fd = opened(root, "file", READ | WRITE);
    FAILS(__wasi_sock_shutdown(fd, __WASI_SDFLAGS_RD), E(NOTSOCK));
    __wasi_size_t length = 0;
    __wasi_ciovec_t out = { (const uint8_t *)"text", 4 };
    FAILS(__wasi_sock_send(fd, &out, 1, 0, &length), E(NOTSOCK));
}

const struct suite_case process_cases[] = {
    { "args_get", args_get },
    { "environ_get", environ_get },
    { "clock_getres", clock_getres },
    { "clock_time_get", clock_time_get },
    { "random_get", random_get },
    { "sched_yield", sched_yield },
    { "stdio", stdio },
    { "fd_write_to_stdout", fd_write_to_stdout },
    { "fd_write_to_invalid_fd", fd_write_to_invalid_fd },
    { "poll_oneoff_clock", poll_oneoff_clock },
    { "poll_oneoff_stdio", poll_oneoff_stdio },
    { "sock_shutdown_invalid_fd", sock_shutdown_invalid_fd },
    { "sock_shutdown_not_sock", sock_shutdown_not_sock },
    { 0, 0 },
};
