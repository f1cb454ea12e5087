# A program that takes more memory than its container may have is killed, and that is told.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
command ctr -n "$NAMESPACE" events >events 2>/dev/null &
watcher=$!
restore() { kill "$watcher"; }
code=0
run box '{"linux": {"resources": {"memory": {"limit": 41943040, "swap": 41943040}}}}' allocate 200 >output || code=$?
echo "exit code $code, output '$(head -c 200 output)'"
expect "the exit code" 137 "$code"
eventually grep -q '/tasks/oom' events
echo told
