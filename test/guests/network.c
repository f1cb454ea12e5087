/*
 * A component that tries what a program does with a network, and prints how each attempt ended: 0, or 1 and the number of
 * WASI's error code. With arguments it looks up each of them as a name, and prints its addresses. The version of the imports
 * is that of the adapter.
 */

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define IMPORT_OF(package, interface, function) \
    __attribute__((import_module("wasi:" package "/" interface "@0.2.12"), import_name(function)))
#define IMPORT(interface, function) IMPORT_OF("sockets", interface, function)

/* A result of the component model: a tag, and behind it a handle or an error code. */
struct result {
    uint8_t failed;
    union {
        uint8_t error;
        int32_t handle;
    };
};

IMPORT("instance-network", "instance-network") int32_t instance_network(void);
IMPORT("tcp-create-socket", "create-tcp-socket") void create_tcp_socket(int32_t family, struct result *result);
/* The address is a variant of a port and four bytes, or of what IPv6 has: eleven numbers behind the tag. */
IMPORT("tcp", "[method]tcp-socket.start-bind")
void start_bind(int32_t socket, int32_t network, int32_t family, int32_t port, int32_t a, int32_t b, int32_t c, int32_t d,
                int32_t e, int32_t f, int32_t g, int32_t h, int32_t i, int32_t j, struct result *result);
IMPORT("ip-name-lookup", "resolve-addresses")
void resolve_addresses(int32_t network, const char *name, int32_t length, struct result *result);


/* The next address of a name, if there is one, or an error code. */
struct next {
    uint8_t failed;
    union {
        uint8_t error;
        struct {
            uint8_t some;
            struct {
                uint8_t is_v6;
                union {
                    uint8_t v4[4];
                    uint16_t v6[8];
                } bytes;
            } address;
        } found;
    } is;
};

#define STREAM "[method]resolve-address-stream."
IMPORT("ip-name-lookup", STREAM "resolve-next-address") void next_address(int32_t stream, struct next *next);
IMPORT("ip-name-lookup", STREAM "subscribe") int32_t subscribe(int32_t stream);
IMPORT("ip-name-lookup", "[resource-drop]resolve-address-stream") void drop_stream(int32_t stream);
IMPORT_OF("io", "poll", "[method]pollable.block") void block(int32_t pollable);
IMPORT_OF("io", "poll", "[resource-drop]pollable") void drop_pollable(int32_t pollable);

/* Prints a name and its addresses, or "error" and the number of WASI's error code. */
static void look_up(int32_t network, const char *name) {
    struct result resolved = {0};
    printf("%s", name);
    resolve_addresses(network, name, (int32_t)strlen(name), &resolved);
    if (resolved.failed) {
        printf(" error %d\n", resolved.error);
        return;
    }
    int32_t pollable = subscribe(resolved.handle);
    block(pollable);
    drop_pollable(pollable);
    for (;;) {
        struct next next = {0};
        next_address(resolved.handle, &next);
        if (next.failed) {
            printf(" error %d", next.is.error);
            break;
        }
        if (!next.is.found.some) {
            break;
        }
        char text[INET6_ADDRSTRLEN];
        int is_v6 = next.is.found.address.is_v6;
        for (int i = 0; is_v6 && i < 8; i++) {
            next.is.found.address.bytes.v6[i] = htons(next.is.found.address.bytes.v6[i]);
        }
        inet_ntop(is_v6 ? AF_INET6 : AF_INET, &next.is.found.address.bytes, text, sizeof text);
        printf(" %s", text);
    }
    drop_stream(resolved.handle);
    printf("\n");
}

static void print(const char *what, const struct result *result) {
    printf("%s %d", what, result->failed);
    if (result->failed) {
        printf(" %d", result->error);
    }
    printf("\n");
}

int main(int count, char **arguments) {
    int32_t network = instance_network();
    if (count > 1) {
        for (int i = 1; i < count; i++) {
            look_up(network, arguments[i]);
            fflush(stdout);
        }
        return 0;
    }
    struct result socket = {0}, bound = {0}, resolved = {0};
    create_tcp_socket(0, &socket);
    if (socket.failed) {
        bound = socket;
    } else {
        start_bind(socket.handle, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, &bound);
    }
    print("bind", &bound);
    resolve_addresses(network, "127.0.0.1", 9, &resolved);
    print("lookup", &resolved);
    return 0;
}
