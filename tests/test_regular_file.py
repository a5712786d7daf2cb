import tracemalloc
from pathlib import Path

import pytest

from sitecore_cdp_exporter.regular_file import CHUNK, NotARegularFileError, read_regular_file


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_file_that_is_not_too_large_is_read_whole(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(number % 251 for number in range(size))
    path.write_bytes(content)
    assert read_regular_file(path, size) == content
    if size:
        with pytest.raises(NotARegularFileError, match="larger than"):
            read_regular_file(path, size - 1)


def test_a_small_file_takes_little_memory_however_large_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    tracemalloc.start()
    try:
        read_regular_file(path, 100 * CHUNK)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * CHUNK
