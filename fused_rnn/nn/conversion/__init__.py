# SPDX-License-Identifier: MIT
"""Fused modules in the place of torch.nn's, and back."""
