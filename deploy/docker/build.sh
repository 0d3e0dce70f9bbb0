#!/bin/sh
# Makes ROOT/opt/sluice from this tree: all that the image has beyond its base. The same tree gives the same bytes.
#   deploy/docker/build.sh ROOT [amd64|arm64 [packages|own|base]]
# Needs a Python of the version that runs it later (PYTHON, by default python3) with pip, and pip's index; no compiler,
# and no machine of the architecture that it builds for. `packages` makes what the lock alone decides, `own` adds this
# project to that, so that the image has a layer of each; without either both are made. `base` makes what the base
# lacks: its standard library compiled, as that cannot be kept where nothing can be written.
set -eu
umask 022

root=${1:?usage: build.sh ROOT [amd64|arm64 [packages|own|base]]}
architecture=${2:-$(uname -m)}
step=${3:-all}
case $architecture in
    amd64 | x86_64) machine=x86_64 ;;
    arm64 | aarch64) machine=aarch64 ;;
    *) echo "build.sh: no architecture $architecture: amd64 or arm64" >&2; exit 2 ;;
esac
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
made=$root/opt/sluice
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-315532800}" # 1980, the oldest that a wheel can tell
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
pip() { "$python" -m pip --quiet "$@"; }

# Nothing can be written where it runs, so it is compiled here, and taken there without a look at its source.
compile() { "$python" -m compileall -q -s "$root" --invalidation-mode unchecked-hash "$@"; }
date_all() { find "$made" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }

# Scripts of packages nobody starts here.
install_into_lib() { pip install --target "$made/lib" --no-deps --no-compile "$@"; rm -rf "$made/lib/bin"; }

packages() {
    [ ! -e "$made" ] || { echo "build.sh: $made is there already" >&2; exit 1; }
    mkdir -p "$made/lib"
    # Wheels for glibc 2.17 to 2.36, whatever this machine has: the oldest base that the image may have is Debian 12.
    version=$("$python" -c 'import sys; print(f"{sys.version_info.major}.{sys.version_info.minor}")')
    set -- --implementation cp --python-version "$version" --abi "cp$(echo "$version" | tr -d .)" --abi abi3 --abi none
    for glibc in $(seq 36 -1 17); do set -- "$@" --platform "manylinux_2_${glibc}_$machine"; done
    set -- "$@" --platform "manylinux2014_$machine" --platform any
    install_into_lib --require-hashes --only-binary :all: "$@" --report "$work/report.json" -r "$work/packages.txt"
    "$python" "$here/contents.py" records "$made/lib"
    "$python" "$here/contents.py" bill "$made" "$work/report.json"
    compile "$made/lib"
}

own() {
    # What builds our wheel is pinned in the same file, and does not go into the image.
    pip install --target "$work/tools" --require-hashes --no-deps --only-binary :all: -r "$work/tools.txt"
    mkdir "$work/source"
    (cd "$tree" && tar -c --exclude=__pycache__ extproc protos pyproject.toml README.md LICENSE) | tar -x -C "$work/source"
    PYTHONPATH=$work/tools pip wheel --no-deps --no-index --no-build-isolation --wheel-dir "$work/wheels" "$work/source"
    install_into_lib --no-index --find-links "$work/wheels" --report "$work/report.json" sluice-gateway
    mkdir "$made/bin"
    install -m 755 "$here/launcher.py" "$made/bin/sluice"
    "$python" "$here/contents.py" records "$made/lib"
    "$python" "$here/contents.py" bill "$made" "$work/report.json"
    compile "$made/lib/extproc" "$made/lib/protos"
}

base() {
    library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    unneeded='/(site-packages|test|tests|idlelib|lib2to3|ensurepip|tkinter|turtledemo)/'
    mkdir -p "$root$library"
    cp -r "$library/." "$root$library"
    find "$root$library" -name '*.pyc' -delete
    compile -x "$unneeded" "$root$library"
    find "$root$library" -type f -not -name '*.pyc' -delete
    find "$root$library" -regextype posix-extended -regex ".*$unneeded.*" -delete
    find "$root" -type d -empty -delete
    find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

[ "$step" != base ] || { base; exit; }
"$python" "$here/contents.py" split "$tree/requirements-image.lock" "$work"
[ "$step" = own ] || packages
[ "$step" = packages ] || own
date_all
