# SPDX-License-Identifier: Apache-2.0
"""A thin client of etcd v3 (https://etcd.io/docs/v3.4/learning/api/) on grpc.aio.

Importing it costs the time to load gRPC: import it where it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from anyport.errors import AnswerTooLarge, Compacted, Conflict, LeaseGone, RegistryUnavailable
from anyport.registry import transaction
from anyport.registry.base import Changes, Entry, Listing, Put, Unchanged, Write
from anyport.registry.channels import KEEP_ALIVE, RETRY_PAUSE, Channels, Method
from anyport.registry.endpoints import parse_endpoints
from anyport.registry.keys import prefix_end
from anyport.registry.messages import etcd_pb2 as pb
from anyport.registry.renewer import EtcdRenewer
from anyport.registry.watch_stream import WatchStream, entry

PAGE = 1000
"""Keys a page: 65,536 listeners are 9.7 MB in all."""

WRITES_IN_FLIGHT = 64
"""More waits here: etcd answers "too many requests" when its queue is 5,000 long."""

_RANGE = Method("/etcdserverpb.KV/Range", pb.RangeResponse)
_TXN = Method("/etcdserverpb.KV/Txn", pb.TxnResponse)
_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse)
_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse)
_STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusResponse)


class EtcdRegistry:
    """`registry.base.Registry` on an etcd cluster.

    `endpoints`: `[http[s]://]HOST:PORT`; TLS if one says https or `ca` or
    `cert` is given (PEM files). `timeout`: seconds for one answer, from
    whichever endpoint, and for what a watch may be silent. Raises ConfigError.

    A write that timed out may take effect later still: who must exclude others
    says what he requires.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._channels = Channels(parse_endpoints(endpoints, ca=ca, cert=cert, key=key), timeout)
        self._writing = asyncio.Semaphore(WRITES_IN_FLIGHT)
        self._store = 0  # as last listed; it takes no changes from another

    async def list(self, prefix: str) -> Listing:
        while True:
            try:
                return await self._list_pages(prefix)
            except Compacted:  # beneath our feet, between two pages
                continue

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        store = self._store
        while True:
            stream, header = await self._open_watch(prefix, after)
            try:
                store = store or header.cluster_id
                if header.cluster_id != store or await self._goes_back(header, prefix, after):
                    raise Compacted(f"etcd at {stream.endpoint}: it is not the store it was")
                async for changes in stream.changes(after, self._channels.timeout / 2):
                    after = changes.revision
                    yield changes
            except RegistryUnavailable:
                self._channels.failed(stream.endpoint)
            finally:
                await stream.close()
            await asyncio.sleep(RETRY_PAUSE)

    async def write(self, writes: Sequence[Write], require: Sequence[Unchanged] = ()) -> int:
        transaction.check(writes, require)
        request = pb.TxnRequest(
            compare=[_compare(requirement) for requirement in require],
            success=[_operation(write) for write in writes],
        )
        async with self._write_slot():
            if require:
                # Sent once only: the second of two would conflict with the
                # first, whose answer was lost. So find an endpoint that answers.
                await self._newest_revision(require[0].key)
            response = await self._channels.call(_TXN, request, repeat=not require)
        if not response.succeeded:
            keys = ", ".join(requirement.key for requirement in require)
            raise Conflict(f"changed meanwhile: {keys}")
        return response.header.revision if any(map(_changed, response.responses)) else 0

    async def grant(self, ttl: int) -> int:
        response = await self._channels.call(_GRANT, pb.LeaseGrantRequest(TTL=ttl))
        return response.ID

    async def keep_alive(self, lease: int) -> int:
        response = await self._channels.call(KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=lease))
        return response.TTL

    async def revoke(self, lease: int) -> None:
        with suppress(LeaseGone):
            await self._channels.call(_REVOKE, pb.LeaseRevokeRequest(ID=lease))

    def renewer(self) -> EtcdRenewer:
        return EtcdRenewer(self._channels.endpoints)

    async def version(self) -> str:
        """Of the etcd that answers now; also without a quorum."""
        response = await self._channels.call(_STATUS, pb.StatusRequest())
        return response.version

    async def close(self) -> None:
        await self._channels.close()

    async def _list_pages(self, prefix: str) -> Listing:
        """Every page as of the first one's revision. Raises Compacted when that is gone."""
        entries: list[Entry] = []
        request = pb.RangeRequest(
            key=prefix.encode(), range_end=prefix_end(prefix.encode()), limit=PAGE
        )
        while True:
            try:
                page = await self._channels.call(_RANGE, request)
            except AnswerTooLarge:  # no host of ours writes values that long, but any may
                if request.limit == 1:
                    raise
                request.limit //= 10
                continue
            entries += map(entry, page.kvs)
            request.revision = request.revision or page.header.revision
            if not page.more:
                self._store = page.header.cluster_id
                return Listing(request.revision, tuple(entries), self._store)
            request.key = page.kvs[-1].key + b"\0"

    async def _open_watch(self, prefix: str, after: int) -> tuple[WatchStream, pb.ResponseHeader]:
        key = prefix.encode()

        async def attempt(seconds: float) -> tuple[WatchStream, pb.ResponseHeader]:
            stream = WatchStream(self._channels)
            try:
                return stream, await stream.open(key, prefix_end(key), after, seconds)
            except BaseException:
                await stream.close()
                raise

        return await self._channels.until_answered(attempt)

    async def _goes_back(self, header: pb.ResponseHeader, prefix: str, after: int) -> bool:
        """Whether the store has not reached `after` (any more): it was emptied or restored.

        The member that answers a watch may just lag behind the others; a range
        is linearizable.
        """
        return header.revision < after and await self._newest_revision(prefix) < after

    async def _newest_revision(self, key: str) -> int:
        """Of the whole store; by way of a `key`, there or not, that this client may read."""
        answer = await self._channels.call(_RANGE, pb.RangeRequest(key=key.encode() or b"\0"))
        return answer.header.revision

    @asynccontextmanager
    async def _write_slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._channels.timeout):
                await self._writing.acquire()
        except TimeoutError:
            raise RegistryUnavailable(
                f"etcd at {self._channels.endpoint}: {WRITES_IN_FLIGHT} writes wait for an answer"
            ) from None
        try:
            yield
        finally:
            self._writing.release()


def _compare(requirement: Unchanged) -> pb.Compare:
    return pb.Compare(
        target=pb.Compare.MOD,
        result=pb.Compare.EQUAL,
        key=requirement.key.encode(),
        mod_revision=requirement.mod_revision,
    )


def _operation(write: Write) -> pb.RequestOp:
    key = write.key.encode()
    if isinstance(write, Put):
        put = pb.PutRequest(key=key, value=write.value, lease=write.lease)
        return pb.RequestOp(request_put=put)
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def _changed(operation: pb.ResponseOp) -> bool:
    return operation.HasField("response_put") or operation.response_delete_range.deleted > 0
