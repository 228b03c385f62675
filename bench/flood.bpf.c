// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A LAN without a bridge, for BPF_PROG_RUN in live frames mode: `generate` makes
 * frames of many flows out of one and sends them to the forwarder, `wire` takes
 * what the forwarder sends to the target, `count` counts and drops it there.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_BYTES 60 /* 64 with the checksum of Ethernet */

struct plan {
	__u8 frame[64]; /* client's address, port: 0; checksums right for that */
	__u32 mask;	/* of the flow's number: a power of two less one */
	__u32 next;
	__u32 port;	 /* that `count` looks for */
	__u32 forwarder; /* interfaces that lead to them */
	__u32 target;
	__u32 mac_head; /* of the target's MAC */
	__u16 mac_tail;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counted SEC(".maps");

/* RFC 1624: what was 0 is `added` now. */
static __always_inline __u16 checksum_plus(__u16 check, __u32 added)
{
	__u32 sum = (__u16)~check + (added >> 16) + (added & 0xffff);

	sum = (sum >> 16) + (sum & 0xffff);
	return ~((sum >> 16) + sum);
}

SEC("xdp")
int generate(struct xdp_md *xdp)
{
	__u32 zero = 0, number, client;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	void *data = (void *)(long)xdp->data;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct tcphdr *tcp = (void *)(ip + 1);

	if (!plan || data + FRAME_BYTES > (void *)(long)xdp->data_end)
		return XDP_DROP;
	/* The last one's frame comes again, with what was done to it on its way. */
	__builtin_memcpy(data, plan->frame, FRAME_BYTES);
	number = plan->next++ & plan->mask;
	client = bpf_htonl(0x0a800000 + (number >> 15));
	ip->saddr = client;
	ip->check = checksum_plus(ip->check, client);
	tcp->source = bpf_htons(0x8000 | (number & 0x7fff));
	if (ip->protocol == IPPROTO_TCP) /* UDP goes without */
		tcp->check = checksum_plus(checksum_plus(tcp->check, client), tcp->source);
	return bpf_redirect(plan->forwarder, 0);
}

SEC("xdp")
int wire(struct xdp_md *xdp)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	void *data = (void *)(long)xdp->data;

	if (!plan || data + ETH_ALEN > (void *)(long)xdp->data_end)
		return XDP_PASS;
	if (*(__u32 *)data != plan->mac_head || *(__u16 *)(data + 4) != plan->mac_tail)
		return XDP_PASS; /* ARP and the like: to the bridge */
	return bpf_redirect(plan->target, 0);
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	struct ethhdr *ethernet = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	__u64 *packets = bpf_map_lookup_elem(&counted, &zero);

	if (!plan || !packets || (void *)(tcp + 1) > (void *)(long)skb->data_end)
		return TC_ACT_UNSPEC;
	if (ethernet->h_proto != bpf_htons(ETH_P_IP) || tcp->dest != bpf_htons(plan->port))
		return TC_ACT_UNSPEC;
	++*packets;
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
