# Cleans up after a private containerd as soon as standard input ends: its owner has closed it, or is dead.
# Everything that was started below the daemon has its runtime folder in the environment, or is in a cgroup of its namespaces.
folder=$1
cat >/dev/null
round=0
while [ $round -lt 50 ]; do
    pids=$({ grep -lz "^PREWASI_RUNTIME_DIR=$folder/run\$" /proc/[0-9]*/environ
        grep -l "/${folder##*/}-" /proc/[0-9]*/cgroup; } 2>/dev/null | cut -d/ -f3)
    [ -n "$pids" ] || break
    kill -KILL $pids 2>/dev/null
    round=$((round + 1))
    sleep 0.05
done
grep -F " $folder/" /proc/self/mountinfo | cut -d' ' -f5 | sort -r | while read -r mount; do umount -l "$mount"; done
find /sys/fs/cgroup -depth -type d -path "*/${folder##*/}-*" -exec rmdir {} \; 2>/dev/null
rm -rf --one-file-system "$folder"
