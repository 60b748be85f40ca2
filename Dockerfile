# Hooktrail in a container. docs/operations.md has the commands, the volume, the signals and the health check.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The files of an installation. The container listens on all of its addresses: `docker run -p` decides who reaches them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    packaging/layout /installed \
    && sed -i -e 's/^listen = \["127.0.0.1:8080"\]/listen = ["0.0.0.0:8080"]/' \
        -e 's/^# \[admin\]/[admin]/' -e 's/^# listen = \["127.0.0.1:8081"\]/listen = ["0.0.0.0:8081"]/' \
        /installed/etc/hooktrail/config.toml

FROM debian:bookworm-slim
# `curl` is for the health check and for handlers, `sqlite3` for reading the database. A fixed version would not get
# security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl sqlite3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 900 hooktrail \
    && useradd --system --uid 900 --gid 900 --home-dir /var/lib/hooktrail --shell /usr/sbin/nologin hooktrail \
    && install --directory --owner=hooktrail --group=hooktrail --mode=750 /var/lib/hooktrail \
    && install --directory --owner=root --group=hooktrail --mode=750 /etc/hooktrail /etc/hooktrail/conf.d \
    && ln -s /var/lib/hooktrail /etc/hooktrail/data
COPY --from=build /installed/usr /usr
COPY --from=build --chown=root:hooktrail /installed/etc/hooktrail/config.toml /etc/hooktrail/config.toml

USER 900:900
WORKDIR /var/lib/hooktrail
VOLUME /var/lib/hooktrail
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# The process runs. `/readyz` would also fail while the disk is full, which a new container does not help.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["curl", "--fail", "--silent", "--show-error", "--output", "/dev/null", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["/usr/bin/hooktrail", "--config", "/etc/hooktrail/config.toml"]
CMD ["serve"]
