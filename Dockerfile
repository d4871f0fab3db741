# Ferry's image: one for all four roles, see docker/entrypoint.
#
#     make image
#     docker run ferry:local api | worker | beat | flower
#
# The tag is the Python that the pins were made on; Debian's fixes come with every new build of the tag.
ARG BASE=python:3.11-slim-bookworm

# --- What is only needed to install ---
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/run.txt requirements/otel.txt requirements/
# The extra for traces is in the image, some 10 MB of it: without, docker build --build-arg EXTRAS= .
ARG EXTRAS=otel
# Two environments: what builds the wheel does not belong in the image.
RUN python -m venv /build && /build/bin/pip install --quiet --require-hashes -r requirements/build.txt \
 && python -m venv /opt/ferry \
 && /opt/ferry/bin/pip install --quiet --require-hashes -r "requirements/${EXTRAS:-run}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY ferry/*.py ferry/py.typed ferry/
COPY ferry/extensions ferry/extensions
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
# Debian's git asks for Perl, which none of the commands that Ferry runs is written in: a package of no content
# stands in for it, and dpkg leaves out what only other commands, servers and languages need.
COPY docker/dpkg-excludes /etc/dpkg/dpkg.cfg.d/ferry
RUN apt-get update --quiet --quiet \
 && mkdir --parents /tmp/no-perl/DEBIAN \
 && printf 'Package: ferry-no-perl\nVersion: 1\nArchitecture: all\nMaintainer: Ferry <ferry@ferry.invalid>\n\
Provides: perl, liberror-perl, git-man (= %s)\nDescription: what git asks for and Ferry does not use\n' \
    "$(apt-cache show --no-all-versions git | sed -n 's/^Version: //p')" >/tmp/no-perl/DEBIAN/control \
 && dpkg-deb --build /tmp/no-perl >/dev/null \
 && apt-get install --quiet --quiet --yes --no-install-recommends \
    /tmp/no-perl.deb git openssh-client ca-certificates tini libnss-extrausers >/dev/null \
 && rm -rf /tmp/no-perl* /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*
# The number is fixed: volumes remember it. Another one, such as OpenShift's, gets an entry in /tmp/ferry-passwd
# from the entrypoint, for ssh refuses a user id without one. Such users are in the group 0, and so may
# use a new named volume, which gets its owner and mode from this directory.
RUN groupadd --gid 10001 ferry \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ferry \
 && install --directory --owner=ferry --group=root --mode=0770 /srv/ferry /var/lib/flower \
 && sed --in-place --regexp-extended 's/^((passwd|group): +)files.*/\1files extrausers/' /etc/nsswitch.conf \
 && ln --symbolic /tmp/ferry-passwd /var/lib/extrausers/passwd \
 && ln --symbolic /tmp/ferry-group /var/lib/extrausers/group
COPY --from=build /opt/ferry /opt/ferry
COPY docker/entrypoint /usr/local/bin/ferry-entrypoint
COPY docker/health.py /usr/local/bin/ferry-health
# /tmp is all that is written beside the repository: mount a tmpfs of 64 MiB there, and the root can be read-only.
ENV PATH=/opt/ferry/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp TMPDIR=/tmp \
    CFP_DATA_REPO_PATH=/srv/ferry/data.git \
    FLOWER_DB=/var/lib/flower/history
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 5555
HEALTHCHECK --interval=10s --timeout=20s --start-period=60s --retries=3 CMD ["ferry-health"]
ENTRYPOINT ["tini", "--", "ferry-entrypoint"]
CMD ["api"]

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
HEALTHCHECK --interval=5s --timeout=20s --start-period=60s CMD ["ferry-health", "listens", "2222"]
ENTRYPOINT ["tini", "--", "demo-git-server"]
CMD []

# `docker build .` makes the last stage.
FROM ferry
# Last, for they change with every build; `make image` fills them in.
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
ARG CREATED=unknown
ENV FERRY_REVISION=${REVISION}
LABEL org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.created=${CREATED}
