// SPDX-License-Identifier: MIT
#include "passes.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "planner.h"
#include "record.h"
#include "runtime.h"
#include "shapes.h"
#include "stepwise/passes.h"
#include "stuck.h"

namespace fused_rnn {
namespace cuda {
namespace {

// The grid tier: what the blocks share, made and set for one launch, by kernels that a CUDA graph
// replays.
struct Shared {
  Tensor ring, counter;
  Exchange exchange;

  Shared(const Layer& layer, const Plan& plan, int64_t operands)
      : ring(layer.make({kRingSteps, layer.sizes.N, layer.sizes.B, operands,
                         grid_blocks(layer.sizes.H, plan.cluster) * kTileUnits / 2},
                        ScalarType::Int)),
        counter(
            layer.make({layer.sizes.N, (layer.sizes.B + plan.rows - 1) / plan.rows, plan.cluster},
                       ScalarType::Int)),
        exchange{plan.rows, plan.slots, static_cast<uint16_t*>(ring.mutable_data_ptr()),
                 static_cast<uint32_t*>(counter.mutable_data_ptr())} {
    torch::stable::fill_(ring, int32_t(kAbsent));
    TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(counter.get()));
  }
};

// What the weight gradients multiply dG with, over all steps.
struct Operands {
  Tensor x, before, reset_h;  // (T*B, I), (T*B, N*H) twice
};

Operands operands(const Layer& layer, const Tensor& x, const Backward& p, StreamHandle stream) {
  const Sizes& s = layer.sizes;
  const bool textbook = s.cell == Cell::kGruResetBefore;
  Operands o{x, layer.make({layer.rows(), s.N * s.H}),
             layer.make({textbook ? layer.rows() : 0, s.N * s.H})};
  const States states{p, p.y, p.tape, o.before.mutable_data_ptr(),
                      textbook ? o.reset_h.mutable_data_ptr() : nullptr};
  check_launch(states_before(states, stream));
  if (p.lengths) {
    o.x = layer.make({layer.rows(), layer.I});
    check_launch(inputs_inside(
        {s.T, s.B, int(layer.I), s.dtype, p.lengths, x.const_data_ptr(), o.x.mutable_data_ptr()},
        stream));
  }
  return o;
}

// Parts that sum enough rows each to keep a block busy, and are enough to fill the device.
constexpr int64_t kRowsPerPart = 64, kMostParts = 128;

Columns sum_columns(const Layer& layer, const Tensor& dg, const Tensor& partial, int parts,
                    StreamHandle stream) {
  const Sizes& s = layer.sizes;
  const Columns sums{dg.const_data_ptr(),
                     partial.mutable_data_ptr(),
                     layer.rows(),
                     int(s.N * layer.D * s.H),
                     parts,
                     s.dtype};
  check_launch(partial_sums(sums, stream));
  return sums;
}

// Null, or what went wrong.
const char* launch_forward(const Plan& plan, const Layer& layer, const Forward& p,
                           StreamHandle stream) {
  switch (plan.tier) {
    case Tier::kBlock:
      return block_forward(p, stream);
    case Tier::kExact:
      return exact_forward(p, plan.rows, stream);
    case Tier::kCluster:
      return cluster_forward(p, plan.cluster, plan.rows, stream);
    case Tier::kGrid:
      return grid_forward(p, Shared(layer, plan, 1).exchange, stream);
    default:
      stepwise_forward(layer, p, stream);
      return nullptr;
  }
}

const char* launch_backward(const Plan& plan, const Layer& layer, const Backward& p,
                            StreamHandle stream) {
  switch (plan.tier) {
    case Tier::kBlock:
      return block_backward(p, stream);
    case Tier::kExact:
      return exact_backward(p, plan.rows, stream);
    case Tier::kCluster:
      return cluster_backward(p, plan.cluster, plan.rows, stream);
    case Tier::kGrid: {
      const Shared shared(layer, plan, layer.G);
      return plan.cluster > 1 ? grid_cluster_backward(p, shared.exchange, plan.cluster, stream)
                              : grid_backward(p, shared.exchange, stream);
    }
    default:
      stepwise_backward(layer, p, stream);
      return nullptr;
  }
}

// Where a pass rewinds to from a plan that the device has no room for. Its multiprocessors may take
// no cluster of the planned size, as where they were parted among processes; or another process or
// a debugger holds some back.
Plan rewound_plan(const Plan& plan, const Sizes& sizes, Device& device, bool backward) {
  device.cluster = 1;
  return plan.cluster > 1 ? make_plan(sizes, device, backward) : stepwise_plan(kTooLarge);
}

// Runs a pass by the first plan that the device has room for; rewinds from each before it.
template <class Pass, class Launch>
void run(const Layer& layer, Pass p, bool backward, Launch launch) {
  Device device = device_sizes(layer.device);
  const StreamHandle stream = current_stream(layer.device);
  Plan plan = make_plan(layer.sizes, device, backward);
  while (true) {
    const bool waits = plan.tier == Tier::kCluster || plan.tier == Tier::kGrid;
    p.stuck = waits ? stuck_word(layer.sizes, plan.tier, backward, layer.device) : nullptr;
    const char* error = launch(plan, layer, p, stream);
    if (error != kTooLarge) {
      check_launch(error);
      return record_run(plan, backward);
    }
    record_rewind(plan.tier);
    plan = rewound_plan(plan, layer.sizes, device, backward);
  }
}

}  // namespace

void run_forward(const Layer& layer, const Forward& p) { run(layer, p, false, launch_forward); }

void run_backward(const Layer& layer, const Backward& p) { run(layer, p, true, launch_backward); }

Tensor input_grads(const Layer& layer, const Tensor& dg) {
  const Sizes& s = layer.sizes;
  const int64_t H = s.H, rows = layer.rows(), gates = layer.G * H, stride = s.N * layer.D * H;
  const Tensor dx = layer.make({s.T, s.B, layer.I});
  const Tensor out = view(dx, {rows, layer.I}, {layer.I, 1});
  if (layer.D == layer.G) {
    // All recurrences in one product.
    multiply(out, dg, layer.w_ih);
    return dx;
  }
  for (int n = 0; n < s.N; ++n) {
    const Tensor own = view(dg, {rows, gates}, {stride, 1}, n * layer.D * H);
    const auto add = n == 0 ? &multiply : &multiply_add;
    add(out, own, view(layer.w_ih, {gates, layer.I}, {layer.I, 1}, n * gates * layer.I));
  }
  return dx;
}

std::vector<Tensor> weight_grads(const Layer& layer, const Tensor& x, const Backward& p,
                                 const Tensor& dg) {
  const Sizes& s = layer.sizes;
  const int64_t H = s.H, G = layer.G, D = layer.D, rows = layer.rows(), stride = s.N * D * H;
  const StreamHandle stream = current_stream(layer.device);
  const int parts = int(std::clamp<int64_t>(rows / kRowsPerPart, 1, kMostParts));
  const Tensor partial = layer.make_wide({layer.bias ? parts : 0, stride});
  std::vector<Tensor> grads;
  for (const Tensor& w : layer.given) {
    grads.push_back(w.dim() == 1 ? layer.make({w.size(0)}) : layer.make({w.size(0), w.size(1)}));
  }
  if (rows == 0) {
    for (Tensor& grad : grads) TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(grad.get()));
    return grads;
  }
  const Operands o = operands(layer, x, p, stream);
  const Tensor inputs = view(o.x, {rows, layer.I}, {layer.I, 1});
  Columns sums{};
  if (layer.bias) sums = sum_columns(layer, dg, partial, parts, stream);
  for (int n = 0; n < s.N; ++n) {
    const Tensor* grad = grads.data() + n * layer.per_recurrence;
    const int64_t first = n * D * H;
    // The transpose of `gates` column groups of this recurrence's dG, from `gate` on.
    const auto columns = [&](int64_t gate, int64_t gates) {
      return transposed(dg, rows, gates * H, stride, first + gate * H);
    };
    const auto states = [&](const Tensor& all) {
      return view(all, {rows, H}, {s.N * H, 1}, n * H);
    };
    // Rows of dW_hh of the same gates.
    const auto block = [&](int64_t gate, int64_t gates) {
      return view(grad[1], {gates * H, H}, {H, 1}, gate * H * H);
    };
    multiply(grad[0], columns(0, G), inputs);
    if (G == 3) {
      // The n rows meet q's gradient, in the textbook GRU r * h.
      const bool textbook = s.cell == Cell::kGruResetBefore;
      multiply(block(0, 2), columns(0, 2), states(o.before));
      multiply(block(2, 1), columns(textbook ? 2 : 3, 1), states(textbook ? o.reset_h : o.before));
    } else {
      multiply(grad[1], columns(0, G), states(o.before));
    }
    if (layer.bias) {
      check_launch(bias_grads({sums, int(first), int(H), int(G), int(D), grad[2].mutable_data_ptr(),
                               grad[3].mutable_data_ptr()},
                              stream));
    }
  }
  return grads;
}

}  // namespace cuda
}  // namespace fused_rnn
