# SPDX-License-Identifier: MIT
"""Schemas of the ops, which the build hands on to the library of compiled ones.

It reads this file alone: nothing is imported here. With the library, C++ programs have these ops
without Python; without it `ops` defines them.
"""

# On the CPU x, y, resets and tape may be compact rows, (rows, ...), by falling lengths.
# Tape and saved_y are for the backward pass, and empty without keep_tape. Saved_y is y again: the
# tensor y belongs to the caller, who may write to it.
FORWARD = (
    "(Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? lengths, Tensor? resets, "
    "str cell, int[] reverse, bool keep_tape, int products=6) "
    "-> (Tensor y, Tensor hn, Tensor cn, Tensor tape, Tensor saved_y)"
)
BACKWARD = (
    "(Tensor? dy, Tensor? dhn, Tensor? dcn, Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, "
    "Tensor? lengths, Tensor? resets, Tensor y, Tensor tape, str cell, int[] reverse, "
    "bool need_dx, bool need_dstate, bool need_dweights, int products=6) "
    "-> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)"
)

# Cells with options, in float32 and float64. x is the input's part of the gates, (T, B, N, G*H);
# scales and biases are those of normalised parts, masks come from a seed for each row; see
# csrc/cpu/varied.h.
_VARIED = (
    "Tensor x, Tensor? h0, Tensor? c0, Tensor w_hh, Tensor? b_hh, Tensor? x_scale, "
    "Tensor? x_bias, Tensor? h_scale, Tensor? c_scale, Tensor? c_bias, Tensor? peephole, "
    "Tensor? seeds, Tensor? lengths, Tensor? resets"
)
_VARIED_OPTIONS = (
    "str cell, int[] reverse, str activation, str gate_activation, float zoneout, "
    "float zoneout_cell, float dropout, bool drops_state, float eps, float? clip, bool every_cell"
)
VARIED_FORWARD = (
    f"({_VARIED}, {_VARIED_OPTIONS}, bool keep_tape) "
    "-> (Tensor y, Tensor hn, Tensor cn, Tensor cells, Tensor tape, Tensor saved_y)"
)
VARIED_BACKWARD = (
    f"(Tensor? dy, Tensor? dhn, Tensor? dcn, Tensor? dcells, {_VARIED}, Tensor y, Tensor tape, "
    f"{_VARIED_OPTIONS}) "
    "-> (Tensor dx, Tensor dparts, Tensor factors, Tensor dh0, Tensor dc0, Tensor[] dweights)"
)

# What the libraries serve. All but the first five are without derivatives, and on the CPU.
COMPILED = {
    "native_forward": FORWARD,
    "native_backward": BACKWARD,
    "native_varied_forward": VARIED_FORWARD,
    "native_varied_backward": VARIED_BACKWARD,
    # A copy that compilers keep: of their own kind they leave some out, or make them too late.
    "copy": "(Tensor x) -> Tensor",
    # With the gradient of an LSTM's c after every step, (T, B, N, H) of the tape's type.
    "native_cells_backward": "(Tensor? dcells, " + BACKWARD[1:],
    # Weights packed beforehand are one tensor of bytes.
    "native_prepack": "(Tensor[] weights, str cell, int[] reverse) -> Tensor",
    "native_prepacked_forward": (
        "(Tensor x, Tensor? h0, Tensor? c0, Tensor prepacked, Tensor? lengths, Tensor? resets) "
        "-> (Tensor y, Tensor hn, Tensor? cn)"
    ),
    "native_prepacked_step": (
        "(Tensor x, Tensor? h0, Tensor? c0, Tensor prepacked) -> (Tensor hn, Tensor? cn)"
    ),
    # Weights of fewer bits: panels, with int8 scales and sums, then biases; see quantized.py.
    "native_stored_forward": (
        "(Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, Tensor? lengths, Tensor? resets, "
        "str cell, int[] reverse, int hidden, int output) -> (Tensor y, Tensor hn, Tensor? cn)"
    ),
    "native_prepack_linear": "(Tensor weight, Tensor? bias) -> Tensor",
    "native_prepacked_linear": "(Tensor x, Tensor prepacked, int columns) -> Tensor",
    # Products over all steps at once: x w^T + b, x w if transposed, and a^T b of each n.
    "native_linear": "(Tensor x, Tensor w, Tensor? b, bool transposed) -> Tensor",
    "native_outer": "(Tensor a, Tensor b) -> Tensor",
    "native_log_softmax": "(Tensor x) -> (Tensor log_probs, Tensor peaks)",
    "native_top": "(Tensor x, int k) -> (Tensor values, Tensor places)",
    "native_best": (
        "(Tensor logits, int k, Tensor? excluded) -> (Tensor values, Tensor places, Tensor peaks)"
    ),
    "native_advance": (
        "(Tensor values, Tensor places, Tensor peaks, Tensor live, Tensor(a!) counts, "
        "Tensor(b!) broken, Tensor(c!) tokens, Tensor(d!) parents, Tensor(e!) gains, "
        "Tensor(f!) ended, Tensor(g!) end_parents, Tensor(h!) end_gains, int step, int? eos, "
        "bool retire) -> (Tensor live, Tensor rows, Tensor last)"
    ),
    "native_outlive": (
        "(Tensor values, Tensor places, Tensor peaks, Tensor alive, Tensor reached, "
        "Tensor lengths, Tensor? limits, Tensor(a!) broken, int? eos) "
        "-> (Tensor alive, Tensor reached, Tensor lengths)"
    ),
}
