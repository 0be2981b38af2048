# Builds the image of packaging/Dockerfile from this source, without scripts/release.sh. See docs/docker.md.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools \
 && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
# A static binary; its C parts are compiled for musl, too.
RUN target=$(uname -m)-unknown-linux-musl \
 && TARGET_CC=musl-gcc cargo build --profile dist --locked --target "$target" --bin settee \
 && mv "target/$target/dist/settee" /settee && mkdir /data

FROM scratch
COPY --from=build /settee /bin/settee
COPY --from=build --chown=5984:5984 /data /data
USER 5984:5984
ENV PATH=/bin SETTEE_DATA=/data SETTEE_BIND=0.0.0.0:5984
VOLUME /data
EXPOSE 5984
HEALTHCHECK --interval=30s --timeout=6s --start-period=20s CMD ["settee", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["settee"]
CMD ["serve"]
