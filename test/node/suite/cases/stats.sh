# Figures have the fields that runc's have, and the values where these are known.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
start box '{"linux": {"resources": {"memory": {"limit": 104857600, "swap": 104857600}, "pids": {"limit": 50}}}}' sleep 1000
sleep 2
ctr tasks metrics --format json box >metrics
jq -r 'paths(scalars) | map(tostring) | join(".")' metrics | sort >fields
# Zeros are left out, so that what a process happens not to have done is no field.
grep -vE '(pgmajfault|workingset|thp_|pgsteal|pgscan|pglazy|pgdeactivate|pgactivate|pgrefill|throttled|inactive_|active_|unevictable|file_|shmem|sock|anon_thp|kernel_stack|psi|memory\.file|\.io\.|usage\.[0-9])' fields
jq -c '.. | objects | select(has("usage_limit")) | {usage_limit, swap_limit}' metrics
jq -c '.. | objects | select(has("limit") and has("current")) | {limit, counted: (.current > 0)}' metrics
# A guest's engine may have threads, which count.
[ "$KIND" = wasm ] || expect "processes" 1 "$(jq -r '.. | objects | select(has("limit") and has("current")) | .current' metrics)"
