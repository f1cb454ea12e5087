# A paused container does not run, and goes on when it is resumed.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
start box '{}' sleep 1000
ctr tasks pause box
eventually is box PAUSED
cgroup_files box cgroup.freeze
grep frozen "$(cgroup_of box)/cgroup.events"
ctr tasks resume box
eventually is box RUNNING
cgroup_files box cgroup.freeze
# One that is paused can be killed.
ctr tasks pause box
ctr tasks kill --signal SIGKILL box
eventually is box STOPPED
echo "exit code $(exit_code_of box)"
