# hyperdecode with its optional parts, in the versions of constraints.txt. How to use it: docs/containers.md.
FROM python:3.12-slim-bookworm AS build
# Builds of torch for CPUs, a third of the size. Empty: those of the package index, which bring CUDA.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_CONSTRAINT=/source/constraints.txt PIP_BUILD_CONSTRAINT=/source/constraints.txt PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY src src
RUN python -m venv /opt/hyperdecode && /opt/hyperdecode/bin/pip install ".[all]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/hyperdecode /opt/hyperdecode
# Weights lie in a volume; whoever runs the container may write there, by --user too.
RUN useradd --create-home --uid 1000 hyperdecode && mkdir --mode=1777 /weights && mkdir --mode=1777 /data /var/cache/hyperdecode
ENV PATH=/opt/hyperdecode/bin:$PATH HYPERDECODE_CACHE=/weights MPLCONFIGDIR=/var/cache/hyperdecode/matplotlib NUMBA_CACHE_DIR=/var/cache/hyperdecode/numba
USER 1000
# Names of weights to put into the image; empty: each is fetched when a command first needs it.
ARG WEIGHTS=""
RUN for name in $WEIGHTS; do hyperdecode weights fetch "$name" || exit; done
VOLUME /weights
WORKDIR /data
ENTRYPOINT ["hyperdecode"]
CMD ["--help"]
