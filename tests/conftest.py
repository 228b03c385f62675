# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import settings

# Timing is never asserted: a busy machine must not fail a test. The rest is hypothesis' own
# choice, which with CI set is to try the same examples each time.
settings.register_profile("anyport", settings(), deadline=None)
settings.load_profile("anyport")
