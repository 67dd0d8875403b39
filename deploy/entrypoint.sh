#!/usr/bin/env bash
# What a container of the image runs; tini is process 1 and starts this.
#
#   driver ARGUMENTS      a driver pod of Spark on Kubernetes: spark-submit in client mode
#   executor              an executor pod of Spark on Kubernetes
#   COMMAND ARGUMENTS     a command of the package: run STUDIES --out RESULTS, verify RESULTS, ...
#   anything else         is run as it is
#
# driver and executor keep to the contract of the entrypoint.sh that comes with Spark's own image. There is one
# difference: SIGTERM of a driver pod goes to Python, which finishes the series at work and ends with code 5, instead of
# to the JVM, which would take the executors down under it.
set -euo pipefail

make_folders() { # the image is read-only: whatever is written as it goes along lies under /tmp
  local name
  for name in HOME XDG_CACHE_HOME NUMBA_CACHE_DIR MPLCONFIGDIR; do
    if [ -n "${!name:-}" ]; then mkdir -p "${!name}"; fi
  done
}

name_the_user() { # Java and Hadoop want a name for the user, and platforms that choose a uid give it none
  local wrapper
  if getent passwd "$(id -u)" >/dev/null; then return; fi
  wrapper=$(find /usr/lib /usr/lib64 -name 'libnss_wrapper.so*' -print -quit 2>/dev/null)
  if [ -z "$wrapper" ]; then return; fi
  NSS_WRAPPER_PASSWD=$(mktemp)
  echo "spark:x:$(id -u):$(id -g):spark:${HOME:-/tmp}:/bin/false" >"$NSS_WRAPPER_PASSWD"
  export LD_PRELOAD="$wrapper" NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP=/etc/group
}

is_command() { # a module of the package that can be run
  [[ "$1" =~ ^[a-z_]+$ ]] && python - "$1" <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

spec = find_spec(f"imaging_pipeline.{sys.argv[1]}")
is_file = spec is not None and spec.origin is not None
sys.exit(not (is_file and '\nif __name__ == "__main__"' in Path(spec.origin).read_text(encoding="utf-8")))
PYTHON
}

drive() { # runs a driver; its JVM is our child, and Python that of the JVM
  local submit code=0
  trap 'pkill -TERM -P "$submit" || kill -TERM "$submit" 2>/dev/null || true' TERM INT
  "$@" &
  submit=$!
  while true; do
    code=0
    wait "$submit" || code=$?
    if ! kill -0 "$submit" 2>/dev/null; then break; fi # else a signal ended the wait
  done
  exit "$code"
}

execute() {
  local classpath="${SPARK_CLASSPATH:-}:$SPARK_HOME/jars/*" name options=()
  for name in "${!SPARK_JAVA_OPT_@}"; do options+=("${!name}"); done
  if [ -n "${SPARK_EXTRA_CLASSPATH:-}" ]; then classpath+=":$SPARK_EXTRA_CLASSPATH"; fi
  if [ -n "${HADOOP_CONF_DIR:-}" ]; then classpath="$HADOOP_CONF_DIR:$classpath"; fi
  classpath="${SPARK_CONF_DIR:-$SPARK_HOME/conf}:$classpath:$PWD"
  exec "$JAVA_HOME/bin/java" \
    ${options[@]+"${options[@]}"} \
    "-Xms$SPARK_EXECUTOR_MEMORY" \
    "-Xmx$SPARK_EXECUTOR_MEMORY" \
    -cp "$classpath:${SPARK_DIST_CLASSPATH:-}" \
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
    --driver-url "$SPARK_DRIVER_URL" \
    --executor-id "$SPARK_EXECUTOR_ID" \
    --cores "$SPARK_EXECUTOR_CORES" \
    --app-id "$SPARK_APPLICATION_ID" \
    --hostname "$SPARK_EXECUTOR_POD_IP" \
    --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
    --podName "$SPARK_EXECUTOR_POD_NAME"
}

make_folders
name_the_user
case "${1:-}" in
  driver)
    shift
    drive "$SPARK_HOME/bin/spark-submit" \
      --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
      --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
      --deploy-mode client \
      "$@"
    ;;
  executor)
    execute
    ;;
  "")
    exec python -m imaging_pipeline.run --help
    ;;
  *)
    if is_command "$1"; then
      set -- python -m "imaging_pipeline.$1" "${@:2}"
    fi
    exec "$@"
    ;;
esac
