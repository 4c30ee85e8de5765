# SPDX-License-Identifier: MIT
"""Searches for the likeliest sequences, sampling, and scores of given ones."""
