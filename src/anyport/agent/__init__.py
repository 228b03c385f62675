# SPDX-License-Identifier: Apache-2.0
"""Every host: kernel event -> what counts -> registry. See docs/architecture.md."""
