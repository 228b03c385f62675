/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maximum segment size that a SYN or SYN-ACK announces from a VIP, RFC 9293 3.7.1:
 * what the other end sends comes by a distributor, in an outer packet.
 */
#ifndef ANYPORT_MSS_H
#define ANYPORT_MSS_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include "addresses.h"
#include "tunnel.h"

#define IPV4_OFFSET    0x1fff
#define TCP_OPTIONS    40 /* bytes, at most */
#define OPTION_END     0
#define OPTION_NOTHING 1
#define OPTION_MSS     2

struct option {
	__u8 kind;
	__u8 length;
	__be16 mss;
} __attribute__((packed));

/* 0: without a tunnel, or the interface is too small for one. */
static __always_inline __u32 most_announced(struct __sk_buff *skb, __u32 headers)
{
	__u32 zero = 0, mtu = 0;
	struct tunnel_settings *settings = bpf_map_lookup_elem(&tunnel_settings, &zero);

	if (!settings || !settings->overhead || bpf_check_mtu(skb, 0, &mtu, 0, 0) < 0)
		return 0;
	headers += settings->overhead;
	return mtu > headers ? mtu - headers : 0;
}

/* A walk over TCP's options: by bpf_loop, which the verifier goes through once. */
struct option_walk {
	struct __sk_buff *skb;
	__u32 offset; /* in the frame: of the next one */
	__u32 end;
	struct option option; /* what stands there */
	bool found;
};

/* One option on; 1 ends the walk. */
static long next_option(__u32 position, struct option_walk *walk)
{
	struct option *option = &walk->option;

	if (walk->offset + 2 > walk->end ||
	    bpf_skb_load_bytes(walk->skb, walk->offset, option, 2) || option->kind == OPTION_END)
		return 1;
	walk->found = option->kind == OPTION_MSS;
	if (walk->found || (option->kind != OPTION_NOTHING && option->length < 2))
		return 1;
	walk->offset += option->kind == OPTION_NOTHING ? 1 : option->length;
	return 0;
}

/* Where the option lies, in the frame; 0: there is none. */
static __always_inline __u32 find_mss(struct __sk_buff *skb, __u32 offset, __u32 end,
				      struct option *option)
{
	struct option_walk walk = {.skb = skb, .offset = offset, .end = end};

	bpf_loop(TCP_OPTIONS, next_option, &walk, 0);
	if (!walk.found || walk.option.length != sizeof(*option) ||
	    walk.offset + sizeof(*option) > end ||
	    bpf_skb_load_bytes(skb, walk.offset, option, sizeof(*option)))
		return 0;
	return walk.offset;
}

/* A sum is over pairs of bytes: of a number at an odd place, the halves change theirs. */
static __always_inline __u16 as_summed(__be16 number, __u32 place)
{
	return place & 1 ? __builtin_bswap16(number) : number;
}

/* `tcp`: where its header lies, in the frame; `headers`: bytes of IP's and TCP's. */
static __noinline bool clamp(struct __sk_buff *skb, const struct address *source, __u32 tcp,
			     __u32 headers)
{
	__u32 most, at, place;
	struct option option;
	struct tcphdr head;
	__be16 less;

	if (!source || !has_role(source, ROLE_VIP))
		return false;
	most = most_announced(skb, headers);
	if (!most || bpf_skb_load_bytes(skb, tcp, &head, sizeof(head)))
		return false;
	at = find_mss(skb, tcp + sizeof(head), tcp + head.doff * 4, &option);
	if (!at || bpf_ntohs(option.mss) <= most)
		return false;
	less = bpf_htons(most);
	place = at - tcp;
	return !bpf_l4_csum_replace(skb, tcp + offsetof(struct tcphdr, check),
				    as_summed(option.mss, place), as_summed(less, place),
				    sizeof(less)) &&
	       !bpf_skb_store_bytes(skb, at + offsetof(struct option, mss), &less, sizeof(less), 0);
}

static __always_inline bool is_syn(const struct __sk_buff *skb, const struct tcphdr *tcp)
{
	return (void *)(tcp + 1) <= (void *)(long)skb->data_end && tcp->syn;
}

static __always_inline void clamp_ipv4(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);
	struct address source;
	__u32 length;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end || ip->protocol != IPPROTO_TCP)
		return;
	length = ip->ihl * 4;
	if (!is_syn(skb, (void *)ip + length) || ip->frag_off & bpf_htons(IPV4_OFFSET))
		return;
	v4_mapped(&source, ip->saddr);
	if (clamp(skb, &source, sizeof(struct ethhdr) + length,
		  sizeof(struct iphdr) + sizeof(struct tcphdr)))
		count_tunnel(TUNNEL_MSS_CLAMPED);
}

static __always_inline void clamp_ipv6(struct __sk_buff *skb)
{
	struct ipv6hdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);
	struct address source;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end || ip->nexthdr != IPPROTO_TCP ||
	    !is_syn(skb, (void *)(ip + 1)))
		return;
	__builtin_memcpy(&source, &ip->saddr, sizeof(source));
	if (clamp(skb, &source, sizeof(struct ethhdr) + sizeof(*ip),
		  sizeof(*ip) + sizeof(struct tcphdr)))
		count_tunnel(TUNNEL_MSS_CLAMPED);
}

#endif
