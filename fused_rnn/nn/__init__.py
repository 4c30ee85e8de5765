# SPDX-License-Identifier: MIT
"""The modules that users hold, and the functions that make them of other modules."""
