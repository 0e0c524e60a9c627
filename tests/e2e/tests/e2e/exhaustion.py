"""What a container does that wants everything. Says in one line what it took until what was refused, and
keeps it."""

import _thread
import errno
import os
import signal
import sys

VOLUME = "/volume"
MANY = 1 << 20


def until_refused(take):
    """How often it could be done, and the name of the error that ended it."""
    for number in range(MANY):
        try:
            take(number)
        except OSError as error:
            return f"{number} {errno.errorcode[error.errno]}"
        except MemoryError:
            return f"{number} ENOMEM"
    return f"{MANY} nothing"


def keep(what, taken):
    print(what, taken, flush=True)
    while True:
        signal.pause()


def files():
    """Files that are open, each by a name of its own."""
    flags = os.O_CREAT | os.O_RDWR
    return until_refused(lambda number: os.open(f"{VOLUME}/file{number}", flags))


def names():
    """Files that are known by their names; O_PATH of each keeps the guest from forgetting them."""

    def take(number):
        os.mkdir(f"{VOLUME}/directory{number}")
        os.open(f"{VOLUME}/directory{number}", os.O_PATH)

    return until_refused(take)


def threads():
    """Threads, which count as processes do and take less memory, of which there would be too little."""
    # Long enough for a thread that does nothing.
    _thread.stack_size(32768)
    never = _thread.allocate_lock()
    never.acquire()

    def take(_):
        try:
            _thread.start_new_thread(never.acquire, ())
        except RuntimeError:
            raise OSError(errno.EAGAIN, "no more threads") from None

    return until_refused(take)


def memory():
    """Pages that hold something."""
    piece = 1 << 20
    kept = []
    return until_refused(lambda _: kept.append(bytearray(os.urandom(4096)) * (piece // 4096)))


what = sys.argv[1]
keep(what, globals()[what]())
