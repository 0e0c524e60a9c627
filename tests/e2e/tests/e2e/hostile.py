"""What a container does that wants out. One line for each try: what it was, and what came of it."""

import errno
import os
import socket
import subprocess
import sys

# The folder of the host that holds the volume, a secret beside it, and an empty directory.
OUTSIDE = sys.argv[1]
VOLUME, READONLY = "/volume", "/readonly"
CID_HOST = 2
# That of loopback, and the guest's own.
CIDS_OF_GUEST = (1, 3)
# The file server's.
TAG = "caisson"


def attempt(what, act):
    try:
        act()
        print(f"{what}: done")
    except OSError as error:
        print(f"{what}: {errno.errorcode.get(error.errno, error)}")


def read(path):
    with open(path) as file:
        return file.read()


def write(path):
    with open(path, "w") as file:
        file.write("of the guest")


def link(name, target):
    os.symlink(target, f"{VOLUME}/{name}")
    return f"{VOLUME}/{name}"


def node(name, kind, major, minor):
    os.mknod(f"{VOLUME}/{name}", kind | 0o666, os.makedev(major, minor))
    return f"{VOLUME}/{name}"


def system_call(number, *arguments):
    """perl has what python's smallest installation lacks."""
    words = ", ".join(str(argument) for argument in arguments)
    # It passes no constants to the kernel, which might write to them.
    program = f"my @words = ({words}); exit(syscall({number}, @words) < 0 ? $! + 0 : 0)"
    code = subprocess.run(["perl", "-e", program]).returncode
    if code:
        raise OSError(code, "")


def text(value):
    return f'"{value}"'


absolute = link("absolute", f"{OUTSIDE}/secret")
attempt("read through an absolute link", lambda: read(absolute))
attempt("read through a link upwards", lambda: read(link("upwards", "../secret")))
attempt("write through an absolute link", lambda: write(absolute))
directory = link("directory", f"{OUTSIDE}/outside")
attempt("walk through a link to a directory", lambda: write(f"{directory}/file"))
attempt("hard link from another volume", lambda: os.link(f"{READONLY}/file", f"{VOLUME}/hard"))

block, character = 0o060000, 0o020000
attempt("open a node of the host's disk", lambda: read(node("disk", block, 8, 0)))
attempt("open a node of KVM", lambda: read(node("kvm", character, 10, 232)))
attempt("open a node of physical memory", lambda: read(node("memory", character, 1, 1)))

volume = VOLUME.encode()
attempt("a name of bytes", lambda: write(volume + b"/\xff\n ;$(x)"))
attempt("a name of 255 bytes", lambda: write(volume + b"/" + b"x" * 255))
attempt("a name of 256 bytes", lambda: write(volume + b"/" + b"x" * 256))

MS_BIND, MS_REMOUNT = 4096, 32
attempt("write to a read-only volume", lambda: write(f"{READONLY}/new"))
attempt(
    "make the volume writable",
    lambda: system_call(165, text("none"), text(READONLY), text("none"), MS_REMOUNT | MS_BIND, 0),
)
attempt("write to it again", lambda: write(f"{READONLY}/new"))
os.mkdir("/pod")
attempt(
    "mount the file server once more",
    lambda: system_call(165, text(TAG), text("/pod"), text("virtiofs"), 0, 0),
)
# The kernel takes the file system that was mounted last for it: the read-only volume.
attempt("write by that way", lambda: write("/pod/new"))


def connect(*addresses):
    for address in addresses:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
            stream.settimeout(20)
            try:
                stream.connect(address)
                # Taken by a listener that turns us away, or listened to?
                stream.sendall(b"\0" * 64)
                if stream.recv(1):
                    return "answered"
            except (ConnectionError, OSError) as error:
                if isinstance(error, TimeoutError):
                    return "held"
    return "refused"


for what, port in [("requests", 1024), ("streams", 1025)]:
    got = connect(*((cid, port) for cid in CIDS_OF_GUEST))
    print(f"connect to the agent's {what}: {got}")
print(f"connect to the host's ports: {connect(*((CID_HOST, port) for port in range(1020, 1030)))}")

attempt("load a module", lambda: system_call(175, 0, 0, 0))
attempt("load another kernel", lambda: system_call(246, 0, 0, 0, 0))
attempt("open the memory", lambda: read("/dev/mem"))
attempt("open the kernel's memory", lambda: read("/proc/kcore"))

AT_FDCWD, RENAME_EXCHANGE, ROUNDS = -100, 2, 400


def exchange():
    """A directory and a link that leads out change places while somebody writes into the first."""
    os.mkdir(f"{VOLUME}/place")
    link("other", f"{OUTSIDE}/outside")
    writer = os.fork()
    if writer == 0:
        for number in range(ROUNDS):
            try:
                write(f"{VOLUME}/place/file{number % 10}")
            except OSError:
                pass
        os._exit(0)
    places = f'"{VOLUME}/place", {AT_FDCWD}, "{VOLUME}/other"'
    words = f"my @words = ({AT_FDCWD}, {places}, {RENAME_EXCHANGE});"
    swap = f"{words} for (1..{ROUNDS}) {{ syscall(316, @words) == 0 or die $! }}"
    subprocess.run(["perl", "-e", swap], check=True)
    os.waitpid(writer, 0)


attempt("exchange a directory for a link while it is written to", exchange)
