# The shim's file cannot be written through /proc/PID/exe of a process in a container, whether the shim still runs or not.
# kinds: native wasm
# reference: none
shim=$(command -v containerd-shim-wasmtime-v1)
before=$(sha256sum <"$shim")
# Opens, and writes nothing.
try() { why sh -c ': >>"$1"' sh "$1"; }
start box '{}' sleep 1000
exe=/proc/$(pid_of box)/exe
if [ "$(stat -L -c %d:%i "$exe")" = "$(stat -c %d:%i "$shim")" ]; then
    # "Text file busy" is what a file says that can be written as soon as nobody runs it.
    expect "opening the shim for writing, on the node" "Read-only file system" "$(try "$exe")"
fi
found=$(why run inside '{}' write /proc/self/exe text)
case $found in
    "Read-only file system" | "Operation not permitted" | "Permission denied") ;;
    "Text file busy") [ "$KIND" = native ] || fail "in the container, the shim is writable once nobody runs it" ;;
    *) fail "writing in the container: $found" ;;
esac
expect "the shim's file" "$before" "$(sha256sum <"$shim")"
