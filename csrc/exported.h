// SPDX-License-Identifier: MIT
// What the libraries of ops offer to the Python modules beside them; all else is hidden.
#pragma once

#define FUSED_RNN_EXPORTED __attribute__((visibility("default")))
