# Fresh root file systems of Debian, and commands run in them as in a privileged container. To be sourced, from the
# checkout's top folder, by a script that has named itself: `name=test-bare; . scripts/lib/roots.sh`.
#
# The network is the host's, and so are proxies, mirrors of Python's packages and certificate authorities.
# shellcheck shell=sh

say() { echo "$name: $*" >&2; }
die() { say "$*"; exit 77; }

# Ends the script where it cannot work: `need git qemu-system-x86_64:qemu-system-x86`, as command or command:package.
need() {
    [ "$(id -u)" = 0 ] || die 'needs root.'
    for tool in "$@"; do
        command -v "${tool%:*}" >/dev/null ||
            die "needs ${tool%:*}; install it: apt-get install --no-install-recommends ${tool#*:}"
    done
    [ -z "$(git status --porcelain)" ] || say 'what is not committed is not tested.'
}

# A folder for the length of the script: $work. What the script starts in the background as $child ends with it, and
# `at_end`, if the script has it, is called before.
work=''
child=''
make_work() {
    work=$(mktemp -d)
    trap clean EXIT
    trap 'exit 130' INT TERM HUP
}
clean() {
    # Its mounts were made in a mount namespace that ends with it: below $work nothing is mounted here.
    if [ -n "$child" ]; then kill -KILL "$child" 2>/dev/null && wait "$child" || :; fi
    if command -v at_end >/dev/null; then at_end || :; fi
    rm -rf --one-file-system "$work"
}

# The bare root of a release as a tar file, with what mmdebstrap is told besides: `bootstrap bookworm file.tar OPTION...`
bootstrap() {
    release=$1 tar=$2
    shift 2
    apt-config dump | grep -E '^Acquire::https?::' >"$work/apt.conf" || :
    mmdebstrap --quiet --variant=minbase --aptopt="$work/apt.conf" "$@" "$release" "$tar"
}

# Unpacks a root and clones the last commit into it: `unpack file.tar root /root/unnoticed`
unpack() {
    mkdir "$2"
    tar --extract --numeric-owner --file "$1" --directory "$2"
    git clone --quiet --no-local . "$2$3"
}

# Copies files into a root, to where they are here: `bring root FILE...`
bring() {
    to=$1
    shift
    for file in "$@"; do
        [ ! -f "$file" ] || { mkdir -p "$to${file%/*}" && cp -L "$file" "$to$file"; }
    done
}

# Runs a command in a folder of a root, with /proc, /sys and /dev mounted, in namespaces of its own for mounts, processes
# and IPC: what a privileged container has, and no systemd. `in_root root /root/unnoticed scripts/test`
in_root() {
    root=$1 folder=$2 command=$3
    bring "$root" /etc/resolv.conf /usr/local/share/ca-certificates/*.crt
    set -- HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    for variable in PIP_CERT SSL_CERT_FILE; do
        file=$(printenv "$variable") || continue
        # This one comes with its package, and has the authorities that were brought above.
        [ "$file" = /etc/ssl/certs/ca-certificates.crt ] || bring "$root" "$file"
        set -- "$@" "$variable=$file"
    done
    for variable in http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY \
        PIP_INDEX_URL PIP_PROXY PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT UV_DEFAULT_INDEX UV_INDEX_URL UV_HTTP_TIMEOUT; do
        value=$(printenv "$variable") && set -- "$@" "$variable=$value" || :
    done
    # The shell stays as process 1 and reaps, as a container's init does.
    # shellcheck disable=SC2016
    unshare --mount --propagation private --pid --ipc --uts --fork --kill-child sh -c '
        set -eu
        root=$1 folder=$2 command=$3
        shift 3
        mount -t proc proc "$root/proc"
        mount -t sysfs sysfs "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/run"
        exec chroot "$root" env -i "$@" sh -c "cd $folder && $command; exit \$?"
    ' sh "$root" "$folder" "$command" "$@" </dev/null &
    child=$!
    status=0
    wait "$child" || status=$?
    child=''
    return "$status"
}
