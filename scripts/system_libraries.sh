#!/usr/bin/env bash
# Sees to the system libraries that tests and demo need; Python's packages bring the rest.
#   scripts/system_libraries.sh test   all that the tests need, Xvfb included; fails without them
#   scripts/system_libraries.sh demo   what a napari window needs, where there is a display
# As root on Debian or Ubuntu they are installed without questions; elsewhere they are named.
set -euo pipefail
wanted=${1:?test or demo}
python=${PY:-python3}

window=(libegl1 libgl1 libgl1-mesa-dri libglib2.0-0 libdbus-1-3 libfontconfig1
    libxkbcommon0 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0
    libxcb-keysyms1 libxcb-render-util0 libxcb-shape0 libxcb-xkb1 libxcb-randr0
    libxcb-xinerama0)
packages=()
if ! command -v "$python" >/dev/null; then
    packages+=(python3 python3-venv)
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    packages+=(python3-venv)
fi
if [ "$wanted" = test ]; then
    packages+=(xvfb xauth "${window[@]}")
elif [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
    packages+=("${window[@]}")
fi

if [ "$(uname -s)" != Linux ]; then
    exit 0 # the system brings its own windows and OpenGL
fi
if ! command -v dpkg-query >/dev/null; then
    if [ "$wanted" = test ] && ! command -v xvfb-run >/dev/null; then
        echo "The tests need xvfb-run, and Qt's X11 libraries. Please install what your system calls: ${packages[*]}" >&2
        exit 1
    fi
    exit 0
fi

missing=()
for package in ${packages[@]+"${packages[@]}"}; do
    # libglib2.0-0 is called libglib2.0-0t64 on newer systems; either will do
    state=$(dpkg-query -W -f '${Status}\n' "$package" "${package}t64" 2>/dev/null || true)
    if [[ $state != *"ok installed"* ]]; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "These system packages are missing. Please run: sudo apt-get install ${missing[*]}" >&2
    [ "$wanted" = demo ] && exit 0 # the demo then says itself what it cannot do
    exit 1
fi
echo "Installing system packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
