#!/bin/sh
# demo.sh CORACLE LISTEN: brings up a cluster on an empty data directory, deploys hello-http and fetches it
# through its Service, then stays up until Ctrl-C.
set -eu
coracle=$(realpath "$1")
listen=$2
here=$(cd "$(dirname "$0")" && pwd)

data=$(mktemp -d "${TMPDIR:-/tmp}/coracle-demo.XXXXXX")
export KUBECONFIG="$data/kubeconfig"
server=""

stop() {
    trap '' INT TERM
    trap - EXIT
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$data"
    exit "$1"
}
trap 'echo; echo "demo: stopping"; stop 0' INT TERM
trap 'stop $?' EXIT

say() { printf 'demo: %s\n' "$*"; }

say "starting coracle up on the empty data directory $data"
mkfifo "$data/stdout"
"$coracle" up --data-dir "$data/data" --listen "$listen" --kubeconfig "$KUBECONFIG" \
    >"$data/stdout" 2>"$data/log" &
server=$!
exec 3<"$data/stdout"

ready=""
while [ -z "$ready" ] && IFS= read -r line <&3; do
    echo "$line"
    case $line in Node\ *\ ready) ready=yes ;; esac
done
if [ -z "$ready" ]; then
    say "coracle up ended before its node was ready:"
    tail -n 20 "$data/log"
    exit 1
fi
cat <&3 &

say "importing the samples' images"
"$coracle" image import --data-dir "$data/data" "$here/hello-http/hello-http.wasm" \
    --tag coracle.dev/samples/hello-http:v1
"$coracle" image import --data-dir "$data/data" "$here/hello-http/hello-http-v2.wasm" \
    --tag coracle.dev/samples/hello-http:v2

say "applying samples/hello-http"
"$coracle" apply -f "$here/hello-http/"
"$coracle" wait --for=condition=Available deployment/hello-http --timeout=60s

service=$("$coracle" get service hello-http -o json)
field() { printf '%s\n' "$service" | sed -n "s/.*\"$1\": *\"*\([^\",}]*\).*/\1/p" | head -n 1; }
url=http://$(field clusterIP):$(field port)/
answer=$(curl --silent --show-error --fail --max-time 5 --retry 20 --retry-delay 1 --retry-connrefused "$url")

cat <<END

hello-http, through its Service, says:
    $answer

URL         $url
kubeconfig  $KUBECONFIG

Try next:
    kubectl --kubeconfig $KUBECONFIG get nodes,pods,services -o wide
    kubectl --kubeconfig $KUBECONFIG scale deployment/hello-http --replicas=5
    kubectl --kubeconfig $KUBECONFIG set image deployment/hello-http hello-http=coracle.dev/samples/hello-http:v2

The cluster runs until Ctrl-C.
END

# A signal interrupts this wait and runs the trap above; the loop ends when the server itself does.
wait "$server" || true
say "coracle up ended by itself:"
tail -n 20 "$data/log"
server=""
exit 1
