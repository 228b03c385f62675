/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which target a new connection gets: selection tables, and the fallback without one. */
#ifndef ANYPORT_SELECTION_H
#define ANYPORT_SELECTION_H

#include "flow_hash.h"
#include "maps.h"

/*
 * -log2(draw / 2^32) in 2^-24ths; of a chord through each power of two, bent
 * towards the curve.
 *
 * Not static, as by_weight below: so the verifier looks at it once, not once for
 * each way to it, which are too many to finish.
 */
__noinline __u64 minus_log2(__u32 draw)
{
	__u64 x = draw | 1, zeros = 0, part;

	for (__u32 step = 16; step; step /= 2) {
		if (!(x >> (32 - step))) {
			x <<= step;
			zeros += step;
		}
	}
	part = (x & 0x7fffffff) >> 7; /* x is 1.something, this is the something */
	part += (part * ((1 << 24) - part) >> 24) * 88 >> 8;
	return ((zeros + 1) << 24) - part;
}

/*
 * Weighted highest random weight: of the hosts of the mask the one with the
 * least -log(draw) / weight, which gives each its share and moves no flow but
 * those of a host that comes or goes (rendezvous hashing, Thaler and Ravishankar).
 */
__noinline __u32 by_weight(__u64 mask, __u64 hash)
{
	__u64 least = ~0ULL;
	__u32 chosen = NO_SLOT;

	for (__u32 slot = 0; slot < MAX_HOSTS; slot++) {
		__u32 key = slot;
		struct host *host = mask >> slot & 1 ? bpf_map_lookup_elem(&hosts, &key) : NULL;

		if (!host)
			continue;
		__u64 cost = minus_log2(mixed(hash + slot)) << 16;

		/* BPF: x / 0 is 0; a host of weight 0 gets only what nobody else takes. */
		cost = host->weight ? cost / host->weight : ~0ULL - 1;
		if (cost < least) {
			least = cost;
			chosen = slot;
		}
	}
	return chosen;
}

static __always_inline __u32 in_table(const struct selection *table, __u64 position)
{
	__u32 size = table->size;

	if (!size || size > SELECTION_SLOTS)
		return NO_SLOT;
	position %= size;
	return position < SELECTION_SLOTS ? table->slots[position] : NO_SLOT;
}

static __always_inline struct selection *table_of(const struct route *route)
{
	__u32 index = route->target;

	return bpf_map_lookup_elem(&selections, &index);
}

/* A new connection's target, NO_SLOT if the tables are at odds. */
static __always_inline __u32 select_slot(const struct route *route, __u64 hash)
{
	struct selection *table;

	if (route->kind == ROUTE_FALLBACK)
		return by_weight(route->hosts, hash);
	table = table_of(route);
	if (!table)
		return NO_SLOT;
	if (table->method == METHOD_ROUND_ROBIN)
		return in_table(table, __sync_fetch_and_add(&table->next, 1));
	return in_table(table, hash);
}

/*
 * For a packet of a connection that nothing is remembered of (the table was
 * full, the distributor is new): where the hash put it, if the hash did. Never
 * takes a turn of the round robin: a stray ACK would shift everybody's.
 */
static __always_inline __u32 hashed_slot(const struct route *route, __u64 hash)
{
	struct selection *table = route->kind == ROUTE_DISTRIBUTED ? table_of(route) : NULL;

	if (table && table->method == METHOD_HASH)
		return in_table(table, hash);
	return by_weight(route->hosts, hash);
}

#endif
