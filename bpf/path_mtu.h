/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The largest packet that the way to a tunnelled target takes. A router on that way
 * tells the sender of what it cannot send on: the outer header's, this host. RFC 1191
 * and RFC 8201 as the kernel keeps them: only ever less, and forgotten in time.
 */
#ifndef ANYPORT_PATH_MTU_H
#define ANYPORT_PATH_MTU_H

#include "icmp.h"
#include "maps.h"
#include "parse.h"

#define ICMP_FRAGMENTATION_NEEDED 4
#define LEAST_MTU_IPV4		  576  /* what every host takes; less helps only an attacker */
#define LEAST_MTU_IPV6		  1280 /* RFC 8200 5 */
#define LEARNT_FOR_NS		  (600ULL * 1000 * 1000 * 1000) /* RFC 1191 6.3 */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_HOSTS *FAMILIES);
	__type(key, __u32); /* slot * FAMILIES + family of the inner packet */
	__type(value, struct learnt_mtu);
} learnt_mtus SEC(".maps");

/* What a router said of an outer packet. */
struct told_mtu {
	struct address source;
	struct address destination;
	__u32 mtu;
	__u32 learnt; /* a hop's way it was */
};

/* 0: not known. What is learnt belongs to an address: a slot may become another host's. */
static __always_inline __u32 mtu_of(const struct hop *hop, const struct learnt_mtu *learnt)
{
	if (!learnt->mtu || !same_address(&learnt->destination, &hop->address) ||
	    bpf_ktime_get_boot_ns() >= learnt->until_ns)
		return hop->mtu;
	return hop->mtu && hop->mtu < learnt->mtu ? hop->mtu : learnt->mtu;
}

static __always_inline __u32 path_mtu(const struct hop *hop, __u32 row)
{
	struct learnt_mtu *learnt = bpf_map_lookup_elem(&learnt_mtus, &row);

	return learnt ? mtu_of(hop, learnt) : hop->mtu;
}

static __always_inline bool is_way_of(const struct hop *hop, const struct told_mtu *told)
{
	return hop->path == PATH_IPIP && same_address(&hop->address, &told->destination) &&
	       same_address(&hop->source, &told->source);
}

/* Written in place: a stack that is added to all others has no room for a copy. */
static __always_inline bool learn_of(const struct hop *hop, __u32 row, const struct told_mtu *told)
{
	struct learnt_mtu *learnt = bpf_map_lookup_elem(&learnt_mtus, &row);
	__u32 known;

	if (!learnt || !is_way_of(hop, told))
		return false;
	known = mtu_of(hop, learnt);
	if (known && told->mtu > known)
		return false;
	learnt->destination = told->destination;
	learnt->until_ns = bpf_ktime_get_boot_ns() + LEARNT_FOR_NS;
	learnt->mtu = told->mtu;
	return true;
}

static long learn_of_host(__u32 slot, struct told_mtu *told)
{
	struct host *host = bpf_map_lookup_elem(&hosts, &slot);

	if (!host)
		return 1;
	told->learnt |= learn_of(&host->hops[IPV4], slot * FAMILIES + IPV4, told);
	told->learnt |= learn_of(&host->hops[IPV6], slot * FAMILIES + IPV6, told);
	return 0;
}

/* False: it is no hop's way, or less is known already. */
static __always_inline bool learn_mtu(struct told_mtu *told)
{
	bpf_loop(MAX_HOSTS, learn_of_host, told, 0);
	return told->learnt;
}

static __always_inline bool is_tunnelled(__u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

/* The outer header, of which a router returns at least this much (RFC 792, RFC 4443 3.2). */
static __always_inline bool open_outer4(const struct frame *frame, const struct chain *chain,
					struct told_mtu *told)
{
	struct iphdr ip;

	if (!load_next(frame, chain, &ip, sizeof(ip)) || !is_tunnelled(ip.protocol))
		return false;
	v4_mapped(&told->source, ip.saddr);
	v4_mapped(&told->destination, ip.daddr);
	if (told->mtu < LEAST_MTU_IPV4)
		told->mtu = LEAST_MTU_IPV4;
	return true;
}

/* Of less than the minimum nothing is believed: RFC 8201 4. */
static __always_inline bool open_outer6(const struct frame *frame, const struct chain *chain,
					struct told_mtu *told)
{
	struct ipv6hdr ip;

	if (!load_next(frame, chain, &ip, sizeof(ip)) || !is_tunnelled(ip.nexthdr))
		return false;
	__builtin_memcpy(&told->source, &ip.saddr, sizeof(told->source));
	__builtin_memcpy(&told->destination, &ip.daddr, sizeof(told->destination));
	return told->mtu >= LEAST_MTU_IPV6;
}

/*
 * An ICMP message that is not for a VIP: whether something was learnt from it. To
 * whom it came must be who sent the outer packet, or anybody's echo would do.
 */
static __noinline bool hear_of_mtu(const struct frame *frame, const struct packet *packet)
{
	struct chain chain = {
		.offset = sizeof(struct ethhdr) + packet->header,
		.end = sizeof(struct ethhdr) + packet->total,
	};
	struct told_mtu told = {};
	struct {
		__u8 type;
		__u8 code;
		__sum16 check;
		__be32 mtu; /* ICMP: its lower half */
	} message;

	if (!ip_sound(frame, packet) || packet->fragment ||
	    !load_next(frame, &chain, &message, sizeof(message)))
		return false;
	chain.offset += ICMP_HEADER;
	told.mtu = bpf_ntohl(message.mtu);
	if (packet->family == IPV6)
		return message.type == ICMPV6_PACKET_TOO_BIG && open_outer6(frame, &chain, &told) &&
		       same_address(&told.source, &packet->flow.vip) && learn_mtu(&told);
	told.mtu &= 0xffff;
	return message.type == ICMP_UNREACHABLE && message.code == ICMP_FRAGMENTATION_NEEDED &&
	       told.mtu && open_outer4(frame, &chain, &told) &&
	       same_address(&told.source, &packet->flow.vip) && learn_mtu(&told);
}

#endif
