"""What this machine has: processors and memory, as far as its control groups allow."""

import os
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
_FALLBACK_BYTES = 8 * 2**30


def cpu_count() -> int:
    """Processors that this process may use: affinity and control-group quota considered."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, min(count, int(quota)) if quota is not None else count)


def memory_total_bytes() -> int:
    """Memory that this process could ever get: the machine's, or a control group's limit."""
    return min([_meminfo("MemTotal"), *(limit for limit, _ in _cgroup_memory())])


def memory_available_bytes() -> int:
    """Memory that is free now for this process, caches counted as free."""
    groups = [max(0, limit - used) for limit, used in _cgroup_memory()]
    return min([_meminfo("MemAvailable"), *groups])


def _meminfo(key: str) -> int:
    try:
        for line in _MEMINFO.read_text("ascii").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return _FALLBACK_BYTES


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii").strip())
    except (OSError, ValueError):  # absent, or the word "max"
        return None


def _cgroup_folders() -> Iterator[tuple[Path, bool]]:
    """The folders of this process's control groups up to the root, and whether they are v2."""
    try:
        lines = _CGROUP_OF_PROCESS.read_text("ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        version_2 = controllers == ""
        if not version_2 and "memory" not in controllers.split(","):
            continue
        root = _CGROUP_ROOT if version_2 else _CGROUP_ROOT / "memory"
        parts = Path(name.lstrip("/")).parts
        for length in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:length]), version_2


def _cgroup_memory() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every control group that sets a limit."""
    found = []
    for folder, version_2 in _cgroup_folders():
        names = (
            ("memory.max", "memory.current")
            if version_2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        limit, used = (_read_number(folder / name) for name in names)
        if limit is not None and limit < 2**60:  # v1 writes "no limit" as almost 2^63
            found.append((limit, used or 0))
    return found


def _cpu_quota() -> float | None:
    """Processors granted by the tightest control group (v2), None without a quota."""
    quotas = []
    for folder, version_2 in _cgroup_folders():
        if not version_2:
            continue
        try:
            quota, period = (folder / "cpu.max").read_text("ascii").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
