# The service for a ClickHouse server. With ClickHouse embedded (about 0.9 GB more):
#   docker build --build-arg EXTRAS=embedded --tag analytics .
FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /source
# All that is downloaded is in a lock file with its hash.
COPY requirements ./requirements
RUN python -m venv /venv && /venv/bin/pip install --require-hashes --requirement "requirements/${EXTRAS:-run}.txt"
RUN python -m venv /build && /build/bin/pip install --require-hashes --requirement requirements/build.txt
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY schemas ./schemas
COPY service ./service
RUN /build/bin/pip wheel --no-index --no-build-isolation --no-deps --wheel-dir /build/wheel . && \
    /venv/bin/pip install --no-index --no-deps /build/wheel/*.whl

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
RUN useradd --system --uid 10001 --no-create-home analytics && install -d -o analytics -m 700 /data
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ANALYTICS_HOST=0.0.0.0 \
    ANALYTICS_PORT=8080 \
    ANALYTICS_DATA_DIR=/data
USER 10001
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['ANALYTICS_PORT'] + '/readyz', timeout=3)"]
CMD ["analytics", "serve"]
