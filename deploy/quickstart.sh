#!/usr/bin/env bash
# From a fresh clone to a search by meaning, in one command: installs packages, downloads a model,
# builds, serves it, indexes 20,000 dictionary glosses on the document lane, asks five questions on
# the query lane, and shows the server's metrics.
#
#   deploy/quickstart.sh [--keep]
#
# --keep leaves the server running and prints how to call it. For Debian 12 and Ubuntu 24.04, as
# root or with sudo. Everything outside build/ goes to ${XDG_CACHE_HOME:-~/.cache}/octavo.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "quickstart.sh: $*"
  exit 1
}

keep=
for argument in "$@"; do
  case "$argument" in
    --keep) keep=yes ;;
    *) fail "unknown option $argument; known is --keep" ;;
  esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?neither XDG_CACHE_HOME nor HOME is set}/.cache}/octavo
state=$cache/quickstart
documents=20000
glosses=$state/wordnet-$documents.jsonl
index=$state/index
log=$state/server.log
ports=$state/ports.json
mkdir -p "$state"

# Each phase is announced, and what it took is said when the next one begins.
begin=$EPOCHREALTIME
phase_begin=
seconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN {printf "%.1f", to - from}'; }
end_phase() {
  if [[ -n $phase_begin ]]; then say "    ($(seconds_since "$phase_begin") s)"; fi
  phase_begin=
}
phase() {
  end_phase
  phase_begin=$EPOCHREALTIME
  say "==> $*"
}

server=
stop_server() {
  if [[ -n $server ]]; then
    kill -TERM "$server" 2> /dev/null || true
    wait "$server" || true
    server=
  fi
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

phase "Packages"
"$root/deploy/install_packages.sh"

phase "Model"
model=$("$root/deploy/fetch_model.sh" all-MiniLM-L6-v2 | tail -n 1)
say "$model"

phase "Build"
configure=(--preset release)
if command -v ccache > /dev/null; then
  configure+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
(
  cd "$root"
  cmake "${configure[@]}" > "$state/configure.log" 2>&1 || {
    cat "$state/configure.log" >&2
    exit 1
  }
  cmake --build build/release --target octavo-server octavo-client >&2
) || fail "the build failed; see above"
server_program=$root/build/release/service/octavo-server
client_program=$root/build/release/service/client/octavo-client

phase "Documents: $documents glosses of WordNet"
if [[ ! -s $glosses ]]; then
  python3 "$root/deploy/wordnet_glosses.py" --count="$documents" --out="$glosses"
fi
say "$glosses"

phase "Server"
rm -f "$ports"
"$server_program" --model="$model" --listen=127.0.0.1:0 --metrics_listen=127.0.0.1:0 \
  --port_file="$ports" --kernel_plan="$state/kernel_plan.json" --drain_grace_seconds=0 \
  > /dev/null 2> "$log" &
server=$!
if ! wait_for_server=$(
  python3 - "$server" "$ports" << 'PYTHON'
import json, os, sys, time, urllib.request

server, port_file = int(sys.argv[1]), sys.argv[2]
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    try:
        with open(f"/proc/{server}/stat", encoding="ascii") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "Z":
                sys.exit("it ended")
    except FileNotFoundError:
        sys.exit("it ended")
    try:
        with open(port_file, encoding="ascii") as file:
            ports = json.load(file)
        url = f"http://127.0.0.1:{ports['metrics_port']}/metrics"
        if b"\noctavo_ready 1\n" in urllib.request.urlopen(url, timeout=5).read():
            print(ports["port"], ports["metrics_port"])
            sys.exit(0)
    except (OSError, ValueError):
        pass
    time.sleep(0.02)
sys.exit("it was not SERVING within 120 s")
PYTHON
); then
  cat "$log" >&2
  fail "the server did not start; its log ($log) is above"
fi
read -r port metrics_port <<< "$wait_for_server"
address=127.0.0.1:$port
sed -n 's/^[^ ]* \(SERVING.*\|lane .*\)/\1/p' "$log" >&2
say "gRPC on $address, metrics on http://127.0.0.1:$metrics_port/metrics"
end_phase
say "    ($(seconds_since "$begin") s from the start of this script to here)"

phase "Indexing on the document lane (EmbedStream)"
"$client_program" index "$glosses" --out="$index" --server="$address"

phase "Five questions on the query lane (Embed)"
"$client_program" search --index="$index" --server="$address" \
  "someone who cannot fall asleep" \
  "a place where airplanes are kept" \
  "a doctor who treats animals" \
  "being left out and having no friends" \
  "jewellery that keeps a picture of someone close to the heart"

phase "Metrics by format"
python3 - "$metrics_port" << 'PYTHON'
import sys, urllib.request

url = f"http://127.0.0.1:{sys.argv[1]}/metrics"
for line in urllib.request.urlopen(url, timeout=10).read().decode().splitlines():
    if "format=" in line and "_bucket{" not in line:
        print(line)
PYTHON

if [[ -n $keep ]]; then
  end_phase
  client=$(printf '%q' "$client_program")
  cat << END

The server keeps running as process $server; its log is $log.
  stop it:      kill $server
  search:       $client search --index=$(printf '%q' "$index") --server=$address "a question"
  embed:        $client embed --server=$address "a text"
  what it is:   $client info --server=$address
  from Python:  pip install grpcio grpcio-reflection
                python3 $(printf '%q' "$root/deploy/reflection_client.py") $address "a text"
  grpcurl:      grpcurl -plaintext -d '{"inputs": [{"text": "a text"}], "options": {"input_type": "INPUT_TYPE_QUERY"}}' \\
                  $address octavo.v1.EmbeddingService/Embed
  metrics:      http://127.0.0.1:$metrics_port/metrics
END
  disown "$server"
  server=
else
  phase "Stopping"
  kill -TERM "$server"
  status=0
  wait "$server" || status=$?
  server=
  if ((status != 0)); then
    cat "$log" >&2
    fail "the server ended with status $status; its log ($log) is above"
  fi
  say "the server ended cleanly"
fi
end_phase
say "Done in $(seconds_since "$begin") s."
