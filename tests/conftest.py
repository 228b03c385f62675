# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import settings

# Timing is never asserted: a busy machine must not fail a test.
settings.register_profile("anyport", deadline=None)
settings.load_profile("anyport")
