/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The VIP that an address is: by comparing, as there are few, and mostly one. */
#ifndef ANYPORT_VIPS_H
#define ANYPORT_VIPS_H

#include "maps.h"

/*
 * Not static: so the verifier looks at what follows once, not once for each row.
 * The address as two words, in network order.
 */
__noinline __u32 vip_row(__u64 first, __u64 second)
{
	__u32 zero = 0, row;
	struct vip_table *table = bpf_map_lookup_elem(&vips, &zero);

	if (!table || !(first | second)) /* `::`: a free row, and who has no address yet */
		return NO_ROW;
	for (row = 0; row < MAX_VIPS && row < table->used; row++) {
		const __u64 *vip = (const __u64 *)&table->rows[row].address;

		if (vip[0] == first && vip[1] == second)
			return row;
	}
	return NO_ROW;
}

static __always_inline struct vip *vip_at(__u32 row)
{
	__u32 zero = 0;
	struct vip_table *table = bpf_map_lookup_elem(&vips, &zero);

	if (!table || row >= MAX_VIPS)
		return NULL;
	asm volatile(
		""
		: "+r"(row)); /* or the compiler leaves out the bound that the verifier wants */
	return &table->rows[row % MAX_VIPS];
}

static __always_inline struct vip *find_vip(const struct address *address)
{
	__u64 words[2];

	__builtin_memcpy(words, address, sizeof(words));
	return vip_at(vip_row(words[0], words[1]));
}

#endif
