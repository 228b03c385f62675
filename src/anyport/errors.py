# SPDX-License-Identifier: Apache-2.0
"""Every exception that anyport raises on purpose.

AnyportError                what the user is told, in one line; exit status 1
├── UsageError              the user's words are off; exit status 2
│   └── ConfigError         a config file's are
├── KernelError             the kernel refused; carries errno
├── RegistryError           etcd can't be reached or refused
│   ├── RegistryUnavailable no answer within the time given: try again
│   ├── RegistryRefused     etcd's roles do not let this host do that
│   ├── AnswerTooLarge      an answer is longer than this client takes: ask for less
│   ├── Conflict            a transaction's requirements do not hold
│   ├── LeaseGone           a write names a lease that has expired: grant another
│   └── Compacted           a watch's revision is gone: list again
└── DaemonUnavailable       the local daemon does not answer on its socket
"""

from __future__ import annotations

import os


class AnyportError(Exception):
    """One line that names what, where and what is allowed."""

    exit_status = 1


def single_cause(error: BaseException) -> BaseException:
    """What a TaskGroup's error is about: the one error in it, or the first if all are ours.

    Anything else is a fault of anyport's own, and stays whole for the traceback.
    """
    causes = _causes(error)
    ours = all(isinstance(cause, AnyportError) for cause in causes)
    return causes[0] if ours or len(causes) == 1 else error


def _causes(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [cause for inner in error.exceptions for cause in _causes(inner)]


class UsageError(AnyportError):
    exit_status = 2


class ConfigError(UsageError):
    pass


class KernelError(AnyportError):
    """`errno` is positive, as in the errno module; 0 where none applies."""

    def __init__(self, what: str, errno: int = 0) -> None:
        super().__init__(f"{what}: {os.strerror(errno)}" if errno else what)
        self.errno = errno


class RegistryError(AnyportError):
    pass


class RegistryUnavailable(RegistryError):
    pass


class RegistryRefused(RegistryError):
    pass


class AnswerTooLarge(RegistryError):
    pass


class Conflict(RegistryError):
    pass


class LeaseGone(RegistryError):
    pass


class Compacted(RegistryError):
    pass


class DaemonUnavailable(AnyportError):
    pass
