# SPDX-License-Identifier: Apache-2.0
"""One etcd watch on one connection; registry.etcd joins several into one watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from anyport.errors import Compacted, RegistryUnavailable
from anyport.registry.base import Change, Changes, Deleted, Entry
from anyport.registry.channels import Channels, translate
from anyport.registry.messages import etcd_pb2 as pb

PATH = "/etcdserverpb.Watch/Watch"

# Without it a member that lost its leader keeps the stream open, answers
# probes, and shows an old store for ever.
_METADATA = (("hasleader", "true"),)

_PROBE = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


class WatchStream:
    """Opened by `open`; then `changes`, once; then `close`, always."""

    def __init__(self, channels: Channels) -> None:
        self.endpoint = channels.endpoint
        send = channels.channel().stream_stream(
            PATH, pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
        )
        self._call = send(None, metadata=_METADATA)
        # To cancel a read or write cancels the whole call, so each is a task
        # that outlives the waits for it.
        self._reading: asyncio.Task[object] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def open(
        self, key: bytes, range_end: bytes, after: int, patience: float
    ) -> pb.ResponseHeader:
        """Ask for changes from revision `after` on; which store answers, and its revision.

        From `after`, not after + 1, although `changes` skips what it repeats:
        etcd before 3.5.20 starts a watch at the very revision it was compacted
        to, without the deletions of that revision. Raises Compacted, and
        RegistryUnavailable if there is no answer for `patience` seconds.
        """
        create = pb.WatchCreateRequest(
            key=key, range_end=range_end, start_revision=max(after, 1), fragment=True
        )
        await self._send(pb.WatchRequest(create_request=create), patience)
        response = await self._receive(patience)
        if response is None:
            raise self._silent(patience)
        return response.header

    async def changes(self, after: int, patience: float) -> AsyncIterator[Changes]:
        """Changes above revision `after`, without end.

        A stream that is silent for `patience` seconds is probed, and must
        answer within as many again. Raises RegistryUnavailable and Compacted.
        """
        events: list[pb.Event] = []
        while True:
            response = await self._receive_or_probe(patience)
            events.extend(response.events)
            if response.fragment:  # the rest of this response follows
                continue
            changes = tuple(_change(event) for event in events if event.kv.mod_revision > after)
            if changes:
                after = events[-1].kv.mod_revision
                yield Changes(after, changes)
            events.clear()

    async def close(self) -> None:
        self._call.cancel()
        pending = [task for task in (self._reading, self._writing) if task is not None]
        for task in pending:  # a write that waits for its connection does not notice cancel()
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _receive_or_probe(self, patience: float) -> pb.WatchResponse:
        response = await self._receive(patience)
        if response is None:
            # For liveness only: on etcd 3.4 the revision of its answer may be
            # ahead of events that are still to come.
            await self._send(_PROBE, patience)
            response = await self._receive(patience)
        if response is None:
            raise self._silent(2 * patience)
        return response

    async def _receive(self, patience: float) -> pb.WatchResponse | None:
        """The next response; None if there is none for `patience` seconds."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._reading}, timeout=patience)
        if not done:
            return None
        reading, self._reading = self._reading, None
        try:
            response = reading.result()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise self._broken(error) from None
        return self._checked(response)

    def _checked(self, response: object) -> pb.WatchResponse:
        if not isinstance(response, pb.WatchResponse):
            raise RegistryUnavailable(f"etcd at {self.endpoint}: it ended the watch")
        if response.compact_revision:
            raise Compacted(f"etcd at {self.endpoint}: compacted at {response.compact_revision}")
        if response.canceled:
            reason = response.cancel_reason or "no reason given"
            raise RegistryUnavailable(f"etcd at {self.endpoint}: it cancelled the watch: {reason}")
        return response

    async def _send(self, request: pb.WatchRequest, patience: float) -> None:
        self._writing = asyncio.ensure_future(self._call.write(request))
        done, _ = await asyncio.wait({self._writing}, timeout=patience)
        if not done:
            raise self._silent(patience)
        try:
            self._writing.result()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            raise self._broken(error) from None  # InvalidStateError: the call is over already

    def _silent(self, seconds: float) -> RegistryUnavailable:
        return RegistryUnavailable(f"etcd at {self.endpoint}: no answer for {seconds:.1f} s")

    def _broken(self, error: BaseException) -> Exception:
        if isinstance(error, grpc.aio.AioRpcError):
            return translate(error, self.endpoint)
        return RegistryUnavailable(f"etcd at {self.endpoint}: the watch's connection is closed")


def entry(kv: pb.KeyValue) -> Entry:
    return Entry(decode_key(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def decode_key(key: bytes) -> str:
    """Our keys are ASCII; another program's may be any bytes, and must not stop a listing."""
    return key.decode("utf-8", "surrogateescape")


def _change(event: pb.Event) -> Change:
    if event.type == pb.Event.DELETE:
        return Deleted(decode_key(event.kv.key))
    return entry(event.kv)
