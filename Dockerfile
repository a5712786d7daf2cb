# The image holds Python, the exporter and its dependencies, which are locked by hash: no shell, no pip, no package
# manager. It needs no writable file system:
#   docker run --read-only --cap-drop=ALL -p 10311:10311 \
#       -v "$PWD/config.yaml:/etc/sitecore-cdp-batch-exporter/config.yaml:ro" IMAGE
#
# The bases are named by tag, because the digest of neither could be read where this was written. Each build therefore
# gets the security fixes of Debian; the provenance of a released image names the digests that it was built from.
FROM debian:trixie-slim AS build

# Debian's Python is that of the final image, so the environment fits there. Any fixed version of it is the right one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore

# The build backend lives in an environment of its own, which the image never sees.
# Neither environment holds pip: Debian's installs into both.
WORKDIR /src
RUN python3 -m venv --without-pip /opt/build && python3 -m venv --without-pip /opt/sitecore-cdp-batch-exporter

# Dependencies come before the code, so that a change of the code does not install them again. Nothing is resolved:
# the lock files are complete, which pip check verifies.
COPY requirements-build.txt requirements.txt ./
RUN pip --python /opt/build/bin/python install --no-deps --require-hashes --requirement requirements-build.txt \
    && pip --python /opt/sitecore-cdp-batch-exporter/bin/python install --no-deps --require-hashes --requirement requirements.txt \
    && pip --python /opt/build/bin/python check

COPY pyproject.toml README.md LICENSE config.example.yaml config.schema.json ./
COPY alertmanager alertmanager
COPY deploy/systemd deploy/systemd
COPY examples examples
COPY grafana grafana
COPY prometheus prometheus
COPY sitecore_cdp_exporter sitecore_cdp_exporter
RUN /opt/build/bin/hatchling build --target wheel --directory /dist \
    && pip --python /opt/sitecore-cdp-batch-exporter/bin/python install --no-index --no-deps /dist/*.whl \
    && pip --python /opt/sitecore-cdp-batch-exporter/bin/python check

FROM gcr.io/distroless/python3-debian13:nonroot

# A test keeps this equal to the version of the package.
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="sitecore-cdp-batch-exporter" \
    org.opencontainers.image.description="Prometheus exporter for the Batch API of Sitecore CDP" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"

COPY --from=build /opt/sitecore-cdp-batch-exporter /opt/sitecore-cdp-batch-exporter

ENV PATH="/opt/sitecore-cdp-batch-exporter/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Paths in the config, and the default of --config.file, are relative to the folder where it is mounted.
WORKDIR /etc/sitecore-cdp-batch-exporter

# A number, so that Kubernetes can verify runAsNonRoot.
USER 65532:65532
EXPOSE 10311

# It asks the address of the entry point below, which is plain HTTP without a password whatever the arguments say of
# the other one. http.client ignores the proxy variables that the exporter itself may be given.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-I", "-c", "import http.client, sys; \
    connection = http.client.HTTPConnection('127.0.0.1', 10313, timeout=4); \
    connection.request('GET', '/-/healthy'); \
    sys.exit(connection.getresponse().status != 200)"]

ENTRYPOINT ["sitecore-cdp-batch-exporter", "--web.health-listen-address=127.0.0.1:10313"]
CMD ["--config.file=/etc/sitecore-cdp-batch-exporter/config.yaml"]
