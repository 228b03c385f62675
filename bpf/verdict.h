/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is to happen to a packet, and why: from a frame and the maps to `struct
 * decision`. No packet is written here. Read from the end: decide(), upwards.
 */
#ifndef ANYPORT_VERDICT_H
#define ANYPORT_VERDICT_H

#include "arp.h"
#include "connections.h"
#include "decision.h"
#include "extensions.h"
#include "flow_hash.h"
#include "fragments.h"
#include "icmp.h"
#include "maps.h"
#include "ndp.h"
#include "parse.h"
#include "path_mtu.h"
#include "peers.h"
#include "selection.h"
#include "vips.h"

/*
 * Whether a packet of its family can go by this hop: there is no ARP for an IPv6
 * packet, and an outer header has two addresses of one family.
 */
static __always_inline bool leads_on(const struct hop *hop, const struct packet *packet)
{
	bool v4 = is_v4_mapped(&hop->address);

	if (hop->path == PATH_L2)
		return !v4 || packet->family == IPV4;
	return v4 ? is_v4_mapped(&hop->source)
		  : !is_v4_mapped(&hop->source) && !is_unspecified(&hop->source);
}

static __always_inline struct decision send_to(enum verdict verdict, __u32 slot,
					       const struct packet *packet)
{
	struct host *host = bpf_map_lookup_elem(&hosts, &slot);
	struct hop *hop;

	if (!host)
		return decided(VERDICT_DROP_TABLE, DROP);
	hop = packet->family == IPV6 ? &host->hops[IPV6] : &host->hops[IPV4];
	if (hop->path == PATH_LOCAL)
		return decided(verdict, PASS);
	if (hop->path == PATH_NONE)
		return decided(VERDICT_DROP_NO_PATH, DROP);
	if (hop->path != PATH_L2 && hop->path != PATH_IPIP)
		return decided(VERDICT_DROP_TABLE, DROP);
	if (!leads_on(hop, packet))
		return decided(VERDICT_DROP_NO_PATH, DROP);
	if (packet->ttl <= 1)
		return decided(VERDICT_DROP_TTL, DROP);
	return (struct decision){
		.verdict = verdict,
		.action = hop->path == PATH_IPIP ? ENCAPSULATE : FORWARD,
		.hop = hop,
	};
}

/* It may change meanwhile: kind and target, one word, must be of one route. */
static __always_inline void load_route(struct route *route, const struct route *stored)
{
	const volatile __u64 *from = (const volatile __u64 *)stored;
	__u64 *to = (__u64 *)route;

	to[0] = from[0];
	to[1] = from[1];
}

/* What choose() returns: why, and which host slot, NO_SLOT if none. Never 0: that is NOT_OURS. */
static __always_inline __u64 chosen(enum verdict verdict, __u32 slot)
{
	return (__u64)slot << 32 | verdict;
}

/*
 * To the owner, and remembered: should the port stop being unique while the
 * connection lives, it stays there (R6). With each packet, although only the route
 * decides: a connection of which nothing was heard but its SYN would make way for
 * any flood of them.
 */
static __always_inline __u64 choose_owner(const struct packet *packet, const struct route *route,
					  struct home *home)
{
	__u32 slot = follow_connection(home, packet, route);

	if (slot != route->target && (packet->opens || slot != NO_SLOT))
		remember_connection(home, &packet->flow, route->target);
	return chosen(VERDICT_UNIQUE, route->target);
}

static __always_inline __u64 choose_anew(const struct packet *packet, const struct route *route,
					 const struct home *home, __u64 hash)
{
	enum verdict verdict = route->kind == ROUTE_FALLBACK ? VERDICT_FALLBACK : VERDICT_SELECTED;
	__u32 slot = select_slot(route, hash);

	if (slot >= MAX_HOSTS)
		return chosen(verdict, NO_SLOT);
	slot = remember_connection(home, &packet->flow, slot);
	if (slot == NO_SLOT) /* where what follows will go as well */
		return chosen(VERDICT_TABLE_FULL, hashed_slot(route, hash));
	return chosen(verdict, slot);
}

/*
 * Where the packet inside came from, as far as is known. Anybody can send one: no
 * sign of life. A datagram's next goes where the hash says, whoever is absent.
 */
static __always_inline __u64 choose_for_error(const struct packet *packet,
					      const struct route *route, const struct home *home)
{
	__u32 slot = connection_slot(home, &packet->flow);

	if (route->kind == ROUTE_UNIQUE)
		slot = route->target;
	else if (slot == NO_SLOT && packet->absent && packet->flow.protocol == TCP)
		slot = packet->absent - 1;
	else if (slot == NO_SLOT && route->kind == ROUTE_NONE)
		return chosen(VERDICT_NO_ROUTE, NO_SLOT);
	else if (slot == NO_SLOT)
		slot = hashed_slot(route, hash_of(&packet->flow));
	return chosen(VERDICT_ICMP_ERROR, slot);
}

/* Hosts are being asked which connections they have. */
static __always_inline bool gathers(const struct packet *packet)
{
	__s32 left = packet->gathering_until - ticks();

	return packet->gathering_until && left > 0;
}

/*
 * Of a connection that some host may have, and has not said yet: a wrong target
 * would reset it, and so would the local stack, for a port that has no listener any
 * more. Its sender repeats it. An RST nobody repeats or answers: it takes its chance.
 */
static __always_inline bool waits(const struct packet *packet)
{
	return gathers(packet) && !packet->opens && !packet->resets;
}

/*
 * The route comes first: a port that is unique by now goes to its owner,
 * whatever an older connection entry says (IBM PM76397: the more specific
 * entry won, and the flow went nowhere). A connection that is none of those that
 * hosts have said are theirs is the absent host's, or nobody's: also where no
 * host that is there listens.
 *
 * Not static: so the verifier looks at it once, not once for each way a packet
 * was read, which are too many to finish.
 */
__noinline __u64 choose(const struct packet *packet, __u32 vip_index)
{
	struct port_table *table = bpf_map_lookup_elem(&routes, &vip_index);
	struct route route, *found;
	struct home home;
	__u32 row, slot;
	__u64 hash;

	if (!packet || !table)
		return chosen(VERDICT_DROP_TABLE, NO_SLOT);
	row = packet->flow.protocol * PORTS + packet->flow.port;
	found = bpf_map_lookup_elem(table, &row);
	if (!found)
		return chosen(VERDICT_DROP_TABLE, NO_SLOT);
	load_route(&route, found);
	home = home_of(vip_index, &packet->flow);
	if (packet->error)
		return choose_for_error(packet, &route, &home);
	if (route.kind == ROUTE_UNIQUE)
		return choose_owner(packet, &route, &home);
	slot = follow_connection(&home, packet, &route);
	if (slot != NO_SLOT)
		return chosen(VERDICT_ESTABLISHED, slot);
	if (waits(packet))
		return chosen(VERDICT_DROP_GATHERING, NO_SLOT);
	if (packet->absent && !packet->opens)
		return chosen(VERDICT_ABSENT, packet->absent - 1);
	if (route.kind == ROUTE_NONE)
		return chosen(VERDICT_NO_ROUTE, NO_SLOT);
	hash = hash_of(&packet->flow);
	if (!packet->opens)
		return chosen(VERDICT_HASHED, hashed_slot(&route, hash));
	return choose_anew(packet, &route, &home, hash);
}

static __always_inline struct decision decide_transport(const struct vip *vip,
							struct packet *packet)
{
	__u64 choice = packet->choice ? packet->choice : choose(packet, vip->index);
	__u32 verdict = choice, slot = choice >> 32;

	packet->choice = choice;
	if (verdict == VERDICT_NO_ROUTE)
		return decided(verdict, PASS);
	if (verdict == VERDICT_DROP_GATHERING)
		return decided(verdict, DROP);
	return for_target(slot, send_to(verdict, slot, packet));
}

static __always_inline void take_settings(struct packet *packet, const struct vip *vip)
{
	packet->udp_idle_ns = vip->udp_idle_ns;
	packet->gathering_until = vip->gathering_until;
	/* Until they have said so, what is not known may be anybody's. */
	packet->absent = vip->absent && gathers(packet) ? 0 : vip->absent;
}

/* Over the extension headers, to what follows. False: `decision` is made. */
static __always_inline bool walk_packet(const struct frame *frame, struct packet *packet,
					struct decision *decision)
{
	struct chain chain = {
		.offset = sizeof(struct ethhdr) + packet->header,
		.end = sizeof(struct ethhdr) + packet->total,
		.next = packet->ip_protocol,
	};
	enum walked walked = walk(frame, &chain);

	packet->header = chain.offset - sizeof(struct ethhdr);
	packet->ip_protocol = chain.next;
	packet->fragment = chain.fragment;
	packet->later = chain.fragment & bpf_htons(IPV6_OFFSET);
	packet->fragment_id = chain.id;
	if (walked == WALK_MALFORMED)
		*decision = decided(VERDICT_DROP_MALFORMED, DROP);
	else if (walked == WALK_TOO_LONG)
		*decision = decided(VERDICT_DROP_HEADERS, DROP);
	return walked == WALKED;
}

static __always_inline struct decision decide_icmp(const struct frame *frame, const struct vip *vip,
						   struct packet *packet)
{
	switch (parse_icmp(frame, packet)) {
	case ABOUT_CONNECTION:
		return decide_transport(vip, packet);
	case ABOUT_NOTHING:
		return decided(VERDICT_DROP_ICMP, DROP);
	default:
		return decided(VERDICT_OTHER_PROTOCOL, PASS);
	}
}

static __always_inline struct decision
decide_later(const struct frame *frame, const struct packet *packet, struct fragment_place *place)
{
	__u32 slot = place ? *(volatile __u32 *)&place->slot : PLACE_UNKNOWN;

	if (!place)
		return decided(VERDICT_DROP_FRAGMENT, DROP);
	if (slot == PLACE_UNKNOWN)
		return hold(frame, packet, place);
	if (slot == PLACE_LOCAL)
		return decided(VERDICT_FRAGMENT, PASS);
	return for_target(slot, send_to(VERDICT_FRAGMENT, slot, packet));
}

/* A whole packet, or the first fragment of one. */
static __always_inline struct decision decide_payload(struct frame *frame, const struct vip *vip,
						      struct packet *packet)
{
	if (is_icmp(packet))
		return decide_icmp(frame, vip, packet);
	if (packet->ip_protocol != IPPROTO_TCP && packet->ip_protocol != IPPROTO_UDP)
		return decided(VERDICT_OTHER_PROTOCOL, PASS);
	if (!parse_transport(frame, packet))
		return decided(VERDICT_DROP_MALFORMED, DROP);
	return decide_transport(vip, packet);
}

/* After the VIP is known: what to do with the rest of the IP packet. */
static __always_inline struct decision decide_ours(struct frame *frame, const struct vip *vip,
						   struct packet *packet)
{
	struct fragment_place *place;
	struct decision decision;

	if (!ip_sound(frame, packet))
		return decided(VERDICT_DROP_MALFORMED, DROP);
	if (packet->family == IPV6 && is_extension(packet->ip_protocol) &&
	    !walk_packet(frame, packet, &decision))
		return decision;
	if (!packet->fragment)
		return decide_payload(frame, vip, packet);
	place = place_of(packet);
	if (packet->later)
		return decide_later(frame, packet, place);
	decision = decide_payload(frame, vip, packet);
	return place_first(place, decision);
}

/* The local stack's in any case. */
static __always_inline struct decision decide_other(const struct frame *frame,
						    const struct packet *packet)
{
	if (is_icmp(packet) && hear_of_mtu(frame, packet))
		return decided(VERDICT_MTU_LEARNT, PASS);
	return decided(VERDICT_NOT_OURS, PASS);
}

/* For this VIP, and to its MAC. */
static __always_inline struct decision decide_vip(struct frame *frame, const struct vip *vip,
						  const __u8 *source, struct packet *packet)
{
	if (is_peer(source, vip))
		return decided(VERDICT_DISTRIBUTED, PASS);
	if (is_fenced(vip))
		return decide_fenced(vip, source);
	take_settings(packet, vip);
	return decide_ours(frame, vip, packet);
}

static __always_inline struct decision decide_ip(struct frame *frame, struct packet *packet)
{
	struct vip *vip = find_vip(&packet->flow.vip);
	struct ethhdr *ethernet = frame->data;

	if (!vip)
		return decide_other(frame, packet);
	if ((void *)(ethernet + 1) > frame->end)
		return decided(VERDICT_NOT_OURS, PASS);
	/* To another MAC: another host's; or our own, sent on to a target and seen again. */
	if (!same_mac(ethernet->h_dest, vip->mac))
		return decided(VERDICT_NOT_OURS, PASS);
	return for_vip(vip, decide_vip(frame, vip, ethernet->h_source, packet));
}

/* `frame`: its FIRST_BYTES are within reach. Fills in `packet`. */
static __always_inline struct decision decide(struct frame *frame, struct packet *packet)
{
	__u16 type = ether_type(frame);
	struct arp_frame *arp = type == ETH_P_ARP ? parse_arp(frame) : NULL;

	if (arp)
		return decide_arp(arp);
	if (type == ETH_P_IP && parse_ipv4(frame, packet))
		return decide_ip(frame, packet);
	if (type != ETH_P_IPV6 || !parse_ipv6(frame, packet))
		return decided(VERDICT_NOT_OURS, PASS);
	return is_ndp(frame, packet) ? decide_ndp(frame, packet) : decide_ip(frame, packet);
}

static __always_inline bool is_plain(const struct frame *frame, const struct packet *packet)
{
	return !packet->fragment && ip_sound(frame, packet) &&
	       (packet->ip_protocol == IPPROTO_TCP || packet->ip_protocol == IPPROTO_UDP);
}

/*
 * The same in XDP, for what nearly all packets are: TCP or UDP in one piece. All
 * else, and whatever must not be decided twice, is left to TC.
 */
static __always_inline struct decision decide_plain(struct frame *frame, struct packet *packet)
{
	const struct decision left = decided(VERDICT_NOT_OURS, LEAVE);
	struct ethhdr *ethernet = frame->data;
	__u16 type = ether_type(frame);
	struct vip *vip;

	if (type == ETH_P_IP ? !parse_ipv4(frame, packet)
			     : type != ETH_P_IPV6 || !parse_ipv6(frame, packet))
		return left;
	vip = find_vip(&packet->flow.vip);
	if (!vip || (void *)(ethernet + 1) > frame->end || !same_mac(ethernet->h_dest, vip->mac))
		return left;
	if (is_peer(ethernet->h_source, vip) || is_fenced(vip) || !is_plain(frame, packet) ||
	    !parse_plain(frame, packet))
		return left;
	take_settings(packet, vip);
	return for_vip(vip, decide_transport(vip, packet));
}

#endif
