/*
 * A component that tries what a program does with a network, and prints how each attempt ended: 0, or 1 and the number of
 * WASI's error code. The version of the imports is that of the adapter.
 */

#include <stdint.h>
#include <stdio.h>

#define IMPORT(interface, function) \
    __attribute__((import_module("wasi:sockets/" interface "@0.2.12"), import_name(function)))

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

static void print(const char *what, const struct result *result) {
    printf("%s %d", what, result->failed);
    if (result->failed) {
        printf(" %d", result->error);
    }
    printf("\n");
}

int main(void) {
    int32_t network = instance_network();
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
