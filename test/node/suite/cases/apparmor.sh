# A process has the AppArmor profile that the specification names, and obeys it.
# kinds: native wasm
profile=$NAMESPACE
cat >profile <<P
#include <tunables/global>
profile $profile flags=(attach_disconnected, mediate_deleted) {
  file,
  capability,
  network,
  signal,
  deny /etc/passwd r,
}
P
apparmor_parser --replace profile
restore() { remove_all; apparmor_parser --remove "$work/profile"; }
label() { tr -d '\0' <"/proc/$1/attr/current" | sed "s/$NAMESPACE/PROFILE/"; echo; }

start box '{"process": {"apparmorProfile": "'"$profile"'"}}' sleep 1000
found=$(label "$(pid_of box)")
expect "the label" "PROFILE (enforce)" "$found"
echo "label: $found"
found=$(why run reading '{"process": {"apparmorProfile": "'"$profile"'"}}' read /etc/passwd)
expect "reading what is denied" "Permission denied" "$found"
echo "denied: $found"
start none '{}' sleep 1000
# runc's own program has a profile in Debian, one that confines nothing.
echo "without a profile: $(label "$(pid_of none)" | sed 's/^runc (unconfined)$/unconfined/')"
start unconfined '{"process": {"apparmorProfile": "unconfined"}}' sleep 1000
echo "unconfined: $(label "$(pid_of unconfined)")"
code=0
run unknown '{"process": {"apparmorProfile": "no-such-profile"}}' sleep 1 >/dev/null || code=$?
echo "a profile that is not loaded: exit code $code"
