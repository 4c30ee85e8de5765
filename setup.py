# SPDX-License-Identifier: MIT
"""Builds the ops for CPUs, and those for CUDA where PyTorch has it and the toolkit is there.

Each are a shared library that needs nothing of Python, so that C++ programs load it, and a small
module for Python that asks the library what it is.

FUSED_RNN_BUILD=0: a pure Python install. FUSED_RNN_CUDA=1 or 0: with CUDA or without.
FUSED_RNN_OBJECTS: the folder of the kernels' objects, in place of `build`; those newer than their
sources are not compiled again."""

import json
import os
import runpy
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
# The folder of each library's kernels, which its Makefile compiles: flags differ from file to file,
# and PyTorch's own rules for .cu files refuse to work under its CPU builds.
KERNELS = {"fused_rnn.libfused_rnn_ops": "csrc/cpu", "fused_rnn.libfused_rnn_ops_cuda": "csrc/cuda"}
# The library that each Python module asks.
ASKED = dict(zip(("fused_rnn._C", "fused_rnn._C_cuda"), KERNELS, strict=True))


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
        "extra_link_args": [],
    }
    options = {key: value + more.get(key, []) for key, value in options.items()}
    return Extension(name, sources, language="c++", **options)


def library(name: str, sources: list[Path], **more: list[Any]) -> Extension:
    """Returns a library of ops, by whose file name programs and modules find it."""
    link = [f"-Wl,-soname,{name.rpartition('.')[2]}.so"]
    return extension(name, sorted(map(str, sources)), extra_link_args=link, **more)


def module(name: str, source: str, **more: list[Any]) -> Extension:
    """Returns a Python module, which finds its library beside itself."""
    return extension(name, [source], extra_link_args=["-Wl,-rpath,$ORIGIN"], **more)


def cpu_extensions() -> list[Extension]:
    """Returns the library and the module without CUDA."""
    # Those in the folders below take flags of their own.
    sources = [Path("csrc/library.cpp"), *Path("csrc/cpu").glob("*.cpp")]
    return [
        library("fused_rnn.libfused_rnn_ops", sources),
        module("fused_rnn._C", "csrc/module.cpp"),
    ]


def write_schemas(folder: Path) -> None:
    """Writes schemas.h, whose list of C++ strings is that of fused_rnn/ops/schemas.py."""
    schemas = runpy.run_path("fused_rnn/ops/schemas.py")["COMPILED"]
    lines = [f"    {json.dumps(name + schema)},\n" for name, schema in schemas.items()]
    head = "#pragma once\nnamespace fused_rnn {\nconstexpr const char* kSchemas[] = {\n"
    text, path = head + "".join(lines) + "};\n}\n", folder / "schemas.h"
    if not path.exists() or path.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_objects(folder: str) -> list[str]:
    """Returns the object files of the kernels in a folder, built by its Makefile."""
    build = Path(os.environ.get("FUSED_RNN_OBJECTS", "build"), Path(folder).name).absolute()
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    make = ["make", "-C", folder, f"-j{jobs}", f"BUILD={build}", f"NVCC={NVCC}"]
    subprocess.run(make, check=True)
    return sorted(str(path) for path in build.glob("*.o"))


def cuda_extensions() -> list[Extension]:
    """Returns the library and the module with CUDA, if there are to be any."""
    import torch

    wanted = os.environ.get("FUSED_RNN_CUDA")
    if (
        wanted == "0"
        or wanted is None
        and not (torch.version.cuda and (CUDA_HOME / "bin").is_dir())
    ):
        return []
    headers = [str(CUDA_HOME / "include")]
    sources = [path for path in Path("csrc/cuda").rglob("*.cpp") if path.stem != "module"]
    return [
        library(
            "fused_rnn.libfused_rnn_ops_cuda",
            sources,
            include_dirs=headers,
            library_dirs=[str(CUDA_HOME / "lib64")],
            libraries=["cudart"] + ["torch_cuda"] * bool(torch.version.cuda),
            # PyTorch declares its functions for streams only with this.
            define_macros=[("USE_CUDA", "1")],
        ),
        module("fused_rnn._C_cuda", "csrc/cuda/module.cpp", include_dirs=headers),
    ]


def build_options() -> dict[str, object]:
    """Returns setup()'s arguments for the compiled part."""
    if os.environ.get("FUSED_RNN_BUILD") == "0":
        return {}
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def build_extensions(self) -> None:
            generated = Path(self.build_temp).absolute()
            write_schemas(generated)
            for one in self.extensions:
                one.include_dirs.append(str(generated))
                if one.name in KERNELS:
                    one.extra_objects += make_objects(KERNELS[one.name])
                else:
                    one.extra_objects.append(self.get_ext_fullpath(ASKED[one.name]))
            super().build_extensions()

        def get_ext_filename(self, name: str) -> str:
            # setuptools asks for the last part of a name alone, too.
            if name.rpartition(".")[2].startswith("lib"):
                return name.replace(".", os.sep) + ".so"
            return str(super().get_ext_filename(name))

    modules = [*cpu_extensions(), *cuda_extensions()]
    return {"ext_modules": modules, "cmdclass": {"build_ext": Build}}


setup(**build_options())
