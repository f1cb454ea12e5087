# Containers go on while containerd restarts, or is killed, and end as ever.
# kinds: native wasm
# short: systemd::wasm
# alone
start box '{}' sleep 1000
start other '{}' sleep 1000
before=$(pid_of box)
systemctl restart containerd
eventually is box RUNNING
expect "its process after a restart" "$before" "$(pid_of box)"
kill -9 "$(systemctl show --property MainPID --value containerd)"
eventually systemctl is-active --quiet containerd
eventually is box RUNNING
expect "its process after containerd was killed" "$before" "$(pid_of box)"
cgroup_files box cgroup.freeze pids.max
kill -9 "$(pid_of other)"
eventually is other STOPPED
echo "killed from outside: exit code $(exit_code_of other)"
ctr tasks kill --signal SIGKILL box
eventually is box STOPPED
echo "killed: exit code $(exit_code_of box)"
