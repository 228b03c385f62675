/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet that does not fit the way to its target once it is in an outer one: its
 * sender is told, as by a router (RFC 1191, RFC 8201), what would fit: the path's MTU
 * less the overhead, once (IBM PK66210). By TC's helpers.
 */
#ifndef ANYPORT_TOO_BIG_H
#define ANYPORT_TOO_BIG_H

#include "decision.h"
#include "encapsulate.h"
#include "icmp.h"
#include "path_mtu.h"

#define MOST_QUOTED4 (576 - sizeof(struct iphdr) - ICMP_HEADER)	   /* RFC 1812 4.3.2.3 */
#define MOST_QUOTED6 (1280 - sizeof(struct ipv6hdr) - ICMP_HEADER) /* RFC 4443 2.4 (c) */
#define CONTROL	     0xc0					   /* DSCP CS6: RFC 1812 4.3.2.5 */
#define LEAST_QUOTED 128 /* of less none can be too big; and make_room() needs it */
#define SUMMED	     512 /* bytes that bpf_csum_diff takes at once */
#define SUMS	     3

#define NO_ANSWER    (~0U)
#define ANSWER_BYTES (sizeof(struct ipv6hdr) + SUMS * SUMMED)

/* Beyond the packet it is 0, so that whole pieces can be summed. */
struct answer {
	union {
		struct iphdr ip4;
		struct ipv6hdr ip6;
		__u64 words[ANSWER_BYTES / 8];
		__u8 bytes[ANSWER_BYTES];
	};
};

struct icmp_too_big {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 mtu;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

/* Of a GSO packet, the largest of the packets that it will be on the wire: never a larger one. */
static __always_inline __u32 bytes_on_wire(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 transport = sizeof(struct udphdr), segment;
	__u8 words = 0;

	if (!skb->gso_size)
		return packet->total;
	if (packet->ip_protocol == IPPROTO_TCP &&
	    !bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + packet->header + 12, &words, 1))
		transport = (words >> 4) * 4;
	segment = packet->header + transport + skb->gso_size;
	return segment < packet->total ? segment : packet->total;
}

/* To no group, and to nobody in particular no answer (RFC 1812 4.3.2.7, RFC 4443 2.4 (e)). */
static __always_inline bool is_one_host(const struct address *address)
{
	__u32 word = bpf_ntohl(address->words[3]);

	if (!is_v4_mapped(address))
		return (bpf_ntohl(address->words[0]) >> 24) != 0xff && !is_unspecified(address);
	return word >> 24 && word >> 24 != 127 && word >> 28 < 0xe;
}

/* Neither about an error nor about a fragment that is not the first; likewise. */
static __always_inline bool may_tell(const struct packet *packet)
{
	return !packet->error && !packet->later && is_one_host(&packet->flow.client);
}

/*
 * 0: it fits; NO_ANSWER: it does not, and nobody is told; else what the sender is told.
 * An IPv4 packet without Don't Fragment is not fragmented, which a TC program cannot;
 * its sender is told as well, and heeds it by fragmenting. An IPv6 sender need not
 * believe less than 1,280 bytes: what is no larger and does not fit is lost, as such
 * a path is none for IPv6.
 */
static __noinline __u32 mtu_to_tell(struct __sk_buff *skb, const struct packet *packet,
				    const struct hop *hop, __u32 slot)
{
	__u32 mtu = path_mtu(hop, slot * FAMILIES + packet->family);
	__u32 size = bytes_on_wire(skb, packet), overhead = overhead_of(hop);

	if (!mtu || size + overhead <= mtu)
		return 0;
	mtu = mtu > overhead ? mtu - overhead : 0;
	if (packet->family == IPV6 && mtu < LEAST_MTU_IPV6)
		mtu = LEAST_MTU_IPV6;
	return mtu && size > mtu && may_tell(packet) ? mtu : NO_ANSWER;
}

/* Before it goes into a tunnel: it may turn out that it does not. */
static __always_inline struct decision
judge_size(struct __sk_buff *skb, const struct packet *packet, struct decision decision)
{
	__u32 mtu = mtu_to_tell(skb, packet, decision.hop, decision.slot);

	if (!mtu)
		return decision;
	decision.verdict = mtu == NO_ANSWER ? VERDICT_DROP_TOO_BIG : VERDICT_TOO_BIG;
	decision.action = mtu == NO_ANSWER ? DROP : ANSWER_TOO_BIG;
	decision.mtu = mtu;
	return decision;
}

/* volatile: or the compiler calls memset, which there is none of. */
static __always_inline struct answer *empty_answer(void)
{
	__u32 zero = 0;
	struct answer *answer = bpf_map_lookup_elem(&answers, &zero);

	if (!answer)
		return NULL;
	for (__u32 i = 0; i < sizeof(answer->words) / sizeof(answer->words[0]); i++)
		((volatile __u64 *)answer->words)[i] = 0;
	return answer;
}

static __always_inline __u16 folded_sum_of(const __u8 *bytes, __u32 seed)
{
	__u64 sum = seed;

	for (__u32 i = 0; i < SUMS; i++)
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(bytes + i * SUMMED), SUMMED, sum);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void head_answer4(struct answer *answer, const struct packet *packet,
					 __u32 mtu, __u32 quoted)
{
	struct icmp_too_big *icmp = (void *)(&answer->ip4 + 1);
	struct iphdr *ip = &answer->ip4;

	*icmp = (struct icmp_too_big){ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED,
				      .mtu = bpf_htonl(mtu)};
	icmp->check = ~folded_sum_of((void *)icmp, 0);
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = CONTROL;
	ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*icmp) + quoted);
	ip->frag_off = bpf_htons(DONT_FRAGMENT);
	ip->ttl = OUTER_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = packet->flow.vip.words[3];
	ip->daddr = packet->flow.client.words[3];
	ip->check = header_checksum(ip);
}

/* The sum is over the pseudo header, too (RFC 4443 2.3): the addresses lie before the message. */
static __always_inline void head_answer6(struct answer *answer, const struct packet *packet,
					 __u32 mtu, __u32 quoted)
{
	struct icmp_too_big *icmp = (void *)(&answer->ip6 + 1);
	struct ipv6hdr *ip = &answer->ip6;

	*icmp = (struct icmp_too_big){ICMPV6_PACKET_TOO_BIG, .mtu = bpf_htonl(mtu)};
	*(__be32 *)ip = bpf_htonl(6 << 28);
	ip->payload_len = bpf_htons(sizeof(*icmp) + quoted);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &packet->flow.vip, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &packet->flow.client, sizeof(ip->daddr));
	icmp->check =
		~folded_sum_of((void *)&ip->saddr, ip->payload_len + bpf_htons(IPPROTO_ICMPV6));
}

/*
 * An empty frame of this many bytes of IP. What the packet left to be done when it is
 * sent is taken from it: to be segmented, by making it shorter; and its checksum to be
 * written, by pulling away where that begins (kernel: skb_postpull_rcsum).
 */
static __always_inline bool make_room(struct __sk_buff *skb, __u32 quoted, __u32 bytes)
{
	__s32 pulled = quoted - sizeof(struct ipv6hdr);

	return !bpf_skb_change_tail(skb, sizeof(struct ethhdr) + quoted, 0) &&
	       !bpf_skb_adjust_room(skb, -pulled, BPF_ADJ_ROOM_MAC, 0) &&
	       !bpf_skb_change_tail(skb, sizeof(struct ethhdr) + bytes, 0);
}

/* Back to the MAC that it came from: the frame's addresses change places. */
static __always_inline bool turn_frame(struct __sk_buff *skb)
{
	__u8 macs[2 * ETH_ALEN], turned[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return false;
	__builtin_memcpy(turned, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, macs, ETH_ALEN);
	return !bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
}

/* From the VIP, with as much of the packet as there may be. `mtu`: what would fit. */
static __noinline int answer_too_big(struct __sk_buff *skb, const struct packet *packet, __u32 mtu)
{
	struct answer *answer = empty_answer();
	bool v6 = packet->family == IPV6;
	__u32 quoted = v6 ? MOST_QUOTED6 : MOST_QUOTED4;
	__u32 head = ICMP_HEADER + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	if (quoted > packet->total)
		quoted = packet->total;
	if (!answer || quoted < LEAST_QUOTED ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethhdr), answer->bytes + head, quoted) ||
	    !make_room(skb, quoted, head + quoted) || !turn_frame(skb))
		return TC_ACT_SHOT;
	if (v6)
		head_answer6(answer, packet, mtu, quoted);
	else
		head_answer4(answer, packet, mtu, quoted);
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), answer->bytes, head + quoted,
				BPF_F_RECOMPUTE_CSUM))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

#endif
