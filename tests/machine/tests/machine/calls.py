"""Does with a directory what a file system is there for."""

import fcntl
import os
import sys

os.chdir(sys.argv[1])


def attempt(act, *arguments, **named):
    """For what the host's file system may not have."""
    try:
        return act(*arguments, **named)
    except OSError:
        return None


# Files.
file = os.open("file", os.O_RDWR | os.O_CREAT, 0o640)
os.write(file, bytes(70000))
os.writev(file, [b"one", b"two"])
os.pread(file, 100, 10)
os.fsync(file)
os.fdatasync(file)
attempt(os.posix_fallocate, file, 0, 1 << 20)
os.ftruncate(file, 1 << 19)
os.lseek(file, 0, os.SEEK_DATA)
os.fstatvfs(file)
os.sync()
fcntl.flock(file, fcntl.LOCK_EX)
fcntl.flock(file, fcntl.LOCK_UN)
other = os.open("other", os.O_RDWR | os.O_CREAT, 0o600)
attempt(os.copy_file_range, file, other, 1000)
direct = attempt(os.open, "file", os.O_RDWR | os.O_DIRECT)
if direct is not None:
    attempt(os.preadv, direct, [bytearray(4096)], 0)
os.truncate("file", 10)

# Names.
os.mkdir("directory")
os.mknod("directory/node", 0o600)
os.mkfifo("directory/fifo")
os.symlink("somewhere", "link")
os.readlink("link")
os.link("file", "second")
os.rename("second", "directory/third")
assert "directory" in os.listdir(".")
for name in ["node", "fifo", "third"]:
    os.unlink(f"directory/{name}")
os.access("file", os.W_OK)

# Attributes.
os.chmod("file", 0o600)
os.fchmod(file, 0o644)
os.chown("file", 1000, 1000)
os.lchown("link", 1000, 1000)
os.utime("file", (1, 2))
os.utime("link", (1, 2), follow_symlinks=False)
for name in ["file", "directory"]:
    os.setxattr(name, "user.caisson", b"value")
    os.getxattr(name, "user.caisson")
    os.listxattr(name)
    os.removexattr(name, "user.caisson")
# A link has only those of the system, for which the file server has no privilege.
attempt(os.setxattr, "link", "trusted.caisson", b"value", follow_symlinks=False)
attempt(os.getxattr, "link", "trusted.caisson", follow_symlinks=False)
attempt(os.listxattr, "link", follow_symlinks=False)
attempt(os.removexattr, "link", "trusted.caisson", follow_symlinks=False)
# An access control list of a directory: its owner, its group and others may do all.
acl = bytes.fromhex("02000000 01000700ffffffff 04000700ffffffff 20000700ffffffff")
attempt(os.setxattr, "directory", "system.posix_acl_default", acl)

# Somebody else, whose writing takes away what the owner's file may do.
os.chown(".", 0, 2000)
os.chmod(".", 0o2777)
os.chmod("file", 0o6777)
os.umask(0o27)
os.setgroups([2000])
os.setegid(1000)
os.seteuid(1000)
with open("file", "r+b") as file:
    file.write(b"x")
os.truncate("file", 0)
os.mkdir("directory-of-another")
with open("directory-of-another/file", "w") as file:
    file.write("x")
