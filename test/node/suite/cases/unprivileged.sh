# A user without rights runs a program with `prewasi run`.
# kinds: wasm
# reference: none
as_user() { runuser -u user -- "$@"; }
cp "$rootfs/demo.wasm" "$rootfs/demo-component.wasm" /tmp/
expect "what it prints" hello "$(as_user prewasi run /tmp/demo.wasm echo hello)"
expect "what a component prints" hello "$(as_user prewasi run /tmp/demo-component.wasm echo hello)"
code=0
as_user prewasi run /tmp/demo.wasm exit 7 || code=$?
expect "its exit code" 7 "$code"
