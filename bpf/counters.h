/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every packet is counted once, by its verdict, and by VIP and target as far as it has them. */
#ifndef ANYPORT_COUNTERS_H
#define ANYPORT_COUNTERS_H

#include "decision.h"

/* An index is computed and one counter of this CPU's own touched: 2 ns (docs/adr/0012). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTED_ROWS *COUNTED_SLOTS);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* `length`: of the frame. */
static __always_inline void count(const struct decision *decision, __u32 length)
{
	__u32 place = decision->row * COUNTED_SLOTS + decision->slot;
	struct counters *found = bpf_map_lookup_elem(&counters, &place);
	__u64 verdict = decision->verdict;

	/* Linux 6.1 sees the bound only if it is of the register that is used. */
	asm volatile("" : "+r"(verdict));
	if (!found || verdict >= VERDICT_COUNTERS)
		return;
	found->by_verdict[verdict].packets++;
	found->by_verdict[verdict].bytes += length;
}

#endif
