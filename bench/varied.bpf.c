// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Packets of many flows for BPF_PROG_RUN, which repeats one packet: `vary` gives
 * it the next flow's client and a fresh TTL, then calls the program measured.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LINES (1 << 20)

enum order {
	SAME,
	IN_TURN,
	RANDOM,
};

struct plan {
	__u32 order;	  /* enum order */
	__u32 mask;	  /* of the flow's number: a power of two less one */
	__u32 next;	  /* IN_TURN */
	__u32 ports;	  /* that the flows are shared out to; 1: the frame's own */
	__u32 first_port; /* of several */
	__u32 mac_head;	  /* whom frames are for: XDP writes another in its place */
	__u16 mac_tail;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured SEC(".maps"), measured_xdp SEC(".maps");

struct line {
	__u64 words[8];
};

/* As large as a table of a million connections; see `far`. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set at load */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct line);
} lines SEC(".maps");

static __always_inline __u32 flow_number(struct plan *plan)
{
	switch (plan->order) {
	case IN_TURN:
		return plan->next++ & plan->mask;
	case RANDOM:
		return bpf_get_prandom_u32() & plan->mask;
	default:
		return 0;
	}
}

/* False: too short to be. */
static __always_inline bool vary_frame(void *data, void *end)
{
	__u32 zero = 0, number;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);

	if (!plan || (void *)(tcp + 1) > end)
		return false;
	*(__u32 *)data = plan->mac_head;
	*(__u16 *)(data + 4) = plan->mac_tail;
	number = flow_number(plan);
	ip->ttl = 64;
	ip->saddr = bpf_htonl(0x0a800000 + (number >> 15));
	tcp->source = bpf_htons(0x8000 | (number & 0x7fff));
	if (plan->ports > 1)
		tcp->dest = bpf_htons(plan->first_port + number % plan->ports);
	return true;
}

SEC("tc")
int vary(struct __sk_buff *skb)
{
	if (vary_frame((void *)(long)skb->data, (void *)(long)skb->data_end))
		bpf_tail_call(skb, &measured, 0);
	return TC_ACT_SHOT;
}

SEC("xdp.frags")
int vary_xdp(struct xdp_md *xdp)
{
	if (vary_frame((void *)(long)xdp->data, (void *)(long)xdp->data_end))
		bpf_tail_call(xdp, &measured_xdp, 0);
	return XDP_DROP;
}

/* What the loop, `vary` and the call cost by themselves. */
SEC("tc")
int empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("xdp.frags")
int empty_xdp(struct xdp_md *xdp)
{
	return XDP_PASS;
}

/* What one line costs that is somewhere in memory, the flow says where. */
SEC("tc")
int far(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct line *line;
	__u32 index;

	if ((void *)(tcp + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	index = (bpf_ntohl(ip->saddr) << 15 | (bpf_ntohs(tcp->source) & 0x7fff)) % LINES;
	line = bpf_map_lookup_elem(&lines, &index);
	return line && *(volatile __u64 *)line->words ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
