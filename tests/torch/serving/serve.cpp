// SPDX-License-Identifier: MIT
// Runs a package on tensors that torch.save wrote: serve MODEL.pt2 INPUTS.pt OUTPUTS.pt
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iterator>

int main(int, char** names) {
  torch::inductor::AOTIModelPackageLoader model(names[1]);

  std::ifstream in(names[2], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  const torch::IValue list = torch::pickle_load(bytes);
  std::vector<torch::Tensor> inputs;
  for (const torch::IValue& one : list.toListRef()) inputs.push_back(one.toTensor());

  const std::vector<torch::Tensor> outputs = model.run(inputs);
  const std::vector<torch::IValue> values(outputs.begin(), outputs.end());
  const auto saved = torch::pickle_save(c10::ivalue::Tuple::create(values));
  std::ofstream(names[3], std::ios::binary).write(saved.data(), saved.size());
}
