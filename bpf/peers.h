/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * No loops. A host that has the VIP on `lo` never sends a packet of its own to
 * it, nor forwards one: it would receive it. So what comes from its MAC, another
 * distributor sent on to us as a target: one that has not seen yet that it is
 * none any more, or whose successor has not seen yet that we are none. To send it
 * on again would be a loop (IBM PM78817); it is for the local stack.
 */
#ifndef ANYPORT_PEERS_H
#define ANYPORT_PEERS_H

#include "maps.h"
#include "parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PEER_ROWS);
	__type(key, __u32);
	__type(value, struct peer_row);
} peers SEC(".maps");

static __always_inline bool is_peer(const __u8 *mac, const struct vip *vip)
{
	__u64 wanted = (__u64)mac[0] << 56 | (__u64)mac[1] << 48 | (__u64)mac[2] << 40 |
		       (__u64)mac[3] << 32 | (__u64)mac[4] << 24 | (__u64)mac[5] << 16;
	__u32 key = mac[5];
	struct peer_row *row = bpf_map_lookup_elem(&peers, &key);
	__u64 found = 0;

	if (!row)
		return false;
#pragma unroll
	for (__u32 i = 0; i < PEERS_A_ROW; i++)
		if ((row->peers[i] ^ wanted) <= 0xffff) /* the MACs are equal, above the mask */
			found |= row->peers[i];
	return found >> vip->index & 1;
}

#endif
