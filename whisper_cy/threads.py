"""How many threads to use: the cores the process may run on, fewer while others use them."""

from __future__ import annotations

import os
import time
from pathlib import Path

CPU_FOLDER = Path("/sys/devices/system/cpu")
CGROUP_FOLDER = Path("/sys/fs/cgroup")


def default_threads() -> int:
    """Physical cores within the process's affinity mask, no more than its control group's quota; at
    least 1.
    """
    cores = physical_cores(allowed_processors())
    quota = cgroup_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def allowed_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def physical_cores(processors: set[int], folder: Path = CPU_FOLDER) -> int:
    """Distinct cores among the processors; those whose core is unknown count as one each."""
    return len({core_of(processor, folder) for processor in processors})


def core_of(processor: int, folder: Path) -> str:
    """Siblings on one core list the same processors, so that list names the core."""
    siblings = _read(folder / f"cpu{processor}" / "topology" / "thread_siblings_list")
    return siblings or f"processor {processor}"


def cgroup_quota(folder: Path = CGROUP_FOLDER, membership: Path | None = None) -> float | None:
    """Processors' worth of time the control group grants, the least of all levels above; None: no
    limit.
    """
    lines = _read(membership or Path("/proc/self/cgroup")).splitlines()
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        root = folder / controllers if controllers else folder
        group = root / path.lstrip("/")
        quotas += [
            _quota(level) for level in (group, *group.parents) if root in (level, *level.parents)
        ]
    return min((quota for quota in quotas if quota), default=None)


def _quota(group: Path) -> float | None:
    """cpu.max of version 2 holds 'quota period' or 'max period'; version 1 has a file for each, -1
    for no limit.
    """
    fields = _read(group / "cpu.max").split()
    if not fields:
        fields = [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
    try:
        quota, period = (float(field) for field in fields)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class Pace:
    """How many threads the next step of one decoding uses.

    A step joins its threads dozens of times. While another process holds a core, each join waits
    for the scheduler to give that core back, milliseconds a time: fifty times the step itself. Then
    the processor time of the steps falls short of `threads` times their duration, and the next ones
    use only as many threads as really ran; after a rest, longer each time, all of them again.

    Judged over stretches of STRETCH seconds a thread: the system counts the time of a running
    thread only at its clock's ticks, up to 10 ms late.

        with pace as threads: ...one step...
    """

    SHORTFALL = 0.4  # threads' worth of time that measuring and waking may lose
    STRETCH = 0.025
    REST = 64  # steps until the next try with all threads
    LONGEST_REST = 4096

    def __init__(self, most: int) -> None:
        self.most = most
        self.threads = most
        self._rest = self.REST
        self._left = 0
        self._started = (0.0, 0.0)
        self._wall = self._processor = 0.0  # of the stretch so far

    def __enter__(self) -> int:
        self._started = time.perf_counter(), time.process_time()
        return self.threads

    def __exit__(self, *_: object) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        self.observe(wall - self._started[0], processor - self._started[1])

    def observe(self, wall: float, processor: float) -> None:
        """Learn from a step that took `wall` seconds and `processor` seconds of all threads."""
        if self.threads < self.most:
            self._left -= 1
            if self._left <= 0:
                self.threads = self.most
            return
        self._wall += wall
        self._processor += processor
        if self._wall >= self.STRETCH * self.most:
            self._judge(self._processor / self._wall)
            self._wall = self._processor = 0.0

    def _judge(self, running: float) -> None:
        """running: threads that ran at the same time, on average."""
        if running >= self.most - self.SHORTFALL:
            self._rest = self.REST
            return
        self.threads = max(1, int(running + self.SHORTFALL))
        self._left, self._rest = self._rest, min(2 * self._rest, self.LONGEST_REST)
