"""Parts: written whole, done once, gathered in their order."""

import numpy as np
import pyarrow as pa
import pytest

from emo import parts as module
from emo import storage
from emo.parts import gather, missing_parts, part_name
from emo.tables import read_folder, write_table

pytestmark = pytest.mark.usefixtures("ray_session")


def write_parts(folder: str, num_parts: int = 10, num_rows: int = 30) -> None:
    for number in range(num_parts):
        rows = np.arange(number * num_rows, (number + 1) * num_rows)
        write_table(storage.join(folder, part_name(number)), pa.table({"row": rows, "other": rows * 0.5}))


def test_missing_parts_are_those_without_a_file(tmp_path):
    folder = str(tmp_path)
    assert missing_parts(folder + "/none", 3) == [0, 1, 2]
    write_parts(folder, 5)
    storage.remove(f"{folder}/{part_name(2)}")
    (tmp_path / f"{part_name(4)}.abc.tmp").write_bytes(b"half")
    (tmp_path / part_name(0)).write_bytes(b"")
    assert missing_parts(folder, 6) == [0, 2, 5]


@pytest.mark.parametrize("bytes_per_file", [1, 5000, 2**30])
def test_parts_become_files_in_their_order(tmp_path, monkeypatch, bytes_per_file):
    monkeypatch.setattr(module, "BYTES_PER_FILE", bytes_per_file)
    write_parts(str(tmp_path / "parts"))
    names = gather(str(tmp_path / "parts"), str(tmp_path / "data"))
    assert sorted(each.name for each in (tmp_path / "data").iterdir()) == names
    assert len(names) == {1: 10, 2**30: 1}.get(bytes_per_file, len(names))
    assert read_folder(str(tmp_path / "data"))["row"].to_pylist() == list(range(300))


def test_each_part_passes_through_a_transform(tmp_path):
    def odd(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(table["row"].to_numpy() % 2 == 1)).select(["row"])

    write_parts(str(tmp_path / "parts"))
    gather(str(tmp_path / "parts"), str(tmp_path / "data"), odd)
    found = read_folder(str(tmp_path / "data"))
    assert found.column_names == ["row"]
    assert found["row"].to_pylist() == list(range(1, 300, 2))
