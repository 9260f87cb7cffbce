# Static binary on an empty base: no shell, no libraries, nothing to update but
# the binary. Works with a read-only root file system and without capabilities.

FROM golang:1.26 AS build
WORKDIR /src
# For builds behind a module mirror: --build-arg GOPROXY=… GOFLAGS=…
ARG GOPROXY
ARG GOFLAGS
# Modules change less often than code: a layer of their own.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X attestcsr/command.release=${VERSION}" -o /attestcsr .
RUN mkdir -p /volume/data && chmod 0700 /volume/data

FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="attestcsr" \
      org.opencontainers.image.description="Certificate signing requests for a host's attestation signing certificate, over HTTPS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /attestcsr /attestcsr
# A new volume takes owner and mode from here.
COPY --from=build --chown=65532:65532 /volume/ /
ENV ATTESTCSR_DATA_DIR=/data
USER 65532:65532
VOLUME /data
EXPOSE 8443
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["/attestcsr", "healthcheck"]
ENTRYPOINT ["/attestcsr"]
CMD ["serve"]
