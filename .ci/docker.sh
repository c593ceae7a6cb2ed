# Sourced: installs Docker and starts its daemon until the shell ends. Where no daemon can run, tests that need it are skipped.

if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq docker.io debootstrap
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
