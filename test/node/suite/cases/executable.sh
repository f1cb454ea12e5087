# The shim's file cannot be written through /proc/PID/exe of a process in a container, whether the shim still runs or not.
# kinds: native wasm
# short: systemd::wasm
# reference: none
# alone
# Opens, and writes nothing.
shim=$(command -v containerd-shim-wasmtime-v1)
before=$(sha256sum <"$shim")
try() { why sh -c ': >>"$1"' sh "$1"; }
start box '{}' sleep 1000
exe=/proc/$(pid_of box)/exe
if [ "$(stat -L -c %d:%i "$exe")" = "$(stat -c %d:%i "$shim")" ]; then
    expect "opening the shim for writing while it runs" "Text file busy" "$(try "$exe")"
    exec 9<"$exe"
    remove box
    nobody_runs_it() { ! pgrep -f "^$shim " >/dev/null; }
    eventually nobody_runs_it
    expect "opening the shim for writing by what was kept of it" "Read-only file system" "$(try /proc/self/fd/9)"
    exec 9<&-
fi
found=$(why run inside '{}' write /proc/self/exe text)
case $found in
    "Read-only file system" | "Operation not permitted" | "Permission denied" | "Symbolic link loop") ;;
    "Text file busy") [ "$KIND" = native ] || fail "in the container, the shim is writable once nobody runs it" ;;
    *) fail "writing in the container: $found" ;;
esac
expect "the shim's file" "$before" "$(sha256sum <"$shim")"
