# Sourced by .ci/run: a Docker daemon and the bases of the images, for tests that skip where no daemon can run.

if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io debootstrap
fi
docker_folder=$(mktemp -d)
if ! docker buildx version >/dev/null 2>&1; then # Debian's client has BuildKit without a plugin
    ln -s /usr/bin/docker "$docker_folder/docker"
    PATH=$docker_folder:$PATH
fi
if ! docker ps >/dev/null 2>&1; then
    dockerd >"$docker_folder/log" 2>&1 &
    trap "kill $! && wait $! || true" EXIT
    for _ in {1..60}; do
        docker ps >/dev/null 2>&1 && break
        sleep 0.5
    done
fi

# Pulled, or where no registry answers made of Debian's packages, which takes a minute. Such a stand-in trusts what this
# machine trusts, so that builds reach the same package index; like the real one it has no bytecode.
has_image() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" 2>/dev/null; }

debian=debian:bookworm-slim
python=$(sed -n 's/^ARG PYTHON_IMAGE=//p' handler/Dockerfile)
if docker ps >/dev/null 2>&1 && ! has_image "$python"; then
    has_image "$debian" || {
        debootstrap --variant=minbase --include=ca-certificates bookworm "$docker_folder/debian" >/dev/null
        cp /etc/ssl/certs/ca-certificates.crt "$docker_folder/debian/etc/ssl/certs/"
        rm -rf "$docker_folder"/debian/{var/cache/apt,var/lib/apt/lists,usr/share/{doc,info,locale,man}}/*
        tar -C "$docker_folder/debian" -c . |
            docker import --change "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" - "$debian"
        rm -rf "$docker_folder/debian"
    }
    DOCKER_BUILDKIT=1 docker build --quiet --tag "$python" - <<DOCKERFILE
FROM $debian
RUN apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends python3 python3-venv && \
    rm -rf /var/cache/apt/* /var/lib/apt/lists/* && \
    find /usr/lib -name '*.pyc' -delete
DOCKERFILE
fi
