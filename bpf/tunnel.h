/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A target's maps; README.md says who writes and who reads each. */
#ifndef ANYPORT_TUNNEL_H
#define ANYPORT_TUNNEL_H

#include <stdbool.h>
#include <linux/bpf.h>
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

static __always_inline bool has_role(const struct address *address, enum tunnel_role role)
{
	__u32 *roles = bpf_map_lookup_elem(&tunnel_addresses, address);

	return roles && *roles & role;
}

static __always_inline void count_tunnel(enum tunnel_counter reason)
{
	__u32 key = reason;
	__u64 *counter = bpf_map_lookup_elem(&tunnel_counters, &key);

	if (counter)
		(*counter)++;
}

#endif
