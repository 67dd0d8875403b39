#!/usr/bin/env bash
# A cluster on one machine, to see the job there before it meets a real one: Spark's standalone master and two workers
# with conf/cluster.yaml, spark-submit of conf/submit.py on generated studies, a worker that is killed in the middle and
# another one that comes in its place. At the end every series must be done and RESULTS must verify.
#
#   deploy/rehearse.sh [--short] [--series N] [--model NAME] [--folder FOLDER]
#
#   --short         few small volumes without a model
#   --series N      how many (24; --short 30)
#   --model NAME    hippocampus_mr, or none (--short)
#   --folder FOLDER where studies, results and logs are left; default: a temporary one, its name is told
#
# Python is that of .venv, or what PYTHON names; it needs the package's requirements and Java 17. All ports are on
# 127.0.0.1. Exit code 0: all of it held.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
n_series="" model="" folder="" short=false
while [ $# -gt 0 ]; do
  case "$1" in
    --short) short=true ;;
    --series) n_series=$2; shift ;;
    --model) model=$2; shift ;;
    --folder) folder=$2; shift ;;
    *) sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 2 ;;
  esac
  shift
done
if $short; then : "${n_series:=30}" "${model:=none}"; else : "${n_series:=24}" "${model:=hippocampus_mr}"; fi
folder=${folder:-$(mktemp -d -t imaging-rehearsal-XXXXXX)}
studies=$folder/studies results=$folder/results logs=$folder/logs
mkdir -p "$studies" "$logs" "$folder/conf" "$folder/tmp"

SPARK_HOME=$("$python" -c 'import os, pyspark; print(os.path.dirname(pyspark.__file__))')
export SPARK_HOME SPARK_CONF_DIR=$folder/conf SPARK_LOCAL_IP=127.0.0.1 SPARK_NO_DAEMONIZE=1 TMPDIR=$folder/tmp
export PYSPARK_PYTHON=$python PYSPARK_DRIVER_PYTHON=$python IMAGING_PIPELINE_HOME=$root
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} SPARK_DAEMON_MEMORY=256m
# a quick start of JVMs, as sessions of this package on one machine have it
export SPARK_DAEMON_JAVA_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" SPARK_SUBMIT_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

say() { printf '%4d s  %s\n' $((SECONDS)) "$*"; }
fail() { say "FAILED: $*; logs are in $logs"; exit 1; }
fetch() { "$python" -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())' "$1" 2>/dev/null; }
port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
n_done() { find "$results/receipts" -name '*.json' 2>/dev/null | wc -l; }

started=()
stop_all() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
}
trap stop_all EXIT

daemon() { # NAME CLASS ARGUMENTS; its process in $launched
  local name=$1
  shift
  "$SPARK_HOME/bin/spark-class" "$@" >"$logs/$name.log" 2>&1 &
  launched=$!
  started+=("$launched")
}

worker() { # NAME
  daemon "$1" org.apache.spark.deploy.worker.Worker --host 127.0.0.1 --port 0 --webui-port 0 --cores 1 --memory 1g \
    --work-dir "$folder/work/$1" "spark://127.0.0.1:$master_port"
}


wait_for() { # SECONDS WHAT COMMAND...
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if [ "$SECONDS" -ge "$limit" ]; then fail "no $what"; fi
    sleep 0.2
  done
}
has_workers() { [ "$(grep -c 'Registering worker' "$logs/master.log")" -ge "$1" ]; }
has_done() { [ "$(n_done)" -ge "$1" ] || ! kill -0 "$submit" 2>/dev/null; }

# the secret that conf/cluster.yaml asks for: in a file of its owner alone, the same one for master, workers and driver
(
  umask 077
  echo "spark.authenticate.secret $("$python" -c 'import secrets; print(secrets.token_hex(32))')" >"$folder/conf/spark-defaults.conf"
  echo "spark.authenticate true" >>"$folder/conf/spark-defaults.conf"
)
cat >"$folder/conf/metrics.properties" <<'CONF'
*.sink.prometheusServlet.class=org.apache.spark.metrics.sink.PrometheusServlet
*.sink.prometheusServlet.path=/metrics/prometheus
master.sink.prometheusServlet.path=/metrics/master/prometheus
CONF

say "folder $folder: $n_series series, model $model"
"$python" - "$studies" "$n_series" "$model" <<'PYTHON'
import sys
from pathlib import Path

from sample_data.phantom import CtSpec, write_ct

folder, n, model = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shape = (128, 128, 24) if model == "none" else (40, 48, 36)
for number in range(n):
    spec = CtSpec(shape=shape, spacing_mm=(1.0, 1.0, 1.0), modality="MR", seed=number, patient_id=f"PHANTOM-{number:04d}")
    write_ct(spec, folder / f"{number:04d}")
PYTHON

master_port=$(port) ui_port=$(port)
daemon master org.apache.spark.deploy.master.Master --host 127.0.0.1 --port "$master_port" --webui-port "$ui_port"
worker worker-1
doomed=$launched
worker worker-2
wait_for 240 "two workers" has_workers 2
say "master spark://127.0.0.1:$master_port with two workers"

options=()
if "$python" -c 'import sys; from imaging_pipeline.settings import Settings; sys.exit("metrics" not in Settings.model_fields)'; then
  metrics_port=$(port)
  options+=(--set "metrics.port=$metrics_port")
fi
began=$SECONDS
"$SPARK_HOME/bin/spark-submit" --master "spark://127.0.0.1:$master_port" --driver-memory 512m \
  "$root/conf/submit.py" "$studies" --out "$results" --config "$root/conf/cluster.yaml" --model "$model" \
  --set spark.task_cpus=1 --set 'spark.largest_volume=[128, 128, 64]' \
  --set 'spark.conf={spark.executor.cores: "1", spark.executor.memory: 512m, spark.cores.max: "2"}' \
  "${options[@]}" >"$logs/driver.out" 2>"$logs/driver.log" &
submit=$!
started+=("$submit")

wait_for 300 "series done" has_done $((n_series / 6))
at_kill=$(n_done)
kill -0 "$submit" 2>/dev/null || fail "the run ended before a worker could be killed: $(tail -1 "$logs/driver.out")"
kill -KILL "$doomed"
wait "$doomed" 2>/dev/null || true
say "killed worker-1 with $at_kill of $n_series series done; worker-3 comes"
worker worker-3
fetch "http://127.0.0.1:$ui_port/metrics/master/prometheus/" >"$logs/master.prom" || fail "the master gives no metrics"
if [ -n "${metrics_port:-}" ]; then
  fetch "http://127.0.0.1:$metrics_port/metrics" >"$logs/driver.prom" || fail "the driver gives no metrics"
fi

code=0
wait "$submit" || code=$?
seconds=$((SECONDS - began))
cp -r "$results/logs" "$logs/run" 2>/dev/null || true
for path in "$folder"/work/*/app-*/*; do
  if [ -f "$path/stderr" ]; then cp "$path/stderr" "$logs/executor-$(basename "$path").log"; fi
done
[ "$code" -eq 0 ] || fail "spark-submit ended with code $code: $(tail -1 "$logs/driver.out")"
[ "$at_kill" -lt "$n_series" ] || fail "nothing was left to do when worker-1 was killed"
lost=$(grep -c "Lost executor" "$logs/driver.log" || true)
[ "$lost" -ge 1 ] || fail "no executor was lost"

"$python" -m imaging_pipeline.verify "$results" >"$logs/verify.out" 2>&1 || fail "$results does not verify: $(tail -1 "$logs/verify.out")"
"$python" - "$results" "$n_series" <<'PYTHON' || fail "not every series is done"
import sys
from collections import Counter
from pathlib import Path

from imaging_pipeline.results.index import SERIES
from imaging_pipeline.results.tables import open_table
from imaging_pipeline.stores import LocalStore

rows = open_table(LocalStore(root=Path(sys.argv[1])), SERIES, "delta").read().to_pylist()
counts, n = Counter(row["status"] for row in rows), len({row["series_key"] for row in rows})
print("        index:", dict(counts), "of", n, "series")
sys.exit(counts != {"done": int(sys.argv[2])} or n != len(rows))
PYTHON
say "verify: $(tail -1 "$logs/verify.out")"
say "$n_series series in $seconds s, $((n_series * 60 / (seconds > 0 ? seconds : 1))) a minute, executors lost: $lost"
if [ -f "$results/metrics.prom" ]; then
  cp "$results/metrics.prom" "$logs/"
  say "metrics.prom begins:"
  sed -n '1,6s/^/        /p' "$results/metrics.prom"
fi
say "master's metrics: $(grep -c . "$logs/master.prom") lines, workers alive $(grep -m1 -i 'aliveWorkers' "$logs/master.prom" | awk '{print $NF}')"
say "all held; studies, results and logs are in $folder"
