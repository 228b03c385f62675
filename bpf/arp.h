/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who has the VIP, in IPv4: RFC 826. */
#ifndef ANYPORT_ARP_H
#define ANYPORT_ARP_H

#include "decision.h"
#include "vips.h"
#include "parse.h"

/* RFC 826; <linux/if_arp.h> does not compile for BPF. */
#define ARPHRD_ETHER  1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY   2

/* Ethernet and IPv4 ARP as one, RFC 826. */
struct arp_frame {
	struct ethhdr ethernet;
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

/* NULL unless it is ARP for IPv4 on Ethernet, complete. */
static __always_inline struct arp_frame *parse_arp(const struct frame *frame)
{
	struct arp_frame *arp = frame->data;

	if ((void *)(arp + 1) > frame->end)
		return NULL;
	if (arp->hardware_type != bpf_htons(ARPHRD_ETHER) ||
	    arp->protocol_type != bpf_htons(ETH_P_IP) || arp->hardware_length != ETH_ALEN ||
	    arp->protocol_length != sizeof(__be32))
		return NULL;
	return arp;
}

static __always_inline struct vip *vip_of(__be32 v4)
{
	struct address address;

	v4_mapped(&address, v4);
	return find_vip(&address);
}

static __always_inline struct decision decide_arp(const struct arp_frame *arp)
{
	static const __u8 broadcast[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct vip *announced = vip_of(arp->sender), *asked = vip_of(arp->target);

	if (announced && !same_mac(arp->sender_mac, announced->mac))
		return for_vip(announced, fence(announced, arp->sender_mac));
	if (announced) /* our own gratuitous ARP */
		return for_vip(announced, decided(VERDICT_ARP_IGNORED, PASS));
	if (!asked || arp->operation != bpf_htons(ARPOP_REQUEST))
		return decided(VERDICT_NOT_OURS, PASS);
	if (!same_mac(arp->ethernet.h_dest, asked->mac) &&
	    !same_mac(arp->ethernet.h_dest, broadcast))
		return decided(VERDICT_NOT_OURS, PASS);
	/* Dropped: passed up, a kernel without arp_ignore would answer in our place. */
	if (is_fenced(asked))
		return for_vip(asked, decided(VERDICT_ARP_IGNORED, DROP));
	return for_vip(asked, decided(VERDICT_ARP_REPLIED, ANSWER_ARP));
}

/* Turns a request into its reply. */
static __always_inline void make_arp_reply(struct arp_frame *arp, const __u8 *mac)
{
	__be32 vip = arp->target;

	__builtin_memcpy(arp->ethernet.h_dest, arp->ethernet.h_source, ETH_ALEN);
	__builtin_memcpy(arp->ethernet.h_source, mac, ETH_ALEN);
	arp->operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	arp->target = arp->sender;
	arp->sender = vip;
}

#endif
