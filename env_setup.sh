#!/usr/bin/env bash
# Installs what Trainer needs into the virtual environment: torch first and pinned, then the packages of this repository.
# Says nothing and does nothing when that was done before and none of its inputs changed.
#
#   TORCH_VERSION   version of torch (default below)
#   TORCH_PIP_ARGS  further arguments of pip for torch alone, such as the index of another build
#   EXTRAS          extras of the package (default: train,sim,video,dev)
#   VENV            folder of the virtual environment (default: .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

torch_version=${TORCH_VERSION:-2.13.0}
extras=${EXTRAS:-train,sim,video,dev}
venv=${VENV:-.venv}
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

if [ ! -x "$venv/bin/python" ]; then
    echo "There is no $venv; run uv_setup.sh first." >&2
    exit 1
fi

inputs=$(cat env_setup.sh pyproject.toml policy_constructor/pyproject.toml \
    policy_constructor/model_constructor/version.py constraints.txt | cksum)
stamp="$torch_version $extras $inputs $PWD"
if [ "$(cat "$venv/.env_setup" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

# Shared libraries of Debian: drawing without a screen (Meta-World), what OpenCV links against (Push-T), and the
# fast way to decode videos.
libraries=(libOSMesa.so libEGL.so.1 libGL.so.1 libglib-2.0.so.0 libavcodec.so)
packages="libosmesa6 libegl1 libgl1 libglib2.0-0 ffmpeg"
if [ "$("$venv/bin/python" -c 'import sys; print(sys.base_prefix)')" = /usr ]; then
    # Debian keeps the library of its Python, which the video decoder links against, in a package of its own.
    version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    libraries+=("libpython$version.so")
    packages="$packages libpython$version"
fi
missing=()
for library in "${libraries[@]}"; do
    ldconfig -p | grep -q "$library" || missing+=("$library")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Debian packages: $packages"
        apt-get update -qq || true
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null ||
            echo "They could not be installed; training works, films and fast decoding of videos may not." >&2
    else
        echo "Missing here: ${missing[*]}; ask an administrator for the Debian packages $packages (for films and for fast decoding of videos)." >&2
    fi
fi

echo "Installing torch $torch_version (some 200 MB to 3 GB, by the build)"
# Before everything else: a later package that asks for torch then finds it and does not bring another build.
# The registry's Linux build is the one for CUDA, right where there is a GPU and merely large elsewhere.
# shellcheck disable=SC2086
"${pip[@]}" install --quiet ${TORCH_PIP_ARGS:-} "torch==$torch_version"
echo "Installing Trainer, its model language and the extras $extras"
# With `compat` the folders stand on Python's path. The finder that is usual is asked too late: in the folder around a
# checkout that is called `trainer`, Python would take the checkout for the package.
"${pip[@]}" install --quiet -c constraints.txt --config-settings editable_mode=compat -e ./policy_constructor -e ".[$extras]"
echo "$stamp" >"$venv/.env_setup"
