#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# PyTorch 2.13.0: lists of tensors do not pass between C++'s pickle functions and torch.save, tuples do.
#
# torch::pickle_save writes what torch.load reads, and torch::pickle_load reads what torch.save
# wrote; so a C++ program that serves a model should hand its tensors over as either has them. Seen:
#   C++ saves a std::vector<Tensor>      torch.load refuses it: a global, build_tensorlist of a module
#                                        of TorchScript, is not among those that weights_only allows,
#                                        although nothing but tensors is in the file
#   C++ saves a tuple of the same        torch.load returns a tuple of tensors
#   Python saves a list of tensors       C++ reads a GenericList: toTensorVector() fails with an
#                                        internal assertion ("Expected TensorList but got
#                                        GenericList"), toListRef() returns the tensors
# So what the program writes with the type its models return, the other side does not load with its
# defaults, and a program that was tried on its own files alone does not show it.
#
# Needs g++. Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
cat > both.cpp <<'CPP'
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <iterator>

static void write(const char* name, const torch::IValue& value) {
  const std::vector<char> bytes = torch::pickle_save(value);
  std::ofstream(name, std::ios::binary).write(bytes.data(), bytes.size());
}

int main() {
  const std::vector<torch::Tensor> two{torch::ones(2), torch::zeros(3)};
  write("list.pt", two);
  write("tuple.pt", c10::ivalue::Tuple::create(std::vector<torch::IValue>{two[0], two[1]}));

  std::ifstream in("python.pt", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  const torch::IValue list = torch::pickle_load(bytes);
  std::cout << "torch " << TORCH_VERSION << ": of Python's list toListRef() has "
            << list.toListRef().size() << ", toTensorVector() ";
  try {
    const size_t count = list.toTensorVector().size();
    std::cout << "has " << count << "\n";
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    std::cout << "raises " << (what.find("but got GenericList") < what.size()) << "\n";
  }
}
CPP
cat > flags.py <<'PY'
from torch.utils import cpp_extension as torch

print(*(f"-I{path}" for path in torch.include_paths()))
print(*(f"-L{path} -Wl,-rpath,{path}" for path in torch.library_paths()))
PY
cat > seen.py <<'PY'
import pickle
import sys

import torch

with open("cpp.txt") as file:
    cpp = file.read().strip()
print(cpp)
pair = torch.load("tuple.pt")
print("torch.load of C++'s tuple:", type(pair).__name__, [tuple(t.shape) for t in pair])
try:
    refused = f"loads, as {type(torch.load('list.pt')).__name__}"
except pickle.UnpicklingError as error:
    refused = "refused" if "torch.jit._pickle.build_tensorlist" in str(error) else str(error)
print("torch.load of C++'s list:", refused)
expected = "torch 2.13.0: of Python's list toListRef() has 2, toTensorVector() raises 1"
if cpp != expected or type(pair) is not tuple or refused != "refused":
    sys.exit("changed: not what was seen before")
PY
"$folder/env/bin/python" -c 'import torch; torch.save([torch.ones(2), torch.zeros(3)], "python.pt")'
{ read -r includes && read -r libraries; } < <("$folder/env/bin/python" flags.py)
# shellcheck disable=SC2086
g++ -std=c++20 -O0 $includes both.cpp $libraries -ltorch -ltorch_cpu -lc10 -o both
./both > cpp.txt
"$folder/env/bin/python" seen.py
echo "as seen before"
