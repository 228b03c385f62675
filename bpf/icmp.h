/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP and ICMPv6 errors about a connection, RFC 792 and RFC 4443. Inside is the
 * packet that could not go on, from the VIP: a target sent it. Its flow turned
 * round is the connection's, and that target alone can do something about it
 * (path MTU discovery above all). Every other message is the local stack's:
 * echo requests, which it answers, and what it ignores.
 */
#ifndef ANYPORT_ICMP_H
#define ANYPORT_ICMP_H

#include "extensions.h"
#include "parse.h"

#define ICMP_UNREACHABLE	 3 /* "fragmentation needed" among them */
#define ICMP_TIME_EXCEEDED	 11
#define ICMP_PARAMETER_PROBLEM	 12
#define ICMPV6_UNREACHABLE	 1
#define ICMPV6_PACKET_TOO_BIG	 2
#define ICMPV6_TIME_EXCEEDED	 3
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMP_HEADER		 8 /* bytes before the packet inside */

enum about {
	ABOUT_OTHERS,	  /* no error, or about a packet that is neither TCP nor UDP */
	ABOUT_CONNECTION, /* the flow is filled in */
	ABOUT_NOTHING,	  /* cut off, or not from the VIP: nobody can tell whose */
};

static __always_inline bool is_error(__u8 family, __u8 type)
{
	if (family == IPV6)
		return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER_PROBLEM;
}

/* The IPv4 header inside; `chain` then stands behind it. */
static __always_inline bool open_ipv4(const struct frame *frame, struct packet *packet,
				      struct chain *chain)
{
	struct address sender;
	struct iphdr ip;

	if (!load_next(frame, chain, &ip, sizeof(ip)))
		return false;
	v4_mapped(&sender, ip.saddr);
	v4_mapped(&packet->flow.client, ip.daddr);
	chain->next = ip.protocol;
	chain->offset += ip.ihl * 4;
	return ip.version == 4 && ip.ihl >= 5 && same_address(&sender, &packet->flow.vip) &&
	       !(ip.frag_off & bpf_htons(IPV4_OFFSET));
}

static __always_inline bool open_ipv6(const struct frame *frame, struct packet *packet,
				      struct chain *chain)
{
	struct address sender;
	struct ipv6hdr ip;

	if (!load_next(frame, chain, &ip, sizeof(ip)))
		return false;
	__builtin_memcpy(&sender, &ip.saddr, sizeof(sender));
	__builtin_memcpy(&packet->flow.client, &ip.daddr, sizeof(packet->flow.client));
	chain->next = ip.nexthdr;
	chain->offset += sizeof(ip);
	return ip.version == 6 && same_address(&sender, &packet->flow.vip) &&
	       walk(frame, chain) == WALKED && !(chain->fragment & bpf_htons(IPV6_OFFSET));
}

/* The ports are the first 4 bytes of either transport; more need not be there (RFC 792). */
static __always_inline enum about turn_round(const struct frame *frame, struct packet *packet,
					     const struct chain *chain)
{
	__be16 ports[2]; /* the VIP's, the client's */

	if (chain->next != IPPROTO_TCP && chain->next != IPPROTO_UDP)
		return ABOUT_OTHERS;
	if (!load_next(frame, chain, ports, sizeof(ports)))
		return ABOUT_NOTHING;
	packet->flow.protocol = chain->next == IPPROTO_TCP ? TCP : UDP;
	packet->flow.port = bpf_ntohs(ports[0]);
	packet->flow.client_port = bpf_ntohs(ports[1]);
	packet->error = true;
	return ABOUT_CONNECTION;
}

static __always_inline enum about parse_icmp(const struct frame *frame, struct packet *packet)
{
	struct chain chain = {
		.offset = sizeof(struct ethhdr) + packet->header,
		.end = sizeof(struct ethhdr) + packet->total,
	};
	__u8 type;

	if (!load_next(frame, &chain, &type, sizeof(type)))
		return ABOUT_NOTHING;
	if (!is_error(packet->family, type))
		return ABOUT_OTHERS;
	chain.offset += ICMP_HEADER;
	if (packet->family == IPV6 && !open_ipv6(frame, packet, &chain))
		return ABOUT_NOTHING;
	if (packet->family == IPV4 && !open_ipv4(frame, packet, &chain))
		return ABOUT_NOTHING;
	return turn_round(frame, packet, &chain);
}

static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->ip_protocol == (packet->family == IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

#endif
