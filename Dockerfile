# syntax=docker/dockerfile:1
# The CPU image: driver and executors of Spark on Kubernetes, and every command of the package.
#
#   docker build -t imaging-pipeline:0.1.0 .
#   docker run --rm --read-only --tmpfs /tmp:exec,size=4g --user "$(id -u):$(id -g)" \
#     -v "$PWD/STUDIES:/studies:ro" -v "$PWD/RESULTS:/results" imaging-pipeline:0.1.0 run /studies --out /results
#
# TORCH_INDEX names the package index of torch's CPU builds; without it pip takes the build of its own index, which on
# x86 brings CUDA along: the image works and is some GB larger.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=""
ARG EXTRAS="cpu,query,s3"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/venv \
 && pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && grep -v '^torch==' constraints.txt > without-torch.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY imaging_pipeline ./imaging_pipeline
RUN pip install -c without-torch.txt ".[${EXTRAS}]" \
 && python -m compileall -q /opt/venv/lib

FROM python:${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imaging_pipeline" \
      org.opencontainers.image.description="DICOM studies to NIfTI masks on the scanner's own voxels, by Spark" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"

# Debian's security updates are wanted: no version is pinned
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnss-wrapper openjdk-17-jre-headless procps tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 185 spark \
 && useradd --uid 185 --gid 185 --no-create-home --home-dir /tmp/home --shell /usr/sbin/nologin spark \
 && ln -s "$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")" /opt/java

COPY --from=build /opt/venv /opt/venv
COPY conf /opt/imaging_pipeline/conf
COPY models /opt/imaging_pipeline/models
COPY LICENSE /opt/imaging_pipeline/LICENSE
COPY --chmod=0755 deploy/entrypoint.sh /opt/entrypoint.sh

# Spark on Kubernetes mounts its properties on /opt/spark/conf and pod templates on /opt/spark/pod-template
RUN spark=/opt/venv/lib/python3.11/site-packages/pyspark \
 && mkdir -p /opt/spark/conf /opt/spark/pod-template /opt/spark/work-dir /studies /results \
 && ln -s "$spark/bin" "$spark/sbin" "$spark/jars" "$spark/python" /opt/spark/

# uid 185 is that of Spark's own images; everything that is written goes to /tmp and what is mounted
ENV PATH=/opt/venv/bin:$PATH \
    JAVA_HOME=/opt/java \
    SPARK_HOME=/opt/spark \
    IMAGING_PIPELINE_HOME=/opt/imaging_pipeline \
    PYSPARK_PYTHON=/opt/venv/bin/python \
    PYSPARK_DRIVER_PYTHON=/opt/venv/bin/python \
    HOME=/tmp/home \
    XDG_CACHE_HOME=/tmp/cache \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LC_ALL=C.UTF-8
WORKDIR /tmp
USER 185:185
STOPSIGNAL SIGTERM
# A batch job is judged by its exit code, and a run that is alive says so in RESULTS/lock
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/entrypoint.sh"]
CMD ["run", "--help"]
