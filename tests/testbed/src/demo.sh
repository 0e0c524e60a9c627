# Runs in the testbed: one container with runc's kernel, one with Caisson's.
set -eu
image=docker.io/library/busybox:latest
runtime=io.containerd.caisson.v2

echo
echo "\$ ctr run --rm --runtime $runtime $image demo sh -c 'echo \"Hello from \$(uname -r)\"; exit 42'"
code=0
ctr run --rm --runtime $runtime $image demo \
    sh -c 'echo "Hello from $(uname -r), process $$"; exit 42' || code=$?
echo "exit code: $code"

ctr run --detach --runtime $runtime $image kernel sh -c 'uname -r; sleep 1000'
inside=$(ctr task exec --exec-id uname kernel uname -r)
echo
printf '%-24s %s\n' 'uname -r of the host' "$(uname -r)" 'uname -r of the container' "$inside"
echo
cat /run/caisson/default/kernel/phases
ctr task kill --signal 9 kernel
ctr task delete kernel >/dev/null || true
ctr container delete kernel
[ "$code" = 42 ]
