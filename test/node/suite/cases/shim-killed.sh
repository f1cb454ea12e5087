# When the shim's daemon is killed its container ends, containerd hears of it, and nothing stays behind.
# drivers: path systemd
# kinds: native wasm
# short: systemd::wasm
start box '{}' sleep 1000
pid=$(pid_of box)
folder=$(cgroup_of box)
daemon=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
kill -9 "$daemon"
gone() { ! kill -0 "$pid" 2>/dev/null; }
eventually gone
stopped() { [ "$(status_of box)" = STOPPED ] || [ -z "$(status_of box)" ]; }
eventually stopped
emptied() { [ ! -d "$folder" ]; }
eventually emptied
echo "ended, removed"
