# SPDX-License-Identifier: MIT
"""Builds the CPU extension, and the CUDA one where PyTorch has CUDA and the toolkit is there.

FUSED_RNN_BUILD=0: a pure Python install. FUSED_RNN_CUDA=1 or 0: with the CUDA one or without.
FUSED_RNN_OBJECTS: the folder of the kernels' objects, in place of `build`; those newer than their
sources are not compiled again."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import Extension, setup

# Targeted stable ABI: one build serves this torch and later ones.
TORCH_TARGET = (2, 11)

CXX_FLAGS = ["-std=c++20", "-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
CUDA_HOME = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
NVCC = shutil.which("nvcc") or CUDA_HOME / "bin" / "nvcc"
# The folder of each extension's kernels, which its Makefile compiles: flags differ from file to
# file, and PyTorch's own rules for .cu files refuse to work under its CPU builds.
KERNELS = {"fused_rnn._C": "csrc/cpu", "fused_rnn._C_cuda": "csrc/cuda"}


def extension(name: str, sources: list[str], **more: list[Any]) -> Extension:
    """Returns an extension over PyTorch's stable headers, not its pybind11, with `more` options."""
    import pybind11
    from torch.utils import cpp_extension

    version = "(({}ULL << 56) | ({}ULL << 48))".format(*TORCH_TARGET)
    headers = [pybind11.get_include(), *cpp_extension.include_paths()]  # in this order
    # Errors name files of PyTorch's headers: without the folders of the machine that builds.
    short_names = [f"-ffile-prefix-map={folder}/=" for folder in [os.getcwd(), *headers]]
    options = {
        "include_dirs": headers,
        "library_dirs": cpp_extension.library_paths(),
        "libraries": ["c10", "torch_cpu"],
        "define_macros": [("TORCH_TARGET_VERSION", version)],
        "depends": [str(path) for path in Path("csrc").rglob("*") if path.is_file()],
        "extra_compile_args": CXX_FLAGS + short_names,
    }
    options = {key: value + more.get(key, []) for key, value in options.items()}
    return Extension(name, sources, language="c++", **options)


def cpu_sources() -> list[str]:
    """Returns the C++ files that take no flags of their own."""
    paths = [*Path("csrc").glob("*.cpp"), *Path("csrc/cpu").glob("*.cpp")]
    return sorted(str(path) for path in paths if not path.stem.startswith("isa_"))


def make_objects(folder: str) -> list[str]:
    """Returns the object files of the kernels in a folder, built by its Makefile."""
    build = Path(os.environ.get("FUSED_RNN_OBJECTS", "build"), Path(folder).name).absolute()
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    make = ["make", "-C", folder, f"-j{jobs}", f"BUILD={build}", f"NVCC={NVCC}"]
    subprocess.run(make, check=True)
    return sorted(str(path) for path in build.glob("*.o"))


def cuda_extensions() -> list[Extension]:
    """Returns the extension with the CUDA kernels, if there is to be one."""
    import torch

    wanted = os.environ.get("FUSED_RNN_CUDA")
    if (
        wanted == "0"
        or wanted is None
        and not (torch.version.cuda and (CUDA_HOME / "bin").is_dir())
    ):
        return []
    return [
        extension(
            "fused_rnn._C_cuda",
            sorted(str(path) for path in Path("csrc/cuda").glob("*.cpp")),
            include_dirs=[str(CUDA_HOME / "include")],
            library_dirs=[str(CUDA_HOME / "lib64")],
            libraries=["cudart"] + ["torch_cuda"] * bool(torch.version.cuda),
            # PyTorch declares its functions for streams only with this.
            define_macros=[("USE_CUDA", "1")],
        )
    ]


def build_options() -> dict[str, object]:
    """Returns setup()'s arguments for the compiled part."""
    if os.environ.get("FUSED_RNN_BUILD") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def build_extensions(self) -> None:
            for module in self.extensions:
                module.extra_objects += make_objects(KERNELS[module.name])
            super().build_extensions()

    modules = [extension("fused_rnn._C", cpu_sources()), *cuda_extensions()]
    return {"ext_modules": modules, "cmdclass": {"build_ext": Build}}


setup(**build_options())
