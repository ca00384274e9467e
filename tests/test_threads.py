"""The default thread count: affinity, shared cores, and the control group's quota."""

from __future__ import annotations

import os

import pytest

from whisper_cy import threads


def make_topology(folder, siblings):
    for processor, names in siblings.items():
        topology = folder / f"cpu{processor}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(names + "\n")


def test_hyperthreads_count_once(tmp_path):
    make_topology(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"})
    assert threads.physical_cores({0, 1, 4, 5}, tmp_path) == 2
    assert threads.physical_cores({0, 4}, tmp_path) == 1
    assert threads.physical_cores({4, 5}, tmp_path) == 2


def test_unknown_topology_counts_processors(tmp_path):
    assert threads.physical_cores({0, 1, 2}, tmp_path) == 3


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({"app/cpu.max": "150000 100000", "cpu.max": "max 100000"}, "0::/app", 1.5),
        ({"app/one/cpu.max": "max 100000", "app/cpu.max": "300000 100000"}, "0::/app/one", 3.0),
        ({"app/cpu.max": "max 100000"}, "0::/app", None),
        ({"cpu.max": "200000 100000"}, "0::/", 2.0),
        ({}, "0::/", None),
        (
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            "3:cpu:/\n4:memory:/",
            0.5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", None),
    ],
)
def test_quota(tmp_path, files, membership, quota):
    group = tmp_path / "cgroup"
    for name, text in files.items():
        (group / name).parent.mkdir(parents=True, exist_ok=True)
        (group / name).write_text(text)
    listing = tmp_path / "membership"
    listing.write_text(membership)
    assert threads.cgroup_quota(group, listing) == quota


def test_default_is_within_what_the_process_may_use(monkeypatch):
    assert 1 <= threads.default_threads() <= (os.cpu_count() or 1)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: 0.5)
    assert threads.default_threads() == 1


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)
def test_affinity_is_honoured():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads.default_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_pace_keeps_its_threads_while_they_run():
    pace = threads.Pace(4)
    for _ in range(1000):
        pace.observe(wall=0.002, processor=0.0079)
    assert pace.threads == 4


def test_pace_uses_as_many_threads_as_really_ran():
    pace = threads.Pace(16)
    for _ in range(100):
        pace.observe(wall=0.004, processor=0.060)
    assert pace.threads == 15
    alone = threads.Pace(2)
    alone.observe(wall=0.2, processor=0.21)
    assert alone.threads == 1


def test_pace_is_not_misled_by_time_that_is_counted_late():
    pace = threads.Pace(2)
    for step in range(1000):
        pace.observe(wall=0.002, processor=0.006 if step % 2 else 0.002)
        assert pace.threads == 2


def test_pace_tries_again_and_rests_longer_each_time():
    pace, rests = threads.Pace(2), []
    for _ in range(10):
        pace.observe(wall=0.2, processor=0.2)
        rests.append(0)
        while pace.threads == 1:
            pace.observe(wall=0.004, processor=0.004)
            rests[-1] += 1
    assert rests[:3] == [64, 128, 256]
    assert max(rests) == threads.Pace.LONGEST_REST
    pace.observe(wall=0.1, processor=0.2)
    pace.observe(wall=0.2, processor=0.2)
    assert pace._left == threads.Pace.REST


def test_one_thread_needs_no_pace():
    pace = threads.Pace(1)
    with pace as count:
        assert count == 1
    assert pace.threads == 1
