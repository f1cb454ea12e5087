# After a reboot containers are there, none runs, and each can be started again.
# kinds: native wasm
# reboot
if [ "$PHASE" = before ]; then
    start box '{}' sleep 1000
    echo "before: $(status_of box)"
    exit
fi
echo "after: $(ctr containers ls -q) '$(status_of box)'"
ctr tasks start --detach box
echo "again: $(status_of box)"
