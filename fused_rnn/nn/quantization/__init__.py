# SPDX-License-Identifier: MIT
"""Recurrent modules with weights of fewer bits."""
