# SPDX-License-Identifier: MIT
"""The modules that users hold, and what makes them of other modules."""
