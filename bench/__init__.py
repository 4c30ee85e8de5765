# SPDX-License-Identifier: MIT
"""The benchmark: run it with `python -m bench.run`."""
