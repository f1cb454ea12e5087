/*
 * A component that answers HTTP requests; what it does is the path of the request:
 *
 *   /             says hello
 *   /echo         sends the body back
 *   /count        tells how many requests this instance has answered
 *   /random       tells a random number
 *   /print        prints a line on each output
 *   /env/NAME     tells a variable
 *   /file/PATH    sends a file
 *   /big/N        sends N bytes
 *   /stream       sends three lines, a fifth of a second apart
 *   /sleep/MS     answers after so many milliseconds
 *   /after/MS     answers, and prints a line so many milliseconds later
 *   /spin         computes for ever
 *   /trap         traps; /late-trap does so in the middle of its answer
 *   /exit         exits
 *   /none         gives no answer
 *   /fetch/SCHEME/AUTHORITY/PATH   asks another server
 */

#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define IMPORT(interface, function) __attribute__((import_module(interface "@0.2.12"), import_name(function)))
#define TYPES "wasi:http/types"
#define STREAMS "wasi:io/streams"

typedef int32_t handle;

/* Results of the component model, as they lie in memory. */
struct text { uint8_t some; const char *bytes; uint32_t length; };
struct made { uint8_t failed; handle handle; };
struct chunk { uint8_t failed; union { struct { uint8_t *bytes; uint32_t length; }; struct { uint8_t error; handle cause; }; }; };
struct written { uint8_t failed; uint8_t error; handle cause; };
/* What holds an error code has numbers of 64 bits in it. */
struct finished { _Alignas(8) uint8_t failed; _Alignas(8) uint8_t error; uint8_t payload[40]; };
struct sent { _Alignas(8) uint8_t failed; union { _Alignas(8) handle handle; uint8_t error; uint8_t payload[40]; }; };
struct received {
    _Alignas(8) uint8_t some;
    _Alignas(8) uint8_t taken;
    struct sent sent;
};

IMPORT(TYPES, "[constructor]fields") handle new_fields(void);
IMPORT(TYPES, "[method]incoming-request.path-with-query") void request_path(handle request, struct text *path);
IMPORT(TYPES, "[method]incoming-request.consume") void request_body(handle request, struct made *body);
IMPORT(TYPES, "[method]incoming-body.stream") void incoming_stream(handle body, struct made *stream);
IMPORT(TYPES, "[method]outgoing-body.write") void outgoing_stream(handle body, struct made *stream);
IMPORT(TYPES, "[static]outgoing-body.finish")
void finish_body(handle body, int32_t trailers, handle fields, struct finished *finished);
IMPORT(TYPES, "[constructor]outgoing-response") handle new_response(handle fields);
IMPORT(TYPES, "[method]outgoing-response.set-status-code") int32_t set_status(handle response, int32_t status);
IMPORT(TYPES, "[method]outgoing-response.body") void response_body(handle response, struct made *body);
/* Behind the response: what an error code would have. */
IMPORT(TYPES, "[static]response-outparam.set")
void set_response(handle outparam, int32_t failed, handle response, int32_t a, int64_t b, int32_t c, int32_t d, int32_t e, int32_t f);
IMPORT(TYPES, "[constructor]outgoing-request") handle new_request(handle fields);
IMPORT(TYPES, "[method]outgoing-request.set-path-with-query")
int32_t set_path(handle request, int32_t some, const char *path, int32_t length);
IMPORT(TYPES, "[method]outgoing-request.set-scheme")
int32_t set_scheme(handle request, int32_t some, int32_t scheme, const char *other, int32_t length);
IMPORT(TYPES, "[method]outgoing-request.set-authority")
int32_t set_authority(handle request, int32_t some, const char *authority, int32_t length);
IMPORT(TYPES, "[method]incoming-response.status") int32_t response_status(handle response);
IMPORT(TYPES, "[method]incoming-response.consume") void consume_response(handle response, struct made *body);
IMPORT(TYPES, "[method]future-incoming-response.subscribe") handle subscribe(handle future);
IMPORT(TYPES, "[method]future-incoming-response.get") void get_response(handle future, struct received *received);
IMPORT("wasi:http/outgoing-handler", "handle")
void send_request(handle request, int32_t has_options, handle options, struct sent *sent);
IMPORT("wasi:io/poll", "[method]pollable.block") void block(handle pollable);
IMPORT("wasi:io/poll", "[resource-drop]pollable") void drop_pollable(handle pollable);
IMPORT(STREAMS, "[method]input-stream.blocking-read") void read_stream(handle stream, int64_t most, struct chunk *chunk);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush")
void write_stream(handle stream, const void *bytes, int32_t length, struct written *written);
IMPORT(STREAMS, "[resource-drop]input-stream") void drop_input(handle stream);
IMPORT(STREAMS, "[resource-drop]output-stream") void drop_output(handle stream);
IMPORT(TYPES, "[resource-drop]incoming-body") void drop_body(handle body);
IMPORT(TYPES, "[resource-drop]incoming-request") void drop_request(handle request);

/* What of a list may be written at once. */
enum { PIECE = 4096 };

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t before, size_t align, size_t size) {
    (void)before;
    (void)align;
    return size == 0 ? (void *)align : realloc(old, size);
}

/* The reactor's own set-up; it is called by the first export that is. */
void _initialize(void);

/* An answer that is being written. */
static handle body, out;

static void begin(handle outparam, int32_t status) {
    struct made made;
    handle response = new_response(new_fields());
    set_status(response, status);
    response_body(response, &made);
    body = made.handle;
    outgoing_stream(body, &made);
    out = made.handle;
    set_response(outparam, 0, response, 0, 0, 0, 0, 0, 0);
}

static int send(const void *bytes, size_t length) {
    const uint8_t *next = bytes;
    while (length > 0) {
        size_t piece = length < PIECE ? length : PIECE;
        struct written written;
        write_stream(out, next, piece, &written);
        if (written.failed) {
            return 1;
        }
        next += piece;
        length -= piece;
    }
    return 0;
}

static void end(void) {
    struct finished finished;
    drop_output(out);
    finish_body(body, 0, 0, &finished);
}

static void answer(handle outparam, int32_t status, const char *text) {
    begin(outparam, status);
    send(text, strlen(text));
    end();
}

/* Copies a body into the answer; returns whether all of it came. */
static int copy(struct made body) {
    struct made stream;
    struct chunk chunk;
    incoming_stream(body.handle, &stream);
    for (;;) {
        read_stream(stream.handle, 65536, &chunk);
        if (chunk.failed) {
            break;
        }
        send(chunk.bytes, chunk.length);
        free(chunk.bytes);
    }
    drop_input(stream.handle);
    drop_body(body.handle);
    return chunk.error == 1;
}

static void wait(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static void fetch(handle outparam, char *where) {
    char text[64], *authority = strchr(where, '/');
    char *path = authority ? strchr(authority + 1, '/') : NULL;
    if (!path) {
        answer(outparam, 400, "wrong path\n");
        return;
    }
    *authority++ = 0;
    handle request = new_request(new_fields());
    set_scheme(request, 1, strcmp(where, "https") == 0, NULL, 0);
    set_authority(request, 1, authority, path - authority);
    set_path(request, 1, path, strlen(path));
    struct sent sent;
    send_request(request, 0, 0, &sent);
    struct received received = {.sent = sent};
    if (!sent.failed) {
        handle pollable = subscribe(sent.handle);
        block(pollable);
        drop_pollable(pollable);
        get_response(sent.handle, &received);
    }
    if (received.sent.failed) {
        snprintf(text, sizeof text, "error %d\n", received.sent.error);
        answer(outparam, 502, text);
        return;
    }
    struct made content;
    snprintf(text, sizeof text, "status %d\n", response_status(received.sent.handle));
    consume_response(received.sent.handle, &content);
    begin(outparam, 200);
    send(text, strlen(text));
    copy(content);
    end();
}

static char *after(char *path, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(path, prefix, length) == 0 ? path + length : NULL;
}

__attribute__((export_name("wasi:http/incoming-handler@0.2.12#handle")))
void handle_request(handle request, handle outparam) {
    static unsigned requests;
    static char line[256];
    char *path, *rest;
    struct text text;
    if (requests++ == 0) {
        setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    }
    request_path(request, &text);
    path = malloc(text.length + 1);
    memcpy(path, text.bytes, text.length);
    path[text.length] = 0;
    if (strcmp(path, "/") == 0) {
        answer(outparam, 200, "hello\n");
    } else if (strcmp(path, "/echo") == 0) {
        struct made content;
        request_body(request, &content);
        begin(outparam, 200);
        if (!copy(content)) {
            send("!", 1);
        }
        end();
    } else if (strcmp(path, "/count") == 0) {
        snprintf(line, sizeof line, "%u\n", requests);
        answer(outparam, 200, line);
    } else if (strcmp(path, "/random") == 0) {
        unsigned long long number = 0;
        getentropy(&number, sizeof number);
        snprintf(line, sizeof line, "%016llx\n", number);
        answer(outparam, 200, line);
    } else if (strcmp(path, "/print") == 0) {
        printf("to stdout\n");
        fprintf(stderr, "to stderr\n");
        answer(outparam, 200, "printed\n");
    } else if ((rest = after(path, "/env/"))) {
        const char *value = getenv(rest);
        answer(outparam, value ? 200 : 404, value ? value : "none\n");
    } else if ((rest = after(path, "/file"))) {
        FILE *file = fopen(rest, "r");
        size_t length = file ? fread(line, 1, sizeof line - 1, file) : 0;
        line[length] = 0;
        answer(outparam, file ? 200 : 404, line);
    } else if ((rest = after(path, "/big/"))) {
        static char zeros[65536];
        begin(outparam, 200);
        for (long left = atol(rest); left > 0; left -= sizeof zeros) {
            if (send(zeros, left < (long)sizeof zeros ? (size_t)left : sizeof zeros)) {
                break;
            }
        }
        end();
    } else if (strcmp(path, "/stream") == 0) {
        begin(outparam, 200);
        for (int i = 1; i <= 3; i++) {
            snprintf(line, sizeof line, "%d\n", i);
            send(line, strlen(line));
            wait(200);
        }
        end();
    } else if ((rest = after(path, "/sleep/"))) {
        wait(atol(rest));
        answer(outparam, 200, "slept\n");
    } else if ((rest = after(path, "/after/"))) {
        answer(outparam, 200, "answered\n");
        wait(atol(rest));
        printf("after the answer\n");
    } else if (strcmp(path, "/spin") == 0) {
        for (volatile unsigned i = 0;; i++) {
        }
    } else if (strcmp(path, "/trap") == 0) {
        __builtin_trap();
    } else if (strcmp(path, "/late-trap") == 0) {
        begin(outparam, 200);
        send("begun\n", 6);
        __builtin_trap();
    } else if (strcmp(path, "/exit") == 0) {
        exit(3);
    } else if (strcmp(path, "/none") == 0) {
        /* Nothing. */
    } else if ((rest = after(path, "/fetch/"))) {
        fetch(outparam, rest);
    } else {
        answer(outparam, 404, "no such path\n");
    }
    free(path);
    free((void *)text.bytes);
    drop_request(request);
}
