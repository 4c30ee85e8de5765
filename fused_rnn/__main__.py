# SPDX-License-Identifier: MIT
"""`python -m fused_rnn`, the same as the console script `fused-rnn`."""

import sys

from .cli.main import main

sys.exit(main())
