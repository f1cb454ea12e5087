/*
 * A component of WASI preview 3 that answers HTTP requests, several at the same time; what it does is the path of the request:
 *
 *   /         says hello
 *   /count    tells how many requests this instance has begun to answer
 *   /wait     says "together" when two requests have come to this path of the same instance, and waits until then
 *   /late     says hello a second and a half later
 *   /big      sends 1,000,000 bytes
 *   /spin     computes for ever
 *   /trap     traps
 *   /lookup/  looks up the name behind it, and sends how many addresses of IPv4 it has, and the first of these; or "error" and
 *             the number of WASI's error code
 *
 * It speaks the component model's asynchronous ABI by itself: a request is a task, which returns its answer, goes on writing
 * the body, and says after each step what it waits for.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMPORT(module, function) __attribute__((import_module(module), import_name(function)))
#define TYPES "wasi:http/types@0.3.0"
#define HANDLER "wasi:http/handler@0.3.0"
#define NEW "[static]response.new"

typedef int32_t handle;

/* Results of the component model, as they lie in memory. */
struct text { uint8_t some; const char *bytes; uint32_t length; };
struct made { handle response, sent; };
/* An address is one of IPv4, or eight numbers of IPv6. */
struct address { uint8_t is_v6; _Alignas(2) uint8_t bytes[16]; };
struct looked {
    uint8_t failed;
    union {
        struct { uint8_t code; uint32_t more[3]; } error;
        struct { const struct address *first; uint32_t count; } addresses;
    } is;
};
/* A result of optional trailers; all zeros is success without any. */
struct trailers { _Alignas(8) uint8_t bytes[64]; };

IMPORT(TYPES, "[constructor]fields") handle new_fields(void);
IMPORT(TYPES, "[method]request.get-path-with-query") void request_path(handle request, struct text *path);
IMPORT(TYPES, "[resource-drop]request") void drop_request(handle request);
IMPORT(TYPES, NEW) void new_response(handle fields, int32_t has_body, handle body, handle trailers, struct made *made);
IMPORT(TYPES, "[method]response.set-status-code") int32_t set_status(handle response, int32_t status);
/* Both ends: what is read from in the lower half, what is written to in the upper one. */
IMPORT(TYPES, "[stream-new-0]" NEW) uint64_t new_stream(void);
IMPORT(TYPES, "[async-lower][stream-write-0]" NEW) uint32_t write_stream(handle stream, const void *bytes, uint32_t length);
IMPORT(TYPES, "[stream-drop-writable-0]" NEW) void drop_stream(handle stream);
IMPORT(TYPES, "[future-new-1]" NEW) uint64_t new_future(void);
IMPORT(TYPES, "[async-lower][future-write-1]" NEW) uint32_t write_future(handle future, const struct trailers *trailers);
IMPORT(TYPES, "[future-drop-writable-1]" NEW) void drop_future(handle future);
IMPORT(TYPES, "[future-drop-readable-2]" NEW) void drop_sent(handle sent);
/* Behind the response: what an error code would have. */
IMPORT("[export]" HANDLER, "[task-return]handle")
void task_return(int32_t failed, handle response, int32_t a, int64_t b, int32_t c, int32_t d, int32_t e, int32_t f);
IMPORT("wasi:clocks/monotonic-clock@0.3.0", "now") int64_t now(void);
IMPORT("wasi:sockets/ip-name-lookup@0.3.0", "resolve-addresses")
void resolve_addresses(const char *name, uint32_t length, struct looked *looked);
IMPORT("$root", "[waitable-set-new]") handle new_set(void);
IMPORT("$root", "[waitable-set-drop]") void drop_set(handle set);
IMPORT("$root", "[waitable-join]") void join(handle waitable, handle set);
IMPORT("$root", "[context-get-0]") void *context(void);
IMPORT("$root", "[context-set-0]") void set_context(void *context);

/* What a task waits for, and what has happened to it. */
enum { EXIT = 0, YIELD = 1, WAIT = 2 };
enum { STREAM_WRITTEN = 3, FUTURE_WRITTEN = 5 };
#define BLOCKED 0xffffffffu

/* One request. */
struct task {
    handle set, out, end;
    const char *bytes;
    uint32_t length;
    int together;
    int64_t after;
};

static const struct trailers none;
static int requests, waiting;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t before, size_t align, size_t size) {
    (void)before;
    (void)align;
    return size == 0 ? (void *)align : realloc(old, size);
}

/* Writes what is left until that has to wait. */
static int32_t proceed(struct task *task) {
    while (task->out) {
        if (task->length > 0) {
            uint32_t written = write_stream(task->out, task->bytes, task->length);
            if (written == BLOCKED) {
                join(task->out, task->set);
                return WAIT | task->set << 4;
            }
            /* The lower bits tell whether the reader is gone. */
            task->bytes += written >> 4;
            task->length = written & 15 ? 0 : task->length - (written >> 4);
            continue;
        }
        join(task->out, 0);
        drop_stream(task->out);
        task->out = 0;
    }
    if (task->end) {
        if (write_future(task->end, &none) == BLOCKED) {
            join(task->end, task->set);
            return WAIT | task->set << 4;
        }
        drop_future(task->end);
        task->end = 0;
    }
    drop_set(task->set);
    free(task);
    set_context(NULL);
    return EXIT;
}

static int32_t answer(struct task *task, int32_t status, const char *bytes, uint32_t length) {
    uint64_t stream = new_stream(), future = new_future();
    struct made made;
    new_response(new_fields(), 1, (handle)stream, (handle)future, &made);
    set_status(made.response, status);
    drop_sent(made.sent);
    task->out = (handle)(stream >> 32);
    task->end = (handle)(future >> 32);
    task->bytes = bytes;
    task->length = length;
    task_return(0, made.response, 0, 0, 0, 0, 0, 0);
    return proceed(task);
}

static int32_t look_up(struct task *task, const char *name, uint32_t length) {
    struct looked looked = {0};
    char *text = malloc(64);
    int v4 = 0;
    const uint8_t *first = NULL;
    resolve_addresses(name, length, &looked);
    if (looked.failed) {
        return answer(task, 200, text, (uint32_t)sprintf(text, "error %d\n", looked.is.error.code));
    }
    for (uint32_t i = 0; i < looked.is.addresses.count; i++) {
        const struct address *address = &looked.is.addresses.first[i];
        if (!address->is_v6 && v4++ == 0) {
            first = address->bytes;
        }
    }
    int written = sprintf(text, "%d", v4);
    if (first) {
        written += sprintf(text + written, " %d.%d.%d.%d", first[0], first[1], first[2], first[3]);
    }
    text[written++] = '\n';
    return answer(task, 200, text, (uint32_t)written);
}

__attribute__((export_name("[async-lift]" HANDLER "#handle"))) int32_t handle_request(handle request) {
    struct task *task = calloc(1, sizeof *task);
    struct text path;
    request_path(request, &path);
    drop_request(request);
    task->set = new_set();
    set_context(task);
    requests++;
    #define IS(text) (path.length == sizeof text - 1 && memcmp(path.bytes, text, path.length) == 0)
    if (IS("/")) {
        return answer(task, 200, "hello\n", 6);
    }
    if (IS("/count")) {
        char *digits = malloc(2);
        digits[0] = (char)('0' + requests % 10);
        digits[1] = '\n';
        return answer(task, 200, digits, 2);
    }
    if (IS("/wait")) {
        task->together = 1;
        waiting++;
        return YIELD;
    }
    if (IS("/late")) {
        task->after = now() + 1500000000;
        return YIELD;
    }
    if (IS("/big")) {
        return answer(task, 200, calloc(1000000, 1), 1000000);
    }
    if (IS("/spin")) {
        for (volatile int i = 0;; i++) {}
    }
    if (path.length > 8 && memcmp(path.bytes, "/lookup/", 8) == 0) {
        return look_up(task, path.bytes + 8, path.length - 8);
    }
    if (IS("/trap")) {
        __builtin_trap();
    }
    return answer(task, 404, "", 0);
}

__attribute__((export_name("[callback][async-lift]" HANDLER "#handle")))
int32_t go_on(int32_t event, handle waitable, uint32_t result) {
    struct task *task = context();
    if (event == STREAM_WRITTEN && waitable == task->out) {
        task->bytes += result >> 4;
        task->length = result & 15 ? 0 : task->length - (result >> 4);
    }
    if (event == FUTURE_WRITTEN && waitable == task->end) {
        join(task->end, 0);
        drop_future(task->end);
        task->end = 0;
    }
    if (task->after) {
        if (now() < task->after) {
            return YIELD;
        }
        task->after = 0;
        return answer(task, 200, "hello\n", 6);
    }
    if (task->together) {
        if (waiting < 2) {
            return YIELD;
        }
        task->together = 0;
        return answer(task, 200, "together\n", 9);
    }
    return proceed(task);
}
