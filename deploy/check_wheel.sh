#!/usr/bin/env bash
# Whether the wheel alone is enough: it is built from what it needs, installed into an empty environment away from the
# checkout, and runs the main job on the sample study with a bundle that is named by its path.
#
#   deploy/check_wheel.sh [--link] [--folder FOLDER]
#
#   --link          requirements are those of the Python that runs this, linked in, instead of installed anew (minutes):
#                   the package itself is imported from the wheel all the same
#   --folder FOLDER where it is done; default: a temporary one, removed at the end
#
# Python is that of .venv, or what PYTHON names; it needs build and setuptools (extra dev).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
link=false folder=""
while [ $# -gt 0 ]; do
  case "$1" in
    --link) link=true ;;
    --folder) folder=$2; shift ;;
    *) sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 2 ;;
  esac
  shift
done
if [ -z "$folder" ]; then
  folder=$(mktemp -d -t imaging-wheel-XXXXXX)
  trap 'rm -rf "$folder"' EXIT
fi
mkdir -p "$folder/source" "$folder/bundles"
unset PYTHONPATH IMAGING_PIPELINE_HOME

for name in LICENSE README.md conf imaging_pipeline pyproject.toml setup.cfg; do cp -r "$root/$name" "$folder/source/"; done
"$python" -m build --wheel --no-isolation --outdir "$folder" "$folder/source" >"$folder/build.log" 2>&1 ||
  { tail -20 "$folder/build.log"; exit 1; }
rm -rf "$folder/source"
wheel=$(echo "$folder"/*.whl)
echo "built $(basename "$wheel")"

inside=$folder/venv/bin/python
if $link; then
  "$python" -m venv --without-pip "$folder/venv"
  "$python" -m pip --python "$inside" install --quiet --disable-pip-version-check --no-deps --no-index "$wheel"
  "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    >"$("$inside" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/requirements.pth"
else
  "$python" -m venv "$folder/venv"
  "$inside" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" torch
  grep -v '^torch==' "$root/constraints.txt" >"$folder/constraints.txt"
  "$inside" -m pip install --quiet --disable-pip-version-check -c "$folder/constraints.txt" "$wheel"
fi

cp -r "$root/models/hippocampus_mr" "$folder/bundles/"
cd "$folder"
"$inside" - "$folder/venv" <<'PYTHON'
import sys
from pathlib import Path

from imaging_pipeline import sections, settings

inside = Path(sys.argv[1]).resolve()
for path in (Path(settings.__file__), settings.DEFAULT_CONFIG, sections.SparkSettings().discovery_script):
    assert path.is_file() and path.resolve().is_relative_to(inside), path
    print("found", path.resolve().relative_to(inside))
PYTHON
"$inside" -m imaging_pipeline.run "$root/sample_data/studies" --out "$folder/results" --no-spark \
  --model "$folder/bundles/hippocampus_mr" --set "models.trusted_dirs=[$folder/bundles]" --set models.backend=torch
"$inside" -m imaging_pipeline.verify "$folder/results"
