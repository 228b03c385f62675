/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The outer header of a packet to a target that is not on this LAN (docs/adr/0014):
 * RFC 2003 and RFC 2473, by TC's helpers. What is inside stays as it came, but for
 * its TTL, which the caller counts.
 */
#ifndef ANYPORT_ENCAPSULATE_H
#define ANYPORT_ENCAPSULATE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "parse.h"

#define OUTER_TTL     64
#define DONT_FRAGMENT 0x4000

/* Bytes of the outer header. */
static __always_inline __u32 overhead_of(const struct hop *hop)
{
	return is_v4_mapped(&hop->address) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* What a packet of 64 KiB or more, a GSO packet, states (BIG TCP). */
static __always_inline __be16 state_length(__u32 length)
{
	return length > 0xffff ? 0 : bpf_htons(length);
}

/* DSCP and ECN, which the outer header takes over: RFC 2983 3, RFC 6040 4.1. */
static __always_inline bool load_traffic_class(struct __sk_buff *skb, const struct packet *packet,
					       __u8 *traffic_class)
{
	__be16 first;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &first, sizeof(first)))
		return false;
	*traffic_class = packet->family == IPV6 ? bpf_ntohs(first) >> 4 : bpf_ntohs(first);
	return true;
}

/* `check` is 0 still. */
static __always_inline __sum16 header_checksum(const struct iphdr *ip)
{
	__u32 sum = bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline __u8 inner_protocol(const struct packet *packet)
{
	return packet->family == IPV6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

/*
 * Don't Fragment, whatever the inner packet says: the target decapsulates what comes
 * whole. So the identification may be 0 (RFC 6864 4.1).
 */
static __always_inline bool store_outer4(struct __sk_buff *skb, const struct packet *packet,
					 const struct hop *hop, __u8 traffic_class)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = traffic_class,
		.tot_len = state_length(packet->total + sizeof(ip)),
		.frag_off = bpf_htons(DONT_FRAGMENT),
		.ttl = OUTER_TTL,
		.protocol = inner_protocol(packet),
		.saddr = hop->source.words[3],
		.daddr = hop->address.words[3],
	};

	ip.check = header_checksum(&ip);
	return !bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip),
				    BPF_F_RECOMPUTE_CSUM);
}

static __always_inline bool store_outer6(struct __sk_buff *skb, const struct packet *packet,
					 const struct hop *hop, __u8 traffic_class)
{
	struct ipv6hdr ip = {
		.payload_len = state_length(packet->total),
		.nexthdr = inner_protocol(packet),
		.hop_limit = OUTER_TTL,
	};

	*(__be32 *)&ip = bpf_htonl(6 << 28 | traffic_class << 20);
	__builtin_memcpy(&ip.saddr, &hop->source, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &hop->address, sizeof(ip.daddr));
	return !bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip),
				    BPF_F_RECOMPUTE_CSUM);
}

/*
 * False: the kernel refuses, as it does for a packet that is in a tunnel already, or
 * the hop is of no use. FIXED_GSO: the segments of a GSO packet were found to fit as
 * they are; without it the kernel cuts them shorter, and refuses datagrams.
 */
static __noinline bool encapsulate(struct __sk_buff *skb, const struct packet *packet,
				   const struct hop *hop)
{
	bool outer4 = is_v4_mapped(&hop->address);
	__u64 flags = outer4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	__be16 type = bpf_htons(outer4 ? ETH_P_IP : ETH_P_IPV6);
	__u8 traffic_class;

	if (!load_traffic_class(skb, packet, &traffic_class) ||
	    bpf_skb_adjust_room(skb, overhead_of(hop), BPF_ADJ_ROOM_MAC,
				flags | BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0))
		return false;
	return outer4 ? store_outer4(skb, packet, hop, traffic_class)
		      : store_outer6(skb, packet, hop, traffic_class);
}

#endif
