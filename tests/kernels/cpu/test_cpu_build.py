# SPDX-License-Identifier: MIT
"""The object files of the CPU kernels: whose names they define, and what their inner loops do."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import objects
import pytest
from cases import need

from fused_rnn import extensions

ROOT = Path(__file__).parents[3]
needs_tools = pytest.mark.skipif(
    sys.platform != "linux" or None in map(shutil.which, ("make", "g++", "nm", "objdump")),
    reason="needs Linux, make, g++ and binutils",
)


@pytest.fixture(scope="module")
def built() -> list[Path]:
    """Objects of every instruction set, as the extension has them: built beforehand, or now."""
    build = ROOT / "build" / "cpu"
    make = ["make", "-C", str(ROOT / "csrc" / "cpu"), f"BUILD={build}"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return sorted(build.glob("isa_*.o"))


@needs_tools
def test_no_set_stands_in_for_another(built: list[Path]) -> None:
    assert len(built) >= 3
    for path in built:
        assert not objects.foreign_names(path)


@needs_tools
def test_sums_stay_in_registers(built: list[Path]) -> None:
    assert not [text for path in built for text in objects.complaints(path)]


@pytest.mark.long
@needs_tools
def test_headers_of_kernels_include_what_they_use() -> None:
    subprocess.run(["make", "-C", str(ROOT / "csrc" / "cpu"), "headers"], check=True)


def test_no_folder_of_the_build_in_the_extensions() -> None:
    need("native")
    # What stands for a file's name in errors.
    named = re.compile(rb"(?<![ -~])/[ -~]*\.(?:h|hpp|cpp|cuh?)(?![ -~])")
    assert named.findall(b"\0/home/me/a.cpp\0csrc/b.h\0/c.cuh\0") == [b"/home/me/a.cpp", b"/c.cuh"]
    found = list((ROOT / "fused_rnn").glob("*.so"))
    assert Path(str(extensions._C.__file__)) in found
    for path in found:
        assert not named.findall(path.read_bytes())


def compiled(folder: Path, name: str, text: str) -> Path:
    """An object file of C++ text."""
    source = folder / f"{name}.cpp"
    source.write_text(text)
    target = source.with_suffix(".o")
    subprocess.run(["g++", "-O2", "-c", str(source), "-o", str(target)], check=True)
    return target


TABLE = "namespace fused_rnn::cpu { extern const int kMine; const int kMine = 1; }\n"


@needs_tools
def test_a_foreign_name_is_found(tmp_path: Path) -> None:
    own = "namespace fused_rnn::cpu::mine { int own() { return 1; } }\n"
    assert not objects.foreign_names(compiled(tmp_path, "isa_mine", TABLE + own))
    other = "template <class T> T shared(T v) { return v; }\ntemplate int shared(int);\n"
    assert objects.foreign_names(compiled(tmp_path, "isa_mine", TABLE + own + other)) == [
        "_Z6sharedIiET_S0_"
    ]


@needs_tools
def test_a_spill_is_found(tmp_path: Path) -> None:
    text = """
    typedef float V __attribute__((vector_size(16)));
    namespace fused_rnn::cpu::mine {
    template <class Op, int R, int N>
    __attribute__((noinline)) void tile(const V* a, V* c, long k) {
      V sum[R * N] = {};
      for (long i = 0; i < k; ++i) {
    #pragma GCC unroll 64
        for (int j = 0; j < R * N; ++j) sum[j] += a[i] * a[i + j];
      }
      for (int j = 0; j < R * N; ++j) c[j] = sum[j];
    }
    template void tile<float, 2, 1>(const V*, V*, long);
    template void tile<float, 12, 3>(const V*, V*, long);
    }
    """
    found = "\n".join(objects.complaints(compiled(tmp_path, "isa_mine", TABLE + text)))
    assert "tile<float, 12, 3> meets the stack" in found
    assert "tile<float, 2, 1> meets" not in found
