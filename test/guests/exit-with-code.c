/*
 * Linked into the component in the place of libc's own: the adapter from WASI preview 1 knows of an exit code only
 * whether it is 0, while preview 2 can say which it is. The version is that of the adapter.
 */

#include <stdint.h>

__attribute__((import_module("wasi:cli/exit@0.2.12"), import_name("exit-with-code"))) void exit_with_code(uint32_t code);

_Noreturn void __wrap___wasi_proc_exit(uint32_t code) {
    exit_with_code(code);
    __builtin_trap();
}
