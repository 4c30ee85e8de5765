# SPDX-License-Identifier: MIT
"""The backends that can run a layer, one module or package each, and the choice among them."""
