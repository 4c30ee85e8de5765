# SPDX-License-Identifier: MIT
"""One call of a layer, from its checked arguments to the kernels' ops and their derivatives."""
