# A process of exec is in the container's cgroup and namespaces, with the attributes of its own specification.
# drivers: path systemd
# kinds: native
start box '{}' sleep 1000
ctr tasks exec --exec-id id --user 1000:1000 box sh -c 'id -u; id -g; grep -E "^(Cap|NoNew|Seccomp|SigBlk|SigIgn)" /proc/self/status'
ctr tasks exec --detach --exec-id sleep box sleep 1000
inside() { [ "$(wc -l <"$(cgroup_of box)/cgroup.procs")" = 2 ]; }
eventually inside
for pid in $(cat "$(cgroup_of box)/cgroup.procs"); do
    readlink "/proc/$pid/ns/"{mnt,pid,net,ipc,uts,cgroup} | sort | md5sum
done | uniq | wc -l
ctr tasks exec --exec-id code box sh -c 'exit 7' || echo "exit code $?"
