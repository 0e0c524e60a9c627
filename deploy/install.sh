#!/bin/sh
# Installs Caisson on a node, or removes it. Needs nothing but a POSIX shell and the usual tools.
#
# It lies in libexec/caisson of a folder with bin, libexec and share, as `cargo bundle` lays it out.
# These go to PREFIX; containerd's configuration gets a runtime handler between two marked lines, and
# everything else in it stays as it is.

set -eu

usage() {
    cat <<'END'
usage: install.sh install|remove [OPTIONS]

  --prefix DIR              where the files go (/usr/local)
  --handler NAME            what a RuntimeClass calls the runtime (caisson)
  --containerd-config FILE  containerd's configuration (/etc/containerd/config.toml)
  --config FILE             Caisson's own configuration (/etc/caisson/config.toml)
  --root DIR                install into a file system that lies there; looks at nothing of this
                            machine (no checks, containerd is not asked)
  --files-only              leave containerd alone
  --unchecked               install although this machine lacks something
  --restart                 restart containerd with systemctl afterwards; pods go on
  --dry-run                 say what would be done, and do nothing
END
}

begin='# BEGIN Caisson: install.sh adds and removes what stands between these lines'
end='# END Caisson'

fail() {
    echo "error: $*" >&2
    exit 1
}

say() {
    echo "$*"
}

# Does it and says so, or says that it would.
act() { # SENTENCE COMMAND…
    sentence=$1
    shift
    if [ "$dry" = yes ]; then
        say "dry run: $sentence"
    else
        "$@"
        say "$sentence"
    fi
}

# What each file is, and its mode.
files() {
    cat <<'END'
755 bin/containerd-shim-caisson-v2
755 libexec/caisson/caisson-vmm
755 libexec/caisson/caisson-fs
755 libexec/caisson/caisson-pod
755 libexec/caisson/install.sh
644 share/caisson/vmlinux
644 share/caisson/initrd.img
END
}

# --- what this machine needs ----------------------------------------------------------------------

# One sentence for each thing that is missing.
problems() {
    [ "$(id -u)" = 0 ] || echo 'only root can install it: run it with sudo'
    machine=$(uname -m)
    [ "$machine" = x86_64 ] || echo "this machine is $machine, and Caisson runs on x86_64 only"
    if [ ! -c /dev/kvm ]; then
        echo 'there is no /dev/kvm: turn on virtualization in the firmware (on a virtual machine:' \
            'nested virtualization at its provider) and load the module kvm_intel or kvm_amd'
    elif ! (: <>/dev/kvm) 2>/dev/null; then
        echo '/dev/kvm cannot be opened: the processor or the hypervisor below has virtualization' \
            'turned off'
    fi
    [ -c /dev/net/tun ] || modprobe -q tun 2>/dev/null ||
        echo 'the kernel has no module tun, which connects pods to their network'
    for module in sch_ingress cls_u32 act_mirred; do
        has_module $module ||
            echo "the kernel has no module $module, which connects pods to their network"
    done
    [ "$files_only" = yes ] || command -v containerd >/dev/null ||
        echo 'there is no containerd in PATH: install 1.6 or later'
    said=$("$here/bin/containerd-shim-caisson-v2" -v 2>&1) ||
        echo "the programs do not run here: $said"
}

# Loaded, built in, or there to be loaded.
has_module() {
    [ -d "/sys/module/$1" ] || modprobe -n -q "$1" 2>/dev/null ||
        grep -qs "/$1.ko" "/lib/modules/$(uname -r)/modules.builtin"
}

# --- files ----------------------------------------------------------------------------------------

# Under another name first: a pod may run from the old file, and a copy may fail half-way.
put() { # MODE FROM TO
    mkdir -p "$(dirname "$3")"
    rm -f "$3.new"
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    mv "$3.new" "$3"
}

put_text() { # TEXT TO
    mkdir -p "$(dirname "$2")"
    printf '%s\n' "$1" >"$2.new"
    chmod 644 "$2.new"
    mv "$2.new" "$2"
}

check_files() {
    files | while read -r mode file; do
        [ -f "$here/$file" ] ||
            fail "$here/$file is missing: unpack the whole archive that \`cargo bundle\` makes"
    done
}

install_files() {
    files | while read -r mode file; do
        if cmp -s "$here/$file" "$root$prefix/$file"; then
            say "is there: $prefix/$file"
        else
            act "file: $prefix/$file" put "$mode" "$here/$file" "$root$prefix/$file"
        fi
    done
    if [ -e "$root$config" ]; then
        say "is there: $config"
    else
        act "file: $config" put_text "$(own_configuration)" "$root$config"
    fi
}

own_configuration() {
    cat <<END
# Caisson's configuration. Without a line, its default holds: docs/configuration.md has them all.
kernel = "$prefix/share/caisson/vmlinux"
initrd = "$prefix/share/caisson/initrd.img"
vmm = "$prefix/libexec/caisson/caisson-vmm"
file_server = "$prefix/libexec/caisson/caisson-fs"
pod_process = "$prefix/libexec/caisson/caisson-pod"
END
}

remove_files() {
    files | while read -r mode file; do
        [ ! -e "$root$prefix/$file" ] || act "removed: $prefix/$file" rm "$root$prefix/$file"
    done
    if [ ! -e "$root$config" ]; then
        :
    elif [ "$(cat "$root$config")" = "$(own_configuration)" ]; then
        act "removed: $config" rm "$root$config"
    else
        say "kept: $config, which was changed"
    fi
    [ "$dry" = no ] || return 0
    rm -f "$saved.before" "$saved.after"
    # Those that hold files of somebody else stay.
    for directory in libexec/caisson share/caisson; do
        rmdir "$root$prefix/$directory" 2>/dev/null || :
    done
    if [ "$prefix" != /usr/local ]; then
        rmdir "$root$prefix/bin" "$root$prefix/libexec" "$root$prefix/share" "$root$prefix" \
            2>/dev/null || :
    fi
    rmdir "$(dirname "$root$config")" 2>/dev/null || :
}

# --- containerd -----------------------------------------------------------------------------------

# The version of the configuration's format: 2 for containerd 1.6 and 1.7, 3 from 2.0 on, which
# reads 2 as well.
format() {
    if [ -e "$containerd_config" ] && has_settings; then
        sed -n 's/^[[:space:]]*version[[:space:]]*=[[:space:]]*\([0-9]*\).*/\1/p' \
            "$containerd_config" | head -n 1
    elif [ -n "$root" ]; then
        echo 2
    else
        case $(containerd --version) in
        *' v1.'* | *' 1.'*) echo 2 ;;
        *) echo 3 ;;
        esac
    fi
}

has_settings() {
    grep -qv '^[[:space:]]*\(#.*\)\{0,1\}$' "$containerd_config"
}

block() { # FORMAT
    case $1 in
    2) plugin='io.containerd.grpc.v1.cri' ;;
    *) plugin='io.containerd.cri.v1.runtime' ;;
    esac
    echo "$begin"
    echo "[plugins.\"$plugin\".containerd.runtimes.\"$handler\"]"
    echo '  runtime_type = "io.containerd.caisson.v2"'
    # From PATH where everybody's PATH has it, so that an upgrade needs no restart.
    [ "$prefix" = /usr/local ] ||
        echo "  runtime_path = \"$prefix/bin/containerd-shim-caisson-v2\""
    echo '  privileged_without_host_devices = true'
    if [ "$config" != /etc/caisson/config.toml ]; then
        echo "  [plugins.\"$plugin\".containerd.runtimes.\"$handler\".options]"
        echo "    ConfigPath = \"$config\""
    fi
    echo "$end"
}

# The configuration without what this script has added.
without_block() {
    sed "/^$begin\$/,/^$end\$/d" "$containerd_config"
}

# Writes containerd's configuration with the runtime handler to $scratch, and has containerd read it.
prepare_configuration() {
    [ ! -e "$containerd_config" ] || check_configuration
    {
        if [ -e "$containerd_config" ] && has_settings; then
            # The last line may be without its end.
            without_block | awk 1
        else
            echo "version = $(format)"
            [ ! -e "$containerd_config" ] || without_block | awk 1
        fi
        block "$(format)"
    } >"$scratch/config.toml"
    check_result
}

configure_containerd() {
    if [ -e "$containerd_config" ] && cmp -s "$scratch/config.toml" "$containerd_config"; then
        say "is there: runtime handler $handler in $containerd_config"
        return
    fi
    if [ "$dry" = yes ]; then
        say "dry run: added to $containerd_config:"
        block "$(format)"
        return
    fi
    mkdir -p "$(dirname "$containerd_config")" "$root$prefix/share/caisson"
    # What it was, and what it became: removal gives it back as it was if nobody changed it since.
    if [ ! -e "$saved.after" ] && [ -e "$containerd_config" ]; then
        cp -p "$containerd_config" "$saved.before"
    fi
    new="$containerd_config.caisson-new"
    [ ! -e "$containerd_config" ] || cp -p "$containerd_config" "$new"
    cat "$scratch/config.toml" >"$new"
    mv "$new" "$containerd_config"
    cp "$containerd_config" "$saved.after"
    say "runtime handler $handler: $containerd_config"
    changed=yes
}

check_configuration() {
    if has_settings && [ -z "$(format)" ]; then
        fail "$containerd_config has no line \"version = 2\" (or 3): it is in the first format," \
            "which has no runtime handlers as Kubernetes uses them. \`containerd config migrate\`" \
            "prints it in the newer one"
    fi
    if grep -q '^[[:space:]]*disabled_plugins[[:space:]]*=.*["'\'']cri["'\'']' "$containerd_config"; then
        fail "$containerd_config turns the CRI plug-in off: take \"cri\" out of disabled_plugins," \
            "or use --files-only for docker, nerdctl and ctr"
    fi
    if without_block | grep -q "runtimes\.[\"']\{0,1\}$handler[\"']\{0,1\}\]"; then
        fail "$containerd_config has a runtime handler $handler that this script has not made:" \
            "remove it, or choose another name with --handler"
    fi
}

# Has containerd read the result before it is put in place.
check_result() {
    [ -z "$root" ] && command -v containerd >/dev/null || return 0
    trial="$scratch/config.toml"
    # Imports may be relative to the file.
    if [ "$dry" = no ] && grep -q '^[[:space:]]*imports' "$trial"; then
        trial="$containerd_config.caisson-new"
        cp "$scratch/config.toml" "$trial"
    fi
    read=$(containerd --config "$trial" config dump 2>"$scratch/said") || read=
    rm -f "$containerd_config.caisson-new"
    if [ -z "$read" ]; then
        fail "containerd could not read $containerd_config with the runtime handler in it, so it" \
            "was left as it is: $(tail -n 1 "$scratch/said")"
    fi
    if ! echo "$read" | grep -q "runtimes\.[\"']\{0,1\}$handler[\"']\{0,1\}\]"; then
        fail "containerd does not see a runtime handler in $containerd_config: a file that its" \
            "line \"imports\" names replaces the whole section of CRI. Name that file with" \
            "--containerd-config"
    fi
}

unconfigure_containerd() {
    if [ ! -e "$containerd_config" ] || ! grep -qF "$begin" "$containerd_config"; then
        say "no runtime handler of this script in $containerd_config"
        return
    fi
    if [ "$dry" = yes ]; then
        say "dry run: removed: the runtime handler in $containerd_config"
        return
    fi
    if cmp -s "$containerd_config" "$saved.after"; then
        if [ -e "$saved.before" ]; then
            cp -p "$saved.before" "$containerd_config.caisson-new"
            mv "$containerd_config.caisson-new" "$containerd_config"
        else
            rm -f "$containerd_config"
        fi
    else
        without_block >"$scratch/config.toml"
        cp -p "$containerd_config" "$containerd_config.caisson-new"
        cat "$scratch/config.toml" >"$containerd_config.caisson-new"
        mv "$containerd_config.caisson-new" "$containerd_config"
    fi
    say "removed: the runtime handler in $containerd_config"
    changed=yes
}

restart() {
    [ "$changed" = yes ] || return 0
    if [ "$restart" = yes ]; then
        act 'containerd was restarted' systemctl restart containerd
    elif [ -z "$root" ]; then
        say 'restart containerd, so that it sees the change; pods go on: systemctl restart containerd'
    fi
}

# --- what is asked --------------------------------------------------------------------------------

pods_run() {
    for name in /proc/[0-9]*/comm; do
        # It may have ended meanwhile.
        [ "$(cat "$name" 2>/dev/null)" != caisson-vmm ] || return 0
    done
    return 1
}

# The folder that holds bin, libexec and share.
here=$(cd "$(dirname "$0")/../.." && pwd)
what=${1:-}
[ $# = 0 ] || shift
prefix=/usr/local
handler=caisson
containerd_config=/etc/containerd/config.toml
config=/etc/caisson/config.toml
root= files_only=no unchecked=no restart=no dry=no changed=no
while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --handler | --containerd-config | --config | --root)
        [ $# -gt 1 ] || fail "$1 needs a value"
        name=$(echo "${1#--}" | tr - _)
        value=$2
        shift
        case $name in
        prefix) prefix=$value ;;
        handler) handler=$value ;;
        containerd_config) containerd_config=$value ;;
        config) config=$value ;;
        root) root=$value ;;
        esac
        ;;
    --files-only) files_only=yes ;;
    --unchecked) unchecked=yes ;;
    --restart) restart=yes ;;
    --dry-run) dry=yes ;;
    *) usage >&2 && fail "there is no option $1" ;;
    esac
    shift
done
case $handler in
*[!a-z0-9-]* | '' | -*) fail "\"$handler\" is no name of a runtime handler: a-z, 0-9 and - make one" ;;
esac
for path in "$prefix" "$containerd_config" "$config"; do
    case $path in
    *[\"\\]*) fail "$path has a character that cannot stand in a configuration" ;;
    /*) ;;
    *) fail "$path is no absolute path" ;;
    esac
done
containerd_config=$root$containerd_config
saved=$root$prefix/share/caisson/containerd-config
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case $what in
install)
    if [ -z "$root" ]; then
        problems >"$scratch/problems"
        if [ -s "$scratch/problems" ]; then
            sed 's/^/problem: /' "$scratch/problems" >&2
            [ "$unchecked" = yes ] ||
                fail 'nothing was installed; --unchecked does it all the same'
        fi
    fi
    # Everything is looked at before anything is put in place.
    check_files
    [ "$files_only" = yes ] || prepare_configuration
    install_files
    [ "$files_only" = yes ] || configure_containerd
    restart
    ;;
remove)
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail 'only root can remove it: run it with sudo'
    if [ -z "$root" ] && pods_run; then
        fail 'pods run with it: delete them first (`crictl pods`, `ctr --namespace k8s.io tasks ls`)'
    fi
    [ "$files_only" = yes ] || unconfigure_containerd
    remove_files
    restart
    ;;
-h | --help | help) usage ;;
*) usage >&2 && exit 2 ;;
esac
