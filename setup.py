# SPDX-License-Identifier: MIT
"""Builds the CPU extension; FUSED_RNN_BUILD=0 gives a pure Python install."""

import os
import platform
from pathlib import Path

from setuptools import Extension, setup

# Targeted stable ABI: one build serves this torch and later ones.
TORCH_TARGET = (2, 11)
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2")

CXX_FLAGS = [
    "-std=c++20",
    "-O2",
    "-g0",
    "-fvisibility=hidden",
    # Kernels never read errno or floating-point exception flags.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-unknown-pragmas",
    # Vectors wider than the default target's are passed only inside one file.
    "-Wno-psabi",
    # gcc 12 says this of its own AVX-512 headers.
    "-Wno-maybe-uninitialized",
]


def cpu_sources() -> list[str]:
    """Returns the C++ files for this machine's processor family."""
    sources = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    sources += ["csrc/cpu/dispatch.cpp", "csrc/cpu/layer.cpp", "csrc/cpu/isa_portable.cpp"]
    if platform.machine() in ("x86_64", "AMD64"):
        sources += [f"csrc/cpu/isa_{name}.cpp" for name in INSTRUCTION_SETS]
    return sources


def cpu_extension() -> Extension:
    """Returns the extension with the CPU kernels and the build information."""
    import pybind11
    from torch.utils import cpp_extension

    major, minor = TORCH_TARGET
    return Extension(
        "fused_rnn._C",
        cpu_sources(),
        depends=[str(path) for path in Path("csrc").rglob("*.h")],
        include_dirs=[*cpp_extension.include_paths(), pybind11.get_include()],
        library_dirs=cpp_extension.library_paths(),
        libraries=["c10", "torch_cpu"],
        define_macros=[("TORCH_TARGET_VERSION", f"(({major}ULL << 56) | ({minor}ULL << 48))")],
        extra_compile_args=CXX_FLAGS,
        language="c++",
    )


def build_options() -> dict[str, object]:
    """Returns setup()'s arguments for the compiled part."""
    if os.environ.get("FUSED_RNN_BUILD", "1") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension

    return {"ext_modules": [cpu_extension()], "cmdclass": {"build_ext": BuildExtension}}


setup(**build_options())
