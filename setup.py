# SPDX-License-Identifier: MIT
"""Builds the CPU extension, and the CUDA one where PyTorch has CUDA and the toolkit is there.

FUSED_RNN_BUILD=0: a pure Python install. FUSED_RNN_CUDA=1 or 0: with the CUDA one or without."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

# Targeted stable ABI: one build serves this torch and later ones.
TORCH_TARGET = (2, 11)
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2")
CUDA_OBJECTS = Path("build/cuda").absolute()

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


def extension(name: str, sources: list[str], **more: list[Any]) -> Extension:
    """Returns an extension over PyTorch's stable headers, not its pybind11, with `more` options."""
    import pybind11
    from torch.utils import cpp_extension

    version = "(({}ULL << 56) | ({}ULL << 48))".format(*TORCH_TARGET)
    options = {
        "include_dirs": [pybind11.get_include(), *cpp_extension.include_paths()],  # in this order
        "library_dirs": cpp_extension.library_paths(),
        "libraries": ["c10", "torch_cpu"],
        "define_macros": [("TORCH_TARGET_VERSION", version)],
        "depends": [str(path) for path in Path("csrc").rglob("*.h")],
        "extra_compile_args": CXX_FLAGS,
        "extra_objects": [],
    }
    options = {key: value + more.get(key, []) for key, value in options.items()}
    return Extension(name, sources, language="c++", **options)


def cpu_sources() -> list[str]:
    """Returns the C++ files for this machine's processor family."""
    parts = [*Path("csrc").glob("*.cpp"), *Path("csrc/cpu").glob("*.cpp")]
    sources = sorted(str(part) for part in parts if not part.stem.startswith("isa_"))
    sets = INSTRUCTION_SETS if platform.machine() in ("x86_64", "AMD64") else ()
    sources += [f"csrc/cpu/isa_{name}.cpp" for name in ("portable", *sets)]
    return sources


def cuda_extensions() -> list[Extension]:
    """Returns the extension with the CUDA kernels, if there is to be one."""
    import torch

    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    wanted = os.environ.get("FUSED_RNN_CUDA")
    if wanted == "0" or wanted is None and not (torch.version.cuda and (home / "bin").is_dir()):
        return []
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    # PyTorch's own rules for .cu files refuse to work under its CPU builds.
    make = ["make", "-C", "csrc/cuda", f"-j{jobs}", f"NVCC={home}/bin/nvcc"]
    subprocess.run([*make, f"BUILD={CUDA_OBJECTS}"], check=True)
    return [
        extension(
            "fused_rnn._C_cuda",
            sorted(str(path) for path in Path("csrc/cuda").glob("*.cpp")),
            include_dirs=[str(home / "include")],
            library_dirs=[str(home / "lib64")],
            libraries=["cudart"] + ["torch_cuda"] * bool(torch.version.cuda),
            # PyTorch declares its functions for streams only with this.
            define_macros=[("USE_CUDA", "1")],
            extra_objects=sorted(str(path) for path in CUDA_OBJECTS.glob("*.o")),
        )
    ]


def build_options() -> dict[str, object]:
    """Returns setup()'s arguments for the compiled part."""
    if os.environ.get("FUSED_RNN_BUILD") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension

    modules = [extension("fused_rnn._C", cpu_sources()), *cuda_extensions()]
    return {"ext_modules": modules, "cmdclass": {"build_ext": BuildExtension}}


setup(**build_options())
