// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The distributor, at the ingress of its LAN interface:
 *
 *     frame -> parse.h -> struct packet -> verdict.h -> struct decision -> act()
 *
 * Only this file knows that the hook is TC (TCX, or clsact on older kernels).
 * TC and not XDP: GSO packets stay whole, and veth has no XDP_TX of its own.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "verdict.h"

#define AF_INET 2
#define PASSED	TC_ACT_UNSPEC /* TCX_NEXT: whoever comes after us still sees it */

/*
 * The frame with its first `need` bytes readable, as far as it has them. They
 * are pulled only if they lie in fragments, and before any pointer is taken.
 */
static __always_inline struct frame frame_of(struct __sk_buff *skb, __u32 need)
{
	if (need > skb->len)
		need = skb->len;
	if ((void *)(long)skb->data + need > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, need);
	return (struct frame){
		.data = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.length = skb->len,
		.gso = skb->gso_size,
	};
}

/* After the VIP is known: what to do with the rest of the IPv4 packet. */
static __always_inline struct decision decide_ours(struct __sk_buff *skb, struct frame *frame,
						   const struct vip *vip, struct packet *packet)
{
	if (is_fenced(vip)) {
		struct ethhdr *ethernet = frame->data;

		if ((void *)(ethernet + 1) > frame->end)
			return decided(VERDICT_DROP_MALFORMED, DROP);
		return decide_fenced(vip, ethernet->h_source);
	}
	if (!ipv4_sound(frame, packet))
		return decided(VERDICT_DROP_MALFORMED, DROP);
	/*
	 * Only the first fragment shows its ports, and the local stack might put
	 * together and deliver a datagram that belongs to another target.
	 */
	if (packet->fragment)
		return decided(VERDICT_DROP_FRAGMENT, DROP);
	if (packet->ip_protocol != IPPROTO_TCP && packet->ip_protocol != IPPROTO_UDP)
		return decided(VERDICT_OTHER_PROTOCOL, PASS);
	*frame = frame_of(skb, sizeof(struct ethhdr) + packet->header + sizeof(struct tcphdr));
	if (!parse_transport(frame, packet))
		return decided(VERDICT_DROP_MALFORMED, DROP);
	return decide_transport(vip, packet);
}

/* A frame to another MAC is another host's; our own, sent on to a target, may be seen again. */
static __always_inline bool for_mac(const struct frame *frame, const struct vip *vip)
{
	struct ethhdr *ethernet = frame->data;

	return (void *)(ethernet + 1) <= frame->end && same_mac(ethernet->h_dest, vip->mac);
}

static __always_inline struct decision decide(struct __sk_buff *skb, struct packet *packet)
{
	struct frame frame = frame_of(skb, sizeof(struct arp_frame));
	__u16 type = skb->vlan_present ? 0 : ether_type(&frame);
	struct arp_frame *arp = type == ETH_P_ARP ? parse_arp(&frame) : NULL;
	struct vip *vip;

	if (arp)
		return decide_arp(arp);
	if (type != ETH_P_IP || !parse_ipv4(&frame, packet))
		return decided(VERDICT_NOT_OURS, PASS);
	vip = bpf_map_lookup_elem(&vips, &packet->flow.vip);
	if (!vip || !for_mac(&frame, vip))
		return decided(VERDICT_NOT_OURS, PASS);
	return decide_ours(skb, &frame, vip, packet);
}

/* Written in one piece; the request is still in the skb. */
static __always_inline int answer(struct __sk_buff *skb)
{
	struct arp_frame reply;
	struct vip *vip;

	if (bpf_skb_load_bytes(skb, 0, &reply, sizeof(reply)))
		return TC_ACT_SHOT;
	vip = vip_of(reply.target);
	if (!vip)
		return TC_ACT_SHOT;
	__builtin_memcpy(reply.ethernet.h_dest, reply.ethernet.h_source, ETH_ALEN);
	__builtin_memcpy(reply.ethernet.h_source, vip->mac, ETH_ALEN);
	reply.operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(reply.target_mac, reply.sender_mac, ETH_ALEN);
	__builtin_memcpy(reply.sender_mac, vip->mac, ETH_ALEN);
	__be32 vip_address = reply.target;

	reply.target = reply.sender;
	reply.sender = vip_address;
	if (bpf_skb_store_bytes(skb, 0, &reply, sizeof(reply), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * One hop less, then to the host's MAC. The next hop is given: a route lookup
 * for the VIP would find that it is local. TTL, protocol and checksum are four
 * bytes in a row, and their sum does not change, so CHECKSUM_COMPLETE holds.
 */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet,
				   const struct hop *hop)
{
	struct bpf_redir_neigh next_hop = {.nh_family = AF_INET, .ipv4_nh = hop->address.words[3]};
	__u16 words[2] = {packet->ttl_word - bpf_htons(0x0100), 0};

	words[1] = checksum_replace(packet->check, packet->ttl_word, words[0]);
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr) + offsetof(struct iphdr, ttl), words,
				sizeof(words), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(hop->ifindex, &next_hop, sizeof(next_hop), 0);
}

static __always_inline void count(__u32 verdict)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &verdict);

	if (counter)
		(*counter)++;
}

SEC("tc")
int distribute(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct decision decision = decide(skb, &packet);

	count(decision.verdict);
	switch (decision.action) {
	case ANSWER:
		return answer(skb);
	case FORWARD:
		return decision.hop ? forward(skb, &packet, decision.hop) : TC_ACT_SHOT;
	case DROP:
		return TC_ACT_SHOT;
	default:
		return PASSED;
	}
}

char _license[] SEC("license") = "Dual BSD/GPL";
