# SPDX-License-Identifier: Apache-2.0
"""Where the BPF objects are, where their maps and links are pinned, and how both are adopted.

<pins>/<map>            a map, with what a former daemon left in it
<pins>/layouts          what these were made to hold (anyport.kernel.layouts)
<pins>/links/<name>     an attachment, which outlives the daemon
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import struct
from collections.abc import Container, Iterable
from importlib import resources
from pathlib import Path

from anyport.errors import KernelError
from anyport.kernel import layouts
from anyport.kernel.libbpf import AttachType, Link, Program

log = logging.getLogger(__name__)

_STANDARD = Path("/sys/fs/bpf")
_BPF_FS_MAGIC = 0xCAFE4A11
_BY_INTERFACE = {AttachType.TCX_INGRESS, AttachType.TCX_EGRESS, AttachType.XDP}
_libc = ctypes.CDLL(None, use_errno=True)


def object_path(name: str) -> Path:
    """`listen` -> the compiled listen.bpf.o. Raises KernelError if it was not built."""
    path = Path(str(resources.files("anyport.kernel"))) / "objects" / f"{name}.bpf.o"
    if not path.exists():
        raise KernelError(f"{path} is missing: build it with make -C bpf", errno.ENOENT)
    return path


def prepare_pins(pins: Path) -> None:
    """Makes `pins` a directory in a BPF filesystem; mounts the system's if it is to be there.

    Nowhere else: a mount hides what was there, and other programs' files with it.
    Raises KernelError, too, if what is pinned there has to stay another version's.
    """
    present = next(path for path in (pins, *pins.parents) if path.exists())
    if not is_bpffs(present):
        _mount_standard(pins)
    (pins / "links").mkdir(parents=True, exist_ok=True)
    layouts.adopt(pins)


def is_bpffs(path: Path) -> bool:
    """statfs(2); os.statvfs does not tell the type."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer):
        raise KernelError(f"statfs {path}", ctypes.get_errno())
    return bool(struct.unpack_from("l", buffer)[0] & 0xFFFFFFFF == _BPF_FS_MAGIC)


def attach(program: Program, target: int, attach_type: AttachType, pin: Path) -> Link:
    """Attaches `program`, or puts it into the link that `pin` already holds there.

    `target` is the fd of a cgroup or network namespace, or an interface index.
    An adopted link changes its program between two packets: none meets no
    program. A pinned link to anything else (a device or cgroup that is gone) is
    replaced.
    """
    adopted = _adopted(pin, _identity(target, attach_type))
    if adopted is not None:
        adopted.update(program)
        return adopted
    link = Link.create(program, target, attach_type)
    try:
        link.pin(pin)
    except KernelError:
        link.close()
        raise
    return link


def detach(pin: Path) -> None:
    """Ends the attachment and removes its pin. Absent: success."""
    if pin.exists():
        link = Link.open_pinned(pin)
        with contextlib.suppress(KernelError):  # what it was attached to is gone
            link.detach()
        link.close()
        pin.unlink()


def target_of(pin: Path) -> int:
    """As Link.target, of the link that is pinned there."""
    link = Link.open_pinned(pin)
    try:
        return link.target
    finally:
        link.close()


def link_pin(pins: Path, name: str) -> Path:
    return pins / "links" / name


def prune_links(pins: Path, known: Container[str]) -> None:
    """Ends the attachments of another version's that this one has no program for."""
    for pin in (pins / "links").iterdir():
        if pin.name not in known:
            log.warning("program %s is another version's: it is taken off", pin.name)
            detach(pin)


def unpin(pins: Path, names: Iterable[str]) -> None:
    """Removes the maps' pins. Absent: success."""
    for name in names:
        (pins / name).unlink(missing_ok=True)


def remove_pins(pins: Path) -> None:
    """`pins` with all that is pinned beneath it, and the attachments. Absent: success."""
    if not pins.is_dir():
        return
    for pin in (pins / "links").glob("*"):
        detach(pin)
    for path in pins.glob("*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    pins.rmdir()


def _adopted(pin: Path, identity: int) -> Link | None:
    if not pin.exists():
        return None
    link = Link.open_pinned(pin)
    if link.target == identity:
        return link
    pin.unlink()
    link.close()
    return None


def _identity(target: int, attach_type: AttachType) -> int:
    """What Link.target says of a link to `target`."""
    return target if attach_type in _BY_INTERFACE else os.fstat(target).st_ino


def _mount_standard(pins: Path) -> None:
    if not pins.resolve().is_relative_to(_STANDARD) or _STANDARD.is_mount():
        raise KernelError(
            f"daemon.pins {pins}: not in a BPF filesystem: name a directory beneath {_STANDARD},"
            " or mount one there (mount -t bpf bpf DIRECTORY)"
        )
    if _libc.mount(b"bpf", os.fsencode(_STANDARD), b"bpf", 0, None):
        raise KernelError(f"mount a BPF filesystem at {_STANDARD}", ctypes.get_errno())
