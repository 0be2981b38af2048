# Two stages: the Rust image builds the binary; the final image is a slim Debian with that binary. See docs/docker.md.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked --bin settee

FROM debian:bookworm-slim
RUN groupadd --gid 5984 settee \
 && useradd --uid 5984 --gid settee --home-dir /var/lib/settee --no-create-home --shell /usr/sbin/nologin settee \
 && install --directory --owner settee --group settee --mode 0700 /var/lib/settee
COPY --from=build /src/target/dist/settee /usr/local/bin/settee
USER settee
ENV SETTEE_DATA=/var/lib/settee \
    SETTEE_BIND=0.0.0.0
VOLUME /var/lib/settee
EXPOSE 5984
HEALTHCHECK --interval=30s --timeout=6s --start-period=20s CMD ["settee", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["settee"]
CMD ["serve"]
