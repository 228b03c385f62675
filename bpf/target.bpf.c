// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A target at its LAN interface (docs/adr/0014): what a distributor tunnels to it is
 * taken out of its outer packet, without a tunnel device, and goes to the local stack;
 * and the maximum segment size that it announces from a VIP leaves room for the outer
 * header. Everything else passes untouched, an operator's own tunnels among it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "decapsulate.h"
#include "mss.h"

/* To whoever comes after us; what was decapsulated, to nobody: see decapsulate(). */
#define PASSED TC_ACT_UNSPEC

/* A frame in a VLAN is its interface's. A priority alone (VID 0) is no VLAN. */
static __always_inline bool is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & 0x0fff;
}

static __always_inline int drop(enum tunnel_counter reason)
{
	count_tunnel(reason);
	return TC_ACT_SHOT;
}

/*
 * TC_ACT_OK ends the chain of programs: whichever order they are attached in, that of
 * a distributor on this interface sees the outer packet, or none. So what was sent
 * here as to a target is never sent on, whatever this host believes to be by then.
 */
static __noinline int open_outer(struct __sk_buff *skb, __u32 family)
{
	struct tunnelled packet = {.outer_family = family};

	if (!load_outer(skb, &packet) || !has_role(&packet.destination, ROLE_OWN) || packet.later)
		return PASSED;
	if (!load_inner(skb, &packet))
		return is_from_distributor(&packet) ? drop(TUNNEL_DROP_MALFORMED) : PASSED;
	if (!has_role(&packet.vip, ROLE_VIP))
		return PASSED;
	if (!is_from_distributor(&packet))
		return drop(TUNNEL_DROP_SOURCE);
	if (packet.fragment)
		return drop(TUNNEL_DROP_FRAGMENT);
	if (!is_sound(skb, &packet))
		return drop(TUNNEL_DROP_MALFORMED);
	if (loses_congestion(&packet))
		return drop(TUNNEL_DROP_ECN);
	if (!take_off(skb, &packet) || !mark_congestion(skb, &packet))
		return drop(TUNNEL_DROP_ROOM);
	count_tunnel(TUNNEL_DECAPSULATED);
	return TC_ACT_OK;
}

SEC("tc")
int decapsulate(struct __sk_buff *skb)
{
	if (is_tagged(skb))
		return PASSED;
	if (skb->protocol == bpf_htons(ETH_P_IP) &&
	    is_tunnel(skb, offsetof(struct iphdr, protocol)))
		return open_outer(skb, IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6) &&
	    is_tunnel(skb, offsetof(struct ipv6hdr, nexthdr)))
		return open_outer(skb, IPV6);
	return PASSED;
}

/* Every packet that leaves comes by: all but a SYN must be told by a few loads. */
SEC("tc")
int announce(struct __sk_buff *skb)
{
	if (is_tagged(skb))
		return PASSED;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		clamp_ipv4(skb);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		clamp_ipv6(skb);
	return PASSED;
}

char _license[] SEC("license") = "Dual BSD/GPL";
