/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who has the VIP, in IPv6: neighbour discovery, RFC 4861 (7.1: which messages are valid). */
#ifndef ANYPORT_NDP_H
#define ANYPORT_NDP_H

#include "decision.h"
#include "vips.h"
#include "parse.h"

#define ND_SOLICIT     135
#define ND_ADVERTISE   136
#define ND_HOP_LIMIT   255 /* no router let it through */
#define ND_SOURCE_MAC  1
#define ND_TARGET_MAC  2
#define ND_OPTIONS     64	  /* what is read of them; a longer message is not believed */
#define NA_SOLICITED   0x40000000 /* an answer: the neighbour is reachable */
#define NA_OVERRIDE    0x20000000 /* instead of what was known */
#define ND_FIXED_BYTES (sizeof(struct ndp_packet) - ND_OPTIONS)

struct ndp_option {
	__u8 type;
	__u8 length; /* in 8 bytes */
	__u8 mac[ETH_ALEN];
};

struct ndp_packet {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 flags;
	struct address target;
	struct ndp_option options[ND_OPTIONS / sizeof(struct ndp_option)];
};

/* What goes out: the fixed part and one option. */
#define NA_BYTES (ND_FIXED_BYTES + sizeof(struct ndp_option))

/*
 * The folded sum of the ICMPv6 message and its pseudo header (RFC 4443 2.3):
 * addresses and message lie in a row; what the packet has not, is 0.
 */
static __always_inline __u16 ndp_sum(struct ndp_packet *packet)
{
	__u32 room = sizeof(*packet) - offsetof(struct ndp_packet, ip.saddr);
	__u32 seed = packet->ip.payload_len + bpf_htons(IPPROTO_ICMPV6);
	__u64 sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->ip.saddr, room, seed);

	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	return (sum & 0xffff) + (sum >> 16);
}

/* Copies the last option of this type, if it has one; false if they don't fill `room`. */
static __always_inline bool find_option(const struct ndp_packet *packet, __u32 room, __u8 type,
					struct ndp_option *found)
{
	__u32 next = 0;

#pragma unroll
	for (__u32 i = 0; i < ND_OPTIONS / sizeof(*found); i++) {
		const struct ndp_option *option = &packet->options[i];

		if (i * sizeof(*found) != next || next >= room)
			continue;
		if (!option->length)
			return false;
		if (option->type == type)
			*found = *option;
		next += option->length * sizeof(*found);
	}
	return next == room;
}

/* Nobody believes an answer to all: RFC 4861 7.1.2. */
static __always_inline bool is_answer_to_all(const struct ndp_packet *message)
{
	return message->type == ND_ADVERTISE && message->flags & bpf_htonl(NA_SOLICITED) &&
	       message->ip.daddr.s6_addr[0] == 0xff;
}

/* A solicitation or advertisement to believe, and the option that tells its sender's MAC. */
static __always_inline bool load_ndp(const struct frame *frame, const struct packet *packet,
				     struct ndp_packet *message, struct ndp_option *told)
{
	__u32 size = packet->total;
	__u8 wanted;

	if (!ip_sound(frame, packet) || packet->ttl != ND_HOP_LIMIT)
		return false;
	if (size < ND_FIXED_BYTES || size > sizeof(*message))
		return false;
	if (!load_tc(frame, sizeof(struct ethhdr), message, size))
		return false;
	wanted = message->type == ND_SOLICIT ? ND_SOURCE_MAC : ND_TARGET_MAC;
	if (message->code || is_v4_mapped(&message->target) || is_answer_to_all(message))
		return false;
	return ndp_sum(message) == 0xffff &&
	       find_option(message, size - ND_FIXED_BYTES, wanted, told);
}

/* ff02::1:ffxx:xxxx of the target, RFC 4291 2.7.1. */
static __always_inline bool is_solicited_node(const struct address *group,
					      const struct address *target)
{
	return group->words[0] == bpf_htonl(0xff020000) && !group->words[1] &&
	       group->words[2] == bpf_htonl(1) &&
	       group->words[3] == (target->words[3] | bpf_htonl(0xff000000));
}

/* The MAC of a multicast group, RFC 2464 7. */
static __always_inline void set_group_mac(__u8 *mac, const struct address *group)
{
	mac[0] = 0x33;
	mac[1] = 0x33;
	__builtin_memcpy(&mac[2], &group->words[3], sizeof(group->words[3]));
}

/*
 * Whether an answer is due. From the unspecified address (duplicate address
 * detection) it must go to the group, and tell no MAC.
 */
static __always_inline bool is_asked(const struct ethhdr *ethernet, const struct packet *packet,
				     const struct address *target, const struct ndp_option *told,
				     const struct vip *vip)
{
	bool to_group = is_solicited_node(&packet->flow.vip, target);
	__u8 group_mac[ETH_ALEN];

	if (is_unspecified(&packet->flow.client) && (!to_group || told->type))
		return false;
	set_group_mac(group_mac, &packet->flow.vip);
	if (to_group && same_mac(ethernet->h_dest, group_mac))
		return true;
	return same_mac(ethernet->h_dest, vip->mac) &&
	       (to_group || same_address(&packet->flow.vip, target));
}

/* The VIP is announced: by us, or by another host? */
static __always_inline struct decision decide_announced(const struct vip *vip,
							const struct ethhdr *ethernet,
							const struct ndp_option *told)
{
	const __u8 *mac = told->type ? told->mac : ethernet->h_source;

	if (!same_mac(mac, vip->mac))
		return for_vip(vip, fence(vip, mac));
	return for_vip(vip, decided(VERDICT_NDP_IGNORED, PASS));
}

static __always_inline struct decision decide_solicitation(const struct ethhdr *ethernet,
							   const struct packet *packet,
							   const struct address *target,
							   const struct ndp_option *told)
{
	struct vip *announced = find_vip(&packet->flow.client);
	struct vip *asked = find_vip(target);

	if (announced)
		return decide_announced(announced, ethernet, told);
	if (!asked || !is_asked(ethernet, packet, target, told, asked))
		return decided(VERDICT_NOT_OURS, PASS);
	if (is_fenced(asked))
		return for_vip(asked, decided(VERDICT_NDP_IGNORED, DROP));
	return for_vip(asked, decided(VERDICT_NDP_REPLIED, ANSWER_NDP));
}

/* As decide_arp: who announces the VIP fences it, who asks for it is answered. */
static __always_inline struct decision decide_neighbour(const struct frame *frame,
							const struct packet *packet)
{
	const struct ethhdr *ethernet = frame->data;
	struct ndp_option told = {};
	struct ndp_packet message = {};
	struct vip *announced;

	if ((void *)(ethernet + 1) > frame->end || !load_ndp(frame, packet, &message, &told))
		return decided(VERDICT_NOT_OURS, PASS);
	if (message.type == ND_SOLICIT)
		return decide_solicitation(ethernet, packet, &message.target, &told);
	announced = find_vip(&message.target);
	if (!announced)
		return decided(VERDICT_NOT_OURS, PASS);
	return decide_announced(announced, ethernet, &told);
}

/* A stack frame of its own, as the message takes half of what all functions may have; in a word. */
static __noinline __u64 decide_in_word(const struct frame *frame, const struct packet *packet)
{
	struct decision decision = decide_neighbour(frame, packet);

	return (__u64)decision.action << 32 | decision.row << 16 | decision.verdict;
}

static __always_inline struct decision decide_ndp(const struct frame *frame,
						  const struct packet *packet)
{
	__u64 word = decide_in_word(frame, packet);
	struct decision decision = decided(word & 0xffff, word >> 32);

	decision.row = word >> 16 & 0xffff;
	return decision;
}

/*
 * Turns a solicitation into its advertisement. An asker without an address yet
 * is told with everybody (RFC 4861 7.2.4).
 */
static __always_inline void make_advertisement(struct ethhdr *ethernet, struct ndp_packet *packet,
					       const __u8 *mac)
{
	struct address asker;
	bool nobody;

	__builtin_memcpy(&asker, &packet->ip.saddr, sizeof(asker));
	nobody = is_unspecified(&asker);
	if (nobody)
		asker = (struct address){{bpf_htonl(0xff020000), 0, 0, bpf_htonl(1)}};
	if (nobody)
		set_group_mac(ethernet->h_dest, &asker);
	else
		__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, mac, ETH_ALEN);
	*(__be32 *)&packet->ip = bpf_htonl(6 << 28);
	packet->ip.payload_len = bpf_htons(NA_BYTES - sizeof(packet->ip));
	__builtin_memcpy(&packet->ip.saddr, &packet->target, sizeof(struct address));
	__builtin_memcpy(&packet->ip.daddr, &asker, sizeof(asker));
	packet->type = ND_ADVERTISE;
	packet->flags = bpf_htonl(NA_OVERRIDE | (nobody ? 0 : NA_SOLICITED));
	packet->options[0].type = ND_TARGET_MAC;
	packet->options[0].length = 1;
	__builtin_memcpy(packet->options[0].mac, mac, ETH_ALEN);
	packet->check = 0;
	packet->check = ~ndp_sum(packet);
}

/* ICMPv6 type right behind the fixed header; no sender puts extension headers before these. */
static __always_inline bool is_ndp(const struct frame *frame, const struct packet *packet)
{
	__u8 type;

	return packet->ip_protocol == IPPROTO_ICMPV6 &&
	       load_tc(frame, sizeof(struct ethhdr) + sizeof(struct ipv6hdr), &type,
		       sizeof(type)) &&
	       (type == ND_SOLICIT || type == ND_ADVERTISE);
}

#endif
