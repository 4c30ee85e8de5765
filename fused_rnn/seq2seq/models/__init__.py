# SPDX-License-Identifier: MIT
"""Encoders, decoders, attention and the models that are made of them."""
