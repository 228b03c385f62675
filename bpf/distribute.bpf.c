// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The distributor, at the ingress of its LAN interface:
 *
 *     frame -> parse.h -> struct packet -> verdict.h -> struct decision -> acted on
 *
 * twice. `distribute`, at TC (TCX, or clsact on older kernels), does everything.
 * `distribute_xdp` before it, where the driver has XDP (docs/adr/0013), does what
 * nearly all packets are, and leaves the rest to it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "counters.h"
#include "encapsulate.h"
#include "too_big.h"
#include "upkeep.h"
#include "verdict.h"

#define AF_INET	 2
#define AF_INET6 10
#define VLAN_VID 0x0fff	       /* none: a priority alone (802.1p), and the frame is not in a VLAN */
#define PASSED	 TC_ACT_UNSPEC /* TCX_NEXT: whoever comes after us still sees it */

static __always_inline struct frame frame_of(struct __sk_buff *skb)
{
	struct frame frame = {
		.context = skb,
		.length = skb->len,
		.gso = skb->gso_size,
		.tagged = skb->vlan_present && skb->vlan_tci & VLAN_VID,
	};

	reach(&frame, FIRST_BYTES);
	return frame;
}

/* Written in one piece; the request is still in the skb. */
static __noinline int answer_arp(struct __sk_buff *skb, __u32 row)
{
	struct vip *vip = vip_at(row);
	struct arp_frame arp;

	if (!vip || bpf_skb_load_bytes(skb, 0, &arp, sizeof(arp)))
		return TC_ACT_SHOT;
	make_arp_reply(&arp, vip->mac);
	if (bpf_skb_store_bytes(skb, 0, &arp, sizeof(arp), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* A solicitation is shorter than its answer if it has no option, and longer if it has many. */
static __noinline int answer_ndp(struct __sk_buff *skb, __u32 row)
{
	struct ndp_packet packet = {};
	struct vip *vip = vip_at(row);
	struct ethhdr ethernet;

	if (!vip || bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)) ||
	    bpf_skb_load_bytes(skb, sizeof(ethernet), &packet, ND_FIXED_BYTES))
		return TC_ACT_SHOT;
	make_advertisement(&ethernet, &packet, vip->mac);
	if (bpf_skb_change_tail(skb, sizeof(ethernet) + NA_BYTES, 0) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(ethernet), &packet, NA_BYTES, BPF_F_RECOMPUTE_CSUM))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline void count_hop_ipv4(struct iphdr *ip, const struct packet *packet)
{
	__be16 less = packet->ttl_word - bpf_htons(0x0100);

	*(__be16 *)&ip->ttl = less;
	ip->check = checksum_replace(packet->check, packet->ttl_word, less);
}

/*
 * One hop less. IPv4's checksum is corrected with it, and the sum over both does
 * not change, so CHECKSUM_COMPLETE holds; IPv6 has no checksum of its own, so that
 * of the frame is corrected. IPv4 is written in place: the helper takes as long as
 * half of all the rest.
 */
static __always_inline bool count_hop(struct __sk_buff *skb, const struct packet *packet)
{
	struct iphdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);
	__u8 hop_limit = packet->ttl - 1;

	if (packet->family == IPV6)
		return !bpf_skb_store_bytes(
			skb, sizeof(struct ethhdr) + offsetof(struct ipv6hdr, hop_limit),
			&hop_limit, 1, BPF_F_RECOMPUTE_CSUM);
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	count_hop_ipv4(ip, packet);
	return true;
}

/* To the host's MAC. The next hop is given: a route lookup for the VIP would find it local. */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet,
				   const struct hop *hop)
{
	struct bpf_redir_neigh next_hop = {};

	if (is_v4_mapped(&hop->address)) {
		next_hop.nh_family = AF_INET;
		next_hop.ipv4_nh = hop->address.words[3];
	} else {
		next_hop.nh_family = AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, &hop->address, sizeof(hop->address));
	}
	if (!count_hop(skb, packet))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(hop->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* The outer header alone tells the way: the kernel's own routing is asked. */
static __always_inline struct decision tunnel(struct __sk_buff *skb, const struct packet *packet,
					      struct decision decision)
{
	decision = judge_size(skb, packet, decision);
	if (decision.action != ENCAPSULATE)
		return decision;
	if (!count_hop(skb, packet) || !encapsulate(skb, packet, decision.hop)) {
		decision.verdict = VERDICT_DROP_ENCAPSULATION;
		decision.action = DROP;
	}
	return decision;
}

/* The skb becomes a held fragment, and a clone of it takes its turn at this interface again. */
static __always_inline void put_back(struct __sk_buff *skb, const struct held_fragment *held)
{
	__u32 length = held_length(held->length);

	if (!length || bpf_skb_change_tail(skb, length, 0))
		return;
	if (!bpf_skb_store_bytes(skb, 0, held->bytes, length, BPF_F_RECOMPUTE_CSUM))
		bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
}

/*
 * Back into the queue of this CPU: the packet itself, and then those that waited
 * for it. Each comes through `distribute` again as a clone, and finds noted where
 * its packet goes; the skb itself was only the mould. If newer ones have taken their places in the
 * ring since, they are put back instead, and held again.
 */
static __noinline int put_all_back(struct __sk_buff *skb, __u32 waiting)
{
	struct fragment_key key = {};

	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	for (__u32 i = 0; waiting && i < MOST_HELD; i++) {
		__u32 position = waiting - 1;
		struct held_fragment *held = bpf_map_lookup_elem(&held_fragments, &position);

		if (!held || (i && !same_key(&held->key, &key)))
			break;
		key = held->key;
		waiting = held->next;
		put_back(skb, held);
	}
	return TC_ACT_SHOT;
}

/* What XDP has chosen for this packet; 0: nothing. */
static __always_inline __u64 choice_of_xdp(const struct __sk_buff *skb)
{
	const struct handed_on *handed = (void *)(long)skb->data_meta;

	if ((void *)(handed + 1) > (void *)(long)skb->data || handed->magic != HANDED_ON)
		return 0;
	return chosen(handed->verdict, handed->slot);
}

SEC("tc")
int distribute(struct __sk_buff *skb)
{
	struct packet packet = {.choice = choice_of_xdp(skb)};
	struct frame frame = frame_of(skb);
	struct decision decision = decide(&frame, &packet);

	if (decision.action == ENCAPSULATE && decision.hop)
		decision = tunnel(skb, &packet, decision);
	count(&decision, frame.length);
	switch (decision.action) {
	case ANSWER_ARP:
		return answer_arp(skb, decision.row);
	case ANSWER_NDP:
		return answer_ndp(skb, decision.row);
	case FORWARD:
		return decision.hop ? forward(skb, &packet, decision.hop) : TC_ACT_SHOT;
	case ENCAPSULATE:
		if (!decision.hop)
			return TC_ACT_SHOT;
		return bpf_redirect_neigh(decision.hop->ifindex ?: skb->ifindex, NULL, 0, 0);
	case ANSWER_TOO_BIG:
		return answer_too_big(skb, &packet, decision.mtu);
	case RELEASE:
		return put_all_back(skb, decision.waiting);
	case DROP:
		return TC_ACT_SHOT;
	default:
		return PASSED;
	}
}

/* To the MAC that the target tells, out of where the frame came from. False: TC can do it. */
static __always_inline bool turn_back(struct xdp_md *context, const struct packet *packet,
				      const struct decision *decision)
{
	__u32 slot = decision->slot;
	struct host *host = bpf_map_lookup_elem(&hosts, &slot);
	struct ethhdr *ethernet = (void *)(long)context->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ip6 = (void *)(ethernet + 1);

	if (!host || !decision->hop || decision->hop->path != PATH_L2 ||
	    decision->hop->ifindex != context->ingress_ifindex || no_mac(host->mac))
		return false;
	if (packet->family == IPV6) {
		if ((void *)(ip6 + 1) > (void *)(long)context->data_end)
			return false;
		ip6->hop_limit = packet->ttl - 1;
	} else {
		if ((void *)(ip + 1) > (void *)(long)context->data_end)
			return false;
		count_hop_ipv4(ip, packet);
	}
	__builtin_memcpy(ethernet->h_source, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, host->mac, ETH_ALEN);
	return true;
}

/* If the driver has no room for it, TC decides again: the same, as by then it is known. */
static __always_inline int hand_on(struct xdp_md *context, __u64 choice)
{
	struct handed_on *handed;

	if (!choice || bpf_xdp_adjust_meta(context, -(int)sizeof(*handed)))
		return XDP_PASS;
	handed = (void *)(long)context->data_meta;
	if ((void *)(handed + 1) <= (void *)(long)context->data)
		*handed = (struct handed_on){HANDED_ON, choice, choice >> 32, 0};
	return XDP_PASS;
}

/* Counts what ends here; TC counts what it gets. */
SEC("xdp.frags")
int distribute_xdp(struct xdp_md *context)
{
	struct frame frame = {
		.context = context,
		.data = (void *)(long)context->data,
		.end = (void *)(long)context->data_end,
		.length = bpf_xdp_get_buff_len(context),
		.xdp = true,
	};
	struct packet packet = {};
	struct decision decision = decide_plain(&frame, &packet);

	if (decision.action == FORWARD && turn_back(context, &packet, &decision)) {
		count(&decision, frame.length);
		return XDP_TX;
	}
	if (decision.action == DROP) {
		count(&decision, frame.length);
		return XDP_DROP;
	}
	return hand_on(context, packet.choice);
}

char _license[] SEC("license") = "Dual BSD/GPL";
