# A process has the attributes that an exec'ed one has, and shows nothing of the shim: arguments, environment, signals, descriptors.
# kinds: native wasm
# short: systemd::wasm
start box '{"process": {"oomScoreAdj": 100, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}], "env": ["PATH=/bin", "COLOUR=red"]}}' sleep 1000
process=/proc/$(pid_of box)
mapfile -t arguments < <(guest sleep 1000)
expect "its command line" "${arguments[*]} " "$(tr '\0' ' ' <"$process/cmdline")"
# runc adds HOME for programs; a guest is told its working directory.
tr '\0' '\n' <"$process/environ" | grep -Ev '^(HOSTNAME|HOME|PWD)=' | sort
grep -E '^(Uid|Gid|Groups|Umask|SigBlk):' "$process/status"
cat "$process/oom_score_adj" "$process/personality"
grep -E '^Max (open files|core file size|stack size|locked memory)' "$process/limits"
# What differs by design, and how: docs/parity.md. The specification has noNewPrivileges.
own=$(awk '/^(SigIgn|NoNewPrivs|Seccomp):/ { print $2 }' "$process/status" | xargs)
if [ "$KIND" = native ]; then
    expect "its ignored signals, privileges and filter" "0000000000000000 1 0" "$own"
    expect "its descriptors" "0 1 2" "$(find "$process/fd" -type l -printf '%f\n' | sort -n | xargs)"
else
    expect "its ignored signals, privileges and filter" "0000000000001000 1 2" "$own"
fi
readlink "$process/cwd" "$process/root"
cat "$process/timerslack_ns"
