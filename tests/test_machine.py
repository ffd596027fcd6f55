import pytest

from autoreg import machine

GIB = 2**30


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A machine of 16 GiB, 12 of them free, in files that tests may change."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {12 * 2**20} kB\n")
    process = tmp_path / "cgroup"
    process.write_text("")
    root = tmp_path / "fs"
    root.mkdir()
    monkeypatch.setattr(machine, "_MEMINFO", meminfo)
    monkeypatch.setattr(machine, "_CGROUP_OF_PROCESS", process)
    monkeypatch.setattr(machine, "_CGROUP_ROOT", root)
    return process, root


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_groups_the_machine_counts(files):
    assert machine.memory_total_bytes() == 16 * GIB
    assert machine.memory_available_bytes() == 12 * GIB


def test_the_tightest_version_2_group_counts(files):
    process, root = files
    process.write_text("0::/slice/job\n")
    group(root / "slice", memory__max=str(6 * GIB), memory__current=str(5 * GIB))
    group(root / "slice" / "job", memory__max="max", memory__current=str(GIB))
    assert machine.memory_total_bytes() == 6 * GIB
    assert machine.memory_available_bytes() == GIB


def test_version_1_groups_count_and_their_infinity_does_not(files):
    process, root = files
    process.write_text("4:cpu,memory:/job\n2:cpuset:/\n")
    group(root / "memory", memory__limit_in_bytes="9223372036854771712")
    group(
        root / "memory" / "job",
        memory__limit_in_bytes=str(4 * GIB),
        memory__usage_in_bytes=str(GIB),
    )
    assert machine.memory_total_bytes() == 4 * GIB
    assert machine.memory_available_bytes() == 3 * GIB


def test_a_cpu_quota_counts(files, monkeypatch):
    process, root = files
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert machine.cpu_count() == 8
    process.write_text("0::/job\n")
    group(root / "job", cpu__max="250000 100000\n")
    assert machine.cpu_count() == 2
