from pathlib import Path

from support.stream_fleet import Fleet
from support.registry_fake import FakeRegistry, Node


def read(path: Path) -> dict[str, bytes]:
    return dict(line.split(b" ", 1) for line in path.read_bytes().splitlines())  # type: ignore


def test_linear(tmp_path: Path):
    """x"""
    registry = FakeRegistry({"numbers": Node("source"), "double": Node("processor", ("numbers",)), "store": Node("sink", ("double",))}).start()
    fleet = Fleet(registry, tmp_path)
    try:
        fleet.start("store", "store", config={"path": str(tmp_path / "out")})
        fleet.start("double", "double")
        fleet.start("numbers", "numbers", config={"count": 10_000})
        for name in ("numbers", "double", "store"):
            code = fleet.wait(name, timeout_s=15)
            print(fleet.log(name)[-2000:])
            assert code == 0
        assert len(read(tmp_path / "out")) == 10_000
    finally:
        fleet.close()
        registry.stop()
