# SPDX-License-Identifier: Apache-2.0
"""Claiming port blocks (R7): hosts claim, every reader resolves, the distributor routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from itertools import chain

from anyport.agent.definitions import present_distributor
from anyport.agent.ports import PortPools
from anyport.config import Config
from anyport.decide import blocks as rules
from anyport.errors import Conflict, RegistryError
from anyport.model import Claim, Definition, PortBlock
from anyport.model.definition import Address
from anyport.registry import values
from anyport.registry.base import Delete, Put, Registry, Unchanged
from anyport.registry.keys import ClaimKey
from anyport.registry.mirror import Mirror

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
CAUGHT_UP_SECONDS = 5.0
AVOID_SECONDS = 600.0


class Blocks:
    """Which blocks are leased and to whom, and the claims of this host."""

    def __init__(
        self, config: Config, registry: Registry, mirror: Mirror, pools: PortPools
    ) -> None:
        self._host = config.host.name
        self._policy = rules.BlockPolicy(
            size=config.blocks.size,
            first=config.blocks.first,
            last=config.blocks.last,
            low_water=config.blocks.low_water,
            largest=config.blocks.largest,
        )
        self._registry = registry
        self._mirror = mirror
        self._pools = pools
        self._hosted: dict[Address, Definition] = {}
        self._leased: dict[Address, tuple[PortBlock, ...]] = {}
        self._own: dict[Address, tuple[Claim, ...]] = {}
        self._refusals: dict[Address, frozenset[int]] = {}  # create_revisions
        self._claimed_here: set[PortBlock] = set()
        self._leaving: set[Claim] = set()  # being given back: they may be gone by now
        self._exhausted: set[Address] = set()
        self._full: set[Address] = set()  # no further block fits
        self._rest = config.blocks.rest
        self._departed: dict[Claim, float] = {}  # when it was first seen so, or last not vacant
        self._clock = asyncio.get_running_loop().time
        self._avoided: dict[PortBlock, float] = {}  # refused: others' connections lived there
        self._wake = asyncio.Event()

    def resolve(self, hosted: dict[Address, Definition]) -> None:
        """Owners of the claims in the registry, for the VIPs of this host."""
        self._hosted = hosted
        self._claimed_here = {block for block in self._claimed_here if block.vip in hosted}
        claims = self._mirror.cluster.claims.values()
        owners = rules.owners(claims)
        self._leaving.intersection_update(claims)
        if not self._mirror.settling:  # beaten: for good, whatever becomes of the older ones
            own = (c for c in claims if c.host == self._host and c.block.vip in hosted)
            self._leaving.update(set(own).difference(owners))
        self._leased = {
            vip: tuple(sorted(c.block for c in owners if c.block.vip == vip)) for vip in hosted
        }
        self._own = {
            vip: tuple(c for c in owners if c.block.vip == vip and c.host == self._host)
            for vip in hosted
        }
        distributing = {vip: present_distributor(self._mirror.cluster, vip) for vip in hosted}
        self._refusals = {vip: d.refused for vip, d in distributing.items() if d is not None}

    def leased(self, vip: Address) -> tuple[PortBlock, ...]:
        return self._leased.get(vip, ())

    def own(self, vip: Address) -> tuple[PortBlock, ...]:
        return tuple(sorted(claim.block for claim in self._own.get(vip, ())))

    def kept(self, vip: Address) -> tuple[PortBlock, ...]:
        """Those of `own` that the definition lets this host keep, that the distributor did not
        refuse, and that it has not begun to give back. The kernel hands nothing out of the others
        from the moment that `resolve` was called: once no port of one is in use, none will be, and
        it can be given back."""
        definition = self._hosted[vip]
        if not definition.allows(self._host):
            return ()
        return tuple(
            sorted(
                claim.block
                for claim in self._own.get(vip, ())
                if claim not in self._leaving and self._lasts(definition, claim)
            )
        )

    def _lasts(self, definition: Definition, claim: Claim) -> bool:
        """Neither refused nor enumerated. Refusals that are not named yet are waited for."""
        refused = self._refusals.get(definition.vip, frozenset())
        return claim.create_revision not in refused and not rules.is_enumerated(
            definition, claim.block
        )

    def fresh(self, vip: Address) -> Callable[[int], bool]:
        """Ports that nobody can have used lately: of blocks first claimed by this daemon."""
        claimed = [block for block in self._claimed_here if block.vip == vip]
        return lambda port: any(port in block for block in claimed)

    def exhausted(self, vip: Address) -> None:
        if vip not in self._exhausted:
            log.warning(
                "vip %s: bind(%s, 0) found no free port (blocks %s): EADDRINUSE; claiming more",
                vip,
                vip,
                ", ".join(f"{b.first}-{b.last}" for b in self.own(vip)) or "none yet",
            )
        self._exhausted.add(vip)
        self.wake()

    def can_fit(self, definition: Definition) -> bool:
        """Whether the enumerated ports leave room for a block at all."""
        return self._place(definition, 1, (), ()) is not None

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._mirror.settling:
                    await self._say_again()
                    continue
                for definition in list(self._hosted.values()):
                    await self._surrender(definition)
                    await self._claim(definition)
                await self._give_up_voided()
                await self._depart()
            except RegistryError as error:
                log.debug("blocks: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self.wake()

    async def _say_again(self) -> None:
        """The blocks that this host holds, in a store that does not know of them; before anybody
        claims another: their ports are in use here."""
        for claim in rules.owners(self._mirror.cluster.claims.values()):
            if claim.host == self._host:  # of whatever VIP: sockets may have outlived it here
                key = str(ClaimKey(self._host, claim.block.vip, claim.block.first))
                with contextlib.suppress(Conflict):  # it does by now
                    await self._registry.write(
                        [Put(key, values.encode(claim))], [Unchanged(key, 0)]
                    )

    async def _surrender(self, definition: Definition) -> None:
        """Claims that were beaten or refused, and those that the definition no longer permits.

        While one is given back, what holds may change: the kernel may hand out of the others again.
        """
        vip = definition.vip
        claims = self._mirror.cluster.claims.values()
        refused = self._refusals.get(vip, frozenset())
        in_use = self._pools.in_use(vip)
        for claim in rules.surrenderable(claims, self._host, definition, in_use, refused):
            if self._hosted.get(vip) != definition or claim.block in self.kept(vip):
                return
            if claim.block in self.own(vip) and not self._pools.vacant(claim.block):
                continue  # the kernel handed a port out, and its event is still to be read
            if claim.create_revision in refused:
                self._avoided[claim.block] = self._clock()
            await self._give_back(claim)
        for claim in self._leaving.intersection(self._mirror.cluster.claims.values()):
            await self._give_back(claim)  # the answer was lost

    async def _give_up_voided(self) -> None:
        """This host was away for longer than the quarantine: the ports may be another's by now."""
        for claim in list(self._mirror.cluster.voided.values()):
            if claim.host == self._host:
                await self._give_back(claim)

    async def _depart(self) -> None:
        """Claims on VIPs that are not of this host any more: without sockets, and after a rest."""
        now = self._clock()
        departed = [claim for claim in self._mirror.cluster.claims.values() if self._left(claim)]
        self._departed = {claim: self._departed.get(claim, now) for claim in departed}
        for claim, since in list(self._departed.items()):
            if now - since < self._rest or not self._left(claim):
                continue  # it may have come back while another was given back
            if self._pools.vacant(claim.block):
                await self._give_back(claim)
            else:
                self._departed[claim] = now

    def _left(self, claim: Claim) -> bool:
        """Not merely without a distributor for now: no definition has it here."""
        vip = claim.block.vip
        if claim.host != self._host or vip in self._hosted:
            return False
        wish = self._mirror.cluster.definitions.get(vip)
        return wish is None or not wish.allows(self._host)

    async def _give_back(self, claim: Claim) -> None:
        block = claim.block
        self._leaving.add(claim)
        key = str(ClaimKey(self._host, block.vip, block.first))
        # This one: what was sent before and is carried out late must not take the next one there.
        with contextlib.suppress(Conflict):
            this = Unchanged(key, claim.create_revision)
            revision = await self._registry.write([Delete(key)], [this])
            log.info("vip %s: gave ports %d-%d back", block.vip, block.first, block.last)
            await self._caught_up(revision)

    async def _claim(self, definition: Definition) -> None:
        """Another block if few ports are free; those not yet routed count as free."""
        vip = definition.vip
        if not definition.allows(self._host):
            return
        own = self._own_now(vip)
        owned = sum(claim.block.last - claim.block.first + 1 for claim in own)
        lasting = [claim.block for claim in own if self._lasts(definition, claim)]
        free = self._pools.free(vip) + self._pools.pending(vip, lasting)
        size = rules.wanted_size(free, owned - free, self._policy)
        if size == 0:
            self._exhausted.discard(vip)
            return
        block = self._next(definition, size)
        if block is None:
            if vip not in self._full:
                log.warning("vip %s: no room for another port block; free ports: %d", vip, free)
            self._full.add(vip)
            return
        self._full.discard(vip)
        self._claimed_here.add(block)
        claim = Claim(block, self._host, 0)
        key = str(ClaimKey(self._host, vip, block.first))
        with contextlib.suppress(Conflict):
            revision = await self._registry.write(
                [Put(key, values.encode(claim))], [Unchanged(key, 0)]
            )
            log.info("vip %s: claimed ports %d-%d", vip, block.first, block.last)
            await self._caught_up(revision)
            await self._yield(claim.block)

    async def _yield(self, block: PortBlock) -> None:
        """The block that was claimed just now, to a claim beyond what its host may have: it was
        there before perhaps, and would own the ports when another of that host goes."""
        claim = self._mirror.cluster.claims.get((self._host, block))
        if claim is not None and any(port in block for port in self._excess(block.vip)):
            await self._give_back(claim)

    def _excess(self, vip: Address) -> Iterable[int]:
        return rules.covered(self._mirror.cluster.excess.get(vip, {}))

    def _is_at_limit(self) -> bool:
        cluster = self._mirror.cluster
        said = chain(cluster.claims.values(), cluster.voided.values())
        return sum(claim.host == self._host for claim in said) >= rules.MOST_CLAIMS

    def _refused(self) -> set[int]:
        """Ports of blocks that a distributor refused lately."""
        until = self._clock() - AVOID_SECONDS
        self._avoided = {block: at for block, at in self._avoided.items() if at > until}
        return {port for block in self._avoided for port in range(block.first, block.last + 1)}

    def _own_now(self, vip: Address) -> list[Claim]:
        """As the registry has it, the claim of a moment ago included; `own` is as programmed."""
        owners = rules.owners(self._mirror.cluster.claims.values())
        return [c for c in owners if c.block.vip == vip and c.host == self._host]

    async def _caught_up(self, revision: int) -> None:
        """The next decision is to see what was written. An emptied store never gets there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_SECONDS):
                await self._mirror.caught_up(revision)

    def _next(self, definition: Definition, size: int) -> PortBlock | None:
        if self._is_at_limit():
            return None
        cluster = self._mirror.cluster
        listening = (port for _, port in cluster.listeners.get(definition.vip, {}))
        taken = chain(  # looked at only if any port may be free
            listening, self._refused(), self._excess(definition.vip)
        )
        return self._place(definition, size, cluster.claims.values(), taken)

    def _place(
        self, definition: Definition, size: int, claims: Iterable[Claim], taken: Iterable[int]
    ) -> PortBlock | None:
        return rules.next_block(
            definition,
            claims,
            taken,
            host=self._host,
            size=size,
            first=self._policy.first,
            last=self._policy.last,
        )
