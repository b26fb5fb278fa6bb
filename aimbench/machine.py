"""What this machine has: its cores and its processes."""

import os


def usable_cores() -> int:
    """Cores that this process may use; where the system does not say, as on a Mac, all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs here, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
