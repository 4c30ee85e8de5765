# SPDX-License-Identifier: MIT
"""Training loops, their options, and the files that they are resumed from."""
