#!/usr/bin/env bash
# Docker Engine 26.1.5 (Debian's docker.io): of the options that `daemon.json` has for a runtime other than runc's, a shim is given ConfigPath. Every other
# key is dropped, and neither `docker`, nor dockerd's log, nor `dockerd --validate` says so. A shim whose options are a table of its own,
# as in containerd's configuration for Kubernetes, never sees them.
#
# The shim here is a shell script that keeps what containerd 1.7 writes to its standard input. Wants root, and Debian's package sources.
#
# Seen on 2026-12-01:
#   configuration OK
#   options handed to the shim: runtimeoptions.v1.Options /etc/shim.toml
#   mentioned in dockerd's log: no
set -euo pipefail
folder=$(mktemp -d /tmp/docker-options.XXXX)
started=()
clean() {
    for pid in "${started[@]}"; do kill "$pid" && wait "$pid" || true; done
    awk -v folder="$folder/" 'index($5, folder) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount -l
    rm -rf "$folder"
}
trap clean EXIT

# Packages of Debian 13, unpacked and not installed.
mkdir -p "$folder"/{debs,root,bin}
# shellcheck source=test/apt.sh
. "$(dirname "$0")/../test/apt.sh"
copy_sources "$folder" trixie
private_apt "$folder" apt-get update >/dev/null
(cd "$folder/debs" && private_apt "$folder" apt-get download 'docker.io=26.1.5*' 'docker-cli=26.1.5*' 'containerd=1.7.24*' 'runc=1.1.15*' >/dev/null)
for deb in "$folder"/debs/*.deb; do dpkg -x "$deb" "$folder/root"; done
export PATH=$folder/bin:$folder/root/usr/bin:$folder/root/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin

cat >"$folder/bin/containerd-shim-keeps-v1" <<END
#!/bin/sh
case " \$* " in *" start "*) cat >"$folder/given"; exit 1 ;; esac
END
chmod +x "$folder/bin/containerd-shim-keeps-v1"
cat >"$folder/config.toml" <<END
version = 2
root = "$folder/containerd"
state = "$folder/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$folder/c.sock"
[ttrpc]
address = "$folder/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "$folder/opt"
END
cat >"$folder/daemon.json" <<END
{ "data-root": "$folder/data", "exec-root": "$folder/exec", "pidfile": "$folder/pid", "hosts": ["unix://$folder/d.sock"],
  "containerd": "$folder/c.sock", "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false,
  "runtimes": { "keeps": { "runtimeType": "io.containerd.keeps.v1", "options": { "ConfigPath": "/etc/shim.toml", "colour": "blue" } } } }
END
wait_for() { for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "no end of waiting for: $*" >&2; return 1; }
valid=$(dockerd --validate --config-file "$folder/daemon.json" 2>&1)
containerd --config "$folder/config.toml" >"$folder/containerd.log" 2>&1 & started+=($!)
wait_for test -S "$folder/c.sock"
dockerd --config-file "$folder/daemon.json" >"$folder/dockerd.log" 2>&1 & started=($! "${started[@]}")
export DOCKER_HOST=unix://$folder/d.sock
wait_for docker version
tar --create --files-from /dev/null | docker import --change 'CMD ["/none"]' - empty:1 >/dev/null
docker run --rm --runtime keeps empty:1 >/dev/null 2>"$folder/said" && { echo "a shim that fails has run a container" >&2; exit 1; }
given=$(tr -cs 'A-Za-z0-9./' ' ' <"$folder/given" | grep -oE '[A-Za-z0-9./]{5,}' | tr '\n' ' ')
mentioned=no
grep -qE 'colour|blue' "$folder/dockerd.log" "$folder/said" && mentioned=yes
seen="$valid
options handed to the shim: ${given% }
mentioned in dockerd's log: $mentioned"
printf '%s\n' "$seen"
expected="configuration OK
options handed to the shim: runtimeoptions.v1.Options /etc/shim.toml
mentioned in dockerd's log: no"
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
