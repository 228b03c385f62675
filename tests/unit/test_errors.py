# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from anyport.errors import KernelError, RegistryError, single_cause

KERNEL, REGISTRY, FAULT = KernelError("kernel"), RegistryError("registry"), IndexError("fault")


def test_an_error_in_task_groups_is_told_as_itself() -> None:
    assert single_cause(KERNEL) is KERNEL
    inner = BaseExceptionGroup("inner", [KERNEL])
    assert single_cause(BaseExceptionGroup("outer", [inner])) is KERNEL
    assert single_cause(BaseExceptionGroup("outer", [FAULT])) is FAULT


def test_of_several_errors_of_ours_the_first_is_told() -> None:
    assert single_cause(BaseExceptionGroup("outer", [KERNEL, REGISTRY])) is KERNEL


def test_a_fault_beside_others_keeps_its_traceback() -> None:
    group = BaseExceptionGroup("outer", [KERNEL, FAULT])
    assert single_cause(group) is group
