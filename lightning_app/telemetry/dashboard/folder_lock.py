"""A folder that one process has to itself for a while; no other waits for it."""

import os
import sys

if sys.platform != "win32":
    import fcntl


class FolderLock:
    """A lock of the kernel's on a folder: it leaves no file, and ends with the process at last."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def take(self, folder: str) -> bool:
        """Lock a folder; `False` if another process has it. True where there are no locks."""
        if sys.platform == "win32" or self._fd is not None:
            return True
        try:
            fd = os.open(folder, os.O_RDONLY)
        except OSError:  # a remote folder, or one that is still to be made
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:  # a file system without locks
            os.close(fd)
            return True
        self._fd = fd
        # A loader's workers would hold it for as long as they outlive a run that is killed.
        os.register_at_fork(after_in_child=self.release)
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
