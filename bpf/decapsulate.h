/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An outer packet and what is inside: RFC 2003, RFC 2473, and RFC 6040 for the
 * congestion that was marked on the way. The outer header's checksum is not verified:
 * nothing but its addresses is believed, and the inner packet has its own.
 */
#ifndef ANYPORT_DECAPSULATE_H
#define ANYPORT_DECAPSULATE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "addresses.h"
#include "tunnel.h"

#define IPV4_MORE   0x2000
#define IPV4_OFFSET 0x1fff
#define ECN	    3
#define NOT_ECT	    0
#define ECT_1	    1
#define ECT_0	    2
#define CE	    3

struct tunnelled {
	struct address source;
	struct address destination;
	struct address vip; /* the inner destination */
	__u32 outer_family;
	__u32 inner_family;
	__u32 header;	    /* bytes of the outer header */
	__u32 total;	    /* of the outer packet, as it says; 0: BIG TCP */
	__u32 inner_header; /* as the inner packet says */
	__u32 inner_total;
	__be16 inner_first; /* its first 16 bits: version and traffic class */
	__u8 outer_ecn;
	__u8 version; /* of the inner packet, as it says */
	bool fragment;
	bool later; /* and not the first: nothing of the inner header is here */
};

/* Of either family's outer header, without copying it. */
static __always_inline bool is_tunnel(struct __sk_buff *skb, __u32 offset)
{
	__u8 *at = (void *)(long)skb->data + sizeof(struct ethhdr) + offset;
	__u8 protocol;

	if ((void *)(at + 1) <= (void *)(long)skb->data_end)
		protocol = *at;
	else if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + offset, &protocol, 1))
		return false;
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

static __always_inline bool load_outer4(struct __sk_buff *skb, struct tunnelled *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip)))
		return false;
	v4_mapped(&packet->source, ip.saddr);
	v4_mapped(&packet->destination, ip.daddr);
	packet->inner_family = ip.protocol == IPPROTO_IPIP ? IPV4 : IPV6;
	packet->header = ip.ihl * 4;
	packet->total = bpf_ntohs(ip.tot_len);
	packet->outer_ecn = ip.tos & ECN;
	packet->fragment = ip.frag_off & bpf_htons(IPV4_MORE | IPV4_OFFSET);
	packet->later = ip.frag_off & bpf_htons(IPV4_OFFSET);
	return ip.version == 4 && ip.ihl >= 5;
}

static __always_inline bool load_outer6(struct __sk_buff *skb, struct tunnelled *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip)))
		return false;
	__builtin_memcpy(&packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip.daddr, sizeof(packet->destination));
	packet->inner_family = ip.nexthdr == IPPROTO_IPIP ? IPV4 : IPV6;
	packet->header = sizeof(ip);
	packet->total = ip.payload_len ? sizeof(ip) + bpf_ntohs(ip.payload_len) : 0;
	packet->outer_ecn = bpf_ntohs(*(__be16 *)&ip) >> 4 & ECN;
	return ip.version == 6 && !is_v4_mapped(&packet->destination);
}

/* A v4-mapped source would pass for an IPv4 distributor's, past filters for IPv4. */
static __always_inline bool is_from_distributor(const struct tunnelled *packet)
{
	if (packet->outer_family == IPV6 && is_v4_mapped(&packet->source))
		return false;
	return has_role(&packet->source, ROLE_DISTRIBUTOR);
}

static __always_inline bool load_outer(struct __sk_buff *skb, struct tunnelled *packet)
{
	return packet->outer_family == IPV6 ? load_outer6(skb, packet) : load_outer4(skb, packet);
}

static __always_inline bool load_inner4(struct __sk_buff *skb, struct tunnelled *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + packet->header, &ip, sizeof(ip)))
		return false;
	v4_mapped(&packet->vip, ip.daddr);
	packet->version = ip.version;
	packet->inner_header = ip.ihl * 4;
	packet->inner_total = bpf_ntohs(ip.tot_len);
	packet->inner_first = *(__be16 *)&ip;
	return true;
}

/* A v4-mapped address never travels: it would pass for an IPv4 VIP. */
static __always_inline bool load_inner6(struct __sk_buff *skb, struct tunnelled *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + packet->header, &ip, sizeof(ip)))
		return false;
	__builtin_memcpy(&packet->vip, &ip.daddr, sizeof(packet->vip));
	packet->version = ip.version;
	packet->inner_header = sizeof(ip);
	packet->inner_total = ip.payload_len ? sizeof(ip) + bpf_ntohs(ip.payload_len) : 0;
	packet->inner_first = *(__be16 *)&ip;
	return !is_v4_mapped(&packet->vip);
}

/* False: it is cut off. */
static __always_inline bool load_inner(struct __sk_buff *skb, struct tunnelled *packet)
{
	return packet->inner_family == IPV6 ? load_inner6(skb, packet) : load_inner4(skb, packet);
}

static __always_inline __u32 fixed_header(__u32 family)
{
	return family == IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

/* Whether the lengths can be. A GSO packet of 64 KiB or more states none (BIG TCP). */
static __always_inline bool is_sound(struct __sk_buff *skb, const struct tunnelled *packet)
{
	__u32 frame = skb->len - sizeof(struct ethhdr);
	__u32 total = packet->total ?: (skb->gso_size ? frame : 0);
	__u32 inner = packet->inner_total ?: (skb->gso_size ? frame - packet->header : 0);

	if (packet->version != (packet->inner_family == IPV6 ? 6 : 4))
		return false;
	return packet->inner_header >= fixed_header(packet->inner_family) &&
	       packet->inner_header <= inner && packet->header + inner <= total && total <= frame;
}

static __always_inline __u8 inner_ecn(const struct tunnelled *packet)
{
	__u16 first = bpf_ntohs(packet->inner_first);

	return (packet->inner_family == IPV6 ? first >> 4 : first) & ECN;
}

/* Marked on the way, but its sender does not know about marks: RFC 6040 4.2, figure 4. */
static __always_inline bool loses_congestion(const struct tunnelled *packet)
{
	return packet->outer_ecn == CE && inner_ecn(packet) == NOT_ECT;
}

/*
 * Takes the outer header off. In another family, change_proto first makes a header of
 * the inner family's length of it, and of the packet one of the inner family: what a
 * flag of adjust_room does from 6.3 on.
 */
static __always_inline bool take_off(struct __sk_buff *skb, const struct tunnelled *packet)
{
	__be16 type = bpf_htons(packet->inner_family == IPV6 ? ETH_P_IPV6 : ETH_P_IP);
	__s32 length = packet->header - fixed_header(packet->outer_family) +
		       fixed_header(packet->inner_family);

	if (packet->outer_family != packet->inner_family &&
	    (bpf_skb_change_proto(skb, type, 0) ||
	     bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0)))
		return false;
	return !bpf_skb_adjust_room(skb, -length, BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

/* What the outer header tells besides: CE, or ECT(1) of an ECT(0). RFC 6040 4.2, figure 4. */
static __always_inline bool mark_congestion(struct __sk_buff *skb, const struct tunnelled *packet)
{
	__u8 ecn = inner_ecn(packet), shift = packet->inner_family == IPV6 ? 4 : 0;
	__be16 marked;

	if (packet->outer_ecn != CE && !(packet->outer_ecn == ECT_1 && ecn == ECT_0))
		return true;
	marked = (packet->inner_first & ~bpf_htons(ECN << shift)) |
		 bpf_htons(packet->outer_ecn << shift);
	if (packet->inner_family == IPV4 &&
	    bpf_l3_csum_replace(skb, sizeof(struct ethhdr) + offsetof(struct iphdr, check),
				packet->inner_first, marked, sizeof(marked)))
		return false;
	return !bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &marked, sizeof(marked),
				    packet->inner_family == IPV6 ? BPF_F_RECOMPUTE_CSUM : 0);
}

#endif
