# Hooks run at their times, and are told the state of the container.
# kinds: native wasm
# short: systemd::wasm
cat >hook <<'H'
#!/bin/sh
# The container's state comes by standard input.
echo "$1: $(sed 's/.*"status": *"\([a-z]*\)".*/\1/')" >>"$2"
H
chmod +x hook
hook() { echo '"'"$1"'": [{"path": "'"$work"'/hook", "args": ["hook", "'"$1"'", "'"$work"'/calls"]}]'; }
run box '{"hooks": {'"$(hook prestart), $(hook createRuntime), $(hook createContainer), $(hook poststart), $(hook poststop)"'}}' sleep 1 >/dev/null
eventually grep -q poststop calls
# runc before 1.3 runs poststart hooks before the start.
sed 's/^poststart: .*/poststart/' calls
[ "$RUNTIME" = runc ] || expect "the state that the poststart hook is told" "poststart: running" "$(grep poststart calls)"
# One that fails stops the creation.
code=0
run broken '{"hooks": {"createRuntime": [{"path": "/bin/false"}]}}' sleep 1 >/dev/null || code=$?
echo "a hook that fails: exit code $code"
