# Ferry's image: one for all four roles, see docker/entrypoint.
#
#     docker build -t ferry .
#     docker run ferry api | worker | beat | flower
#
# The tag is the Python that the pins were made on; Debian's fixes come with every new build of the tag.
ARG BASE=python:3.11-slim-bookworm

# --- What is only needed to install ---
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/run.txt requirements/
# Two environments: what builds the wheel does not belong in the image.
RUN python -m venv /build && /build/bin/pip install --quiet --require-hashes -r requirements/build.txt \
 && python -m venv /opt/ferry && /opt/ferry/bin/pip install --quiet --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY docs/operations/runbook.md docs/operations/
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel . \
 && /opt/ferry/bin/pip install --quiet --no-deps --no-index /wheel/*.whl \
 && /opt/ferry/bin/pip uninstall --quiet --yes pip setuptools

# --- What runs ---
FROM ${BASE} AS ferry
LABEL org.opencontainers.image.title="Ferry" \
      org.opencontainers.image.description="A REST API over a gitsheets repository that gets every commit to the repository's remote" \
      org.opencontainers.image.licenses="Apache-2.0"
# git pushes, ssh carries it, tini is process 1: it hands SIGTERM on and buries what a push leaves behind.
RUN apt-get update --quiet --quiet \
 && apt-get install --quiet --quiet --yes --no-install-recommends git openssh-client tini >/dev/null \
 && rm -rf /var/lib/apt/lists/*
# ssh refuses a user id without an entry in /etc/passwd. The number is fixed: volumes remember it.
# The volume is a directory of its user's, so that a new named volume is, too.
RUN groupadd --gid 10001 ferry \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ferry \
 && install --directory --owner=ferry --group=ferry --mode=0750 /srv/ferry
COPY --from=build /opt/ferry /opt/ferry
COPY docker/entrypoint /usr/local/bin/ferry-entrypoint
COPY docker/health.py /usr/local/bin/ferry-health
# /tmp is all that is written beside the repository: mount a tmpfs there, and the root can be read-only.
ENV PATH=/opt/ferry/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp TMPDIR=/tmp \
    CFP_DATA_REPO_PATH=/srv/ferry/data.git
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 5555
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["ferry-health"]
ENTRYPOINT ["tini", "--", "ferry-entrypoint"]
CMD ["api"]
# Last, for it changes with every build: docker build --build-arg REVISION=$(git rev-parse HEAD) .
ARG REVISION=unknown
LABEL org.opencontainers.image.revision=${REVISION}

# --- The demo's git server; no deployment needs it ---
FROM ferry AS demo-git-server
USER root
# sshd runs as the same unprivileged user, who must have a shell, and a password that is none rather than locked.
RUN apt-get update --quiet --quiet \
 && apt-get install --quiet --quiet --yes --no-install-recommends openssh-server >/dev/null \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 && usermod --shell /bin/sh --password '*' ferry \
 && install --directory --owner=ferry --group=ferry --mode=0750 /srv/git /srv/keys
COPY docker/demo-git-server /usr/local/bin/
USER 10001:10001
EXPOSE 2222
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["ferry-health", "listens", "2222"]
ENTRYPOINT ["tini", "--", "demo-git-server"]
CMD []

# `docker build .` makes the last stage.
FROM ferry
