# SPDX-License-Identifier: Apache-2.0
"""The host that receives a VIP's packets: registry -> routes -> maps. See docs/architecture.md."""
