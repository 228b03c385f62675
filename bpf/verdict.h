/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is to happen to a packet, and why: from `struct packet` and the maps to
 * `struct decision`. No packet is read or written here; no hook is known.
 */
#ifndef ANYPORT_VERDICT_H
#define ANYPORT_VERDICT_H

#include "connections.h"
#include "flow_hash.h"
#include "maps.h"
#include "parse.h"

enum action {
	PASS, /* to the next program and the local stack */
	DROP,
	ANSWER,	 /* ARP: back out of the interface it came by */
	FORWARD, /* by `hop` */
};

struct decision {
	__u32 verdict; /* enum verdict */
	__u32 action;  /* enum action */
	const struct hop *hop;
};

static __always_inline struct decision decided(enum verdict verdict, enum action action)
{
	return (struct decision){.verdict = verdict, .action = action};
}

static __always_inline bool is_fenced(const struct vip *vip)
{
	struct fence *fence = bpf_map_lookup_elem(&fenced, &vip->index);

	return fence && fence->raised;
}

/*
 * While fenced. What the new distributor forwards to this host as a target
 * goes up. What clients still send here does not: the local stack would reset
 * connections that live on other targets; they send again, to the right host.
 */
static __always_inline struct decision decide_fenced(const struct vip *vip, const __u8 *source)
{
	struct fence *fence = bpf_map_lookup_elem(&fenced, &vip->index);

	if (fence && same_mac(fence->mac, source))
		return decided(VERDICT_FENCED, PASS);
	return decided(VERDICT_DROP_FENCED, DROP);
}

static __always_inline struct vip *vip_of(__be32 v4)
{
	struct address address;

	v4_mapped(&address, v4);
	return bpf_map_lookup_elem(&vips, &address);
}

/*
 * Two hosts that announce one VIP each take half of every connection. Which of
 * the two is right only the registry knows, so the one that sees the other
 * yields at once, without its daemon; the daemon unfences if it is still elected.
 */
static __always_inline struct decision fence(const struct vip *vip, const __u8 *announcer)
{
	struct fence raised = {.raised = 1};

	__builtin_memcpy(raised.mac, announcer, ETH_ALEN);
	bpf_map_update_elem(&fenced, &vip->index, &raised, BPF_ANY);
	return decided(VERDICT_FENCED, PASS);
}

static __always_inline struct decision decide_arp(const struct arp_frame *arp)
{
	static const __u8 broadcast[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct vip *announced = vip_of(arp->sender), *asked = vip_of(arp->target);

	if (announced && !same_mac(arp->sender_mac, announced->mac))
		return fence(announced, arp->sender_mac);
	if (announced)
		return decided(VERDICT_ARP_IGNORED, PASS); /* our own gratuitous ARP */
	if (!asked || arp->operation != bpf_htons(ARPOP_REQUEST))
		return decided(VERDICT_NOT_OURS, PASS);
	if (!same_mac(arp->ethernet.h_dest, asked->mac) &&
	    !same_mac(arp->ethernet.h_dest, broadcast))
		return decided(VERDICT_NOT_OURS, PASS);
	/* Dropped: passed up, a kernel without arp_ignore would answer in our place. */
	if (is_fenced(asked))
		return decided(VERDICT_ARP_IGNORED, DROP);
	return decided(VERDICT_ARP_REPLIED, ANSWER);
}

static __always_inline struct decision send_to(enum verdict verdict, __u32 slot,
					       const struct packet *packet)
{
	struct host *host = bpf_map_lookup_elem(&hosts, &slot);
	struct hop *hop = host ? &host->hops[IPV4] : NULL;

	if (!hop)
		return decided(VERDICT_DROP_TABLE, DROP);
	if (hop->path == PATH_LOCAL)
		return decided(verdict, PASS);
	if (hop->path == PATH_NONE)
		return decided(VERDICT_DROP_NO_PATH, DROP);
	if (hop->path != PATH_L2)
		return decided(VERDICT_DROP_TABLE, DROP);
	if (packet->ttl <= 1)
		return decided(VERDICT_DROP_TTL, DROP);
	return (struct decision){.verdict = verdict, .action = FORWARD, .hop = hop};
}

/* The finalizer of MurmurHash3: each host of the fallback draws its own number. */
static __always_inline __u64 mixed(__u64 x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
	return x ^ x >> 33;
}

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

static __always_inline struct decision decide_new(const struct packet *packet,
						  const struct route *route, __u64 hash)
{
	enum verdict verdict = route->kind == ROUTE_FALLBACK ? VERDICT_FALLBACK : VERDICT_SELECTED;
	__u32 slot = select_slot(route, hash);

	if (slot >= MAX_HOSTS)
		return decided(VERDICT_DROP_TABLE, DROP);
	slot = remember_connection(&packet->flow, slot, hash);
	return send_to(verdict, slot, packet);
}

/* It may change meanwhile: kind and target, one word, must be of one route. */
static __always_inline void load_route(struct route *route, const struct route *stored)
{
	const volatile __u64 *from = (const volatile __u64 *)stored;
	__u64 *to = (__u64 *)route;

	to[0] = from[0];
	to[1] = from[1];
}

/*
 * To the owner, and remembered: should the port stop being unique while the
 * connection lives, it stays there (R6).
 */
static __always_inline struct decision decide_unique(const struct packet *packet,
						     const struct route *route, __u64 hash)
{
	__u32 slot = follow_connection(packet, route, hash);

	if (slot != route->target && (packet->opens || slot != NO_SLOT))
		remember_connection(&packet->flow, route->target, hash);
	return send_to(VERDICT_UNIQUE, route->target, packet);
}

/*
 * The route comes first: a port that is unique by now goes to its owner,
 * whatever an older connection entry says (IBM PM76397: the more specific
 * entry won, and the flow went nowhere).
 */
static __always_inline struct decision decide_transport(const struct vip *vip,
							const struct packet *packet)
{
	__u32 row = packet->flow.protocol * PORTS + packet->flow.port;
	void *table = bpf_map_lookup_elem(&routes, &vip->index);
	struct route *found = table ? bpf_map_lookup_elem(table, &row) : NULL;
	struct route route;
	__u64 hash;
	__u32 slot;

	if (!found)
		return decided(VERDICT_DROP_TABLE, DROP);
	load_route(&route, found);
	hash = hash_of(&packet->flow);
	if (route.kind == ROUTE_UNIQUE)
		return decide_unique(packet, &route, hash);
	slot = follow_connection(packet, &route, hash);
	if (slot != NO_SLOT)
		return send_to(VERDICT_ESTABLISHED, slot, packet);
	if (route.kind == ROUTE_NONE)
		return decided(VERDICT_NO_ROUTE, PASS);
	if (!packet->opens)
		return send_to(VERDICT_HASHED, hashed_slot(&route, hash), packet);
	return decide_new(packet, &route, hash);
}

#endif
