// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A target at its LAN interface: what distributors tunnel to it. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TUNNEL_ROWS);
	__type(key, struct address);
	__type(value, __u32); /* enum tunnel_role */
} tunnel_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tunnel_settings);
} tunnel_settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TUNNEL_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} tunnel_counters SEC(".maps");

SEC("tc")
int decapsulate(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int announce(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
