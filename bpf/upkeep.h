/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What Python has done to the connection table (docs/adr/0003): while packets
 * come, only a program can change an entry by compare-and-swap.
 */
#ifndef ANYPORT_UPKEEP_H
#define ANYPORT_UPKEEP_H

#include "addresses.h"
#include "connections.h"

static __always_inline bool is_meant(__u64 word, const struct upkeep_request *request)
{
	return request->slots >> slot_of(word) & 1 || request->rows >> row_of(word) & 1;
}

static long forget_bucket(__u32 number, struct upkeep_request *request)
{
	__u32 index = request->first + number;
	struct bucket *bucket = bpf_map_lookup_elem(&connections, &index);

	for (__u32 way = 0; bucket && way < BUCKET_WAYS; way++) {
		struct connection *entry = &bucket->ways[way];
		__u64 word = load_word(entry);

		if (!(word & WORD_USED) || !is_meant(word, request))
			continue;
		if (swap_word(entry, word, 0))
			request->done++;
	}
	return 0;
}

static __always_inline bool adopt_entry(const struct connection *entry)
{
	__u64 word = load_word(entry);
	struct flow flow = {
		.client = entry->client,
		.client_port = entry->client_port,
		.port = entry->port,
		.protocol = word >> WORD_PROTOCOL & 1,
	};
	struct home home;

	if (!(word & WORD_USED))
		return false;
	home = home_of(row_of(word), &flow);
	return insert_connection(&home, &flow, slot_of(word), load_life(entry)) != NO_SLOT;
}

static long adopt_bucket(__u32 number, struct upkeep_request *request)
{
	__u32 index = request->first + number;
	struct bucket *bucket = bpf_map_lookup_elem(&former, &index);

	for (__u32 way = 0; bucket && way < BUCKET_WAYS; way++)
		request->done += adopt_entry(&bucket->ways[way]);
	return 0;
}

/* Row `number` of `gathered`, of so many bytes; NULL beyond the last. */
static __always_inline const void *gathered_row(__u32 number, __u32 size)
{
	__u32 zero = 0, offset = number * size;
	struct gathered *all = bpf_map_lookup_elem(&gathered, &zero);

	/* Linux 6.1 sees the bound only if it is of the register that is used. */
	asm volatile("" : "+r"(offset));
	return all && offset <= GATHERED_BYTES - size ? &all->rows[offset] : NULL;
}

static __always_inline bool read_ipv4(__u32 number, struct flow *flow)
{
	const struct own_ipv4 *row = gathered_row(number, sizeof(*row));

	if (!row)
		return false;
	v4_mapped(&flow->client, row->client);
	flow->client_port = bpf_ntohs(row->client_port);
	flow->port = bpf_ntohs(row->port);
	return true;
}

static __always_inline bool read_ipv6(__u32 number, struct flow *flow)
{
	const struct own_ipv6 *row = gathered_row(number, sizeof(*row));

	if (!row)
		return false;
	flow->client = row->client;
	flow->client_port = bpf_ntohs(row->client_port);
	flow->port = bpf_ntohs(row->port);
	return true;
}

/*
 * Established, but as one silent for so long that a SYN may move it: so what a host
 * says brings it no new connection to a port of which it is no target.
 */
static long enter_row(__u32 number, struct enter_request *request)
{
	/* The coarse clock, which packets take, is not for a program of this type; it may be a
	 * tick behind this one. */
	__u32 now = bpf_ktime_get_ns() >> TICK_SHIFT;
	__u32 life = LIFE(CONNECTION_ESTABLISHED, now - LIVELY_TICKS - 1);
	struct flow flow = {.protocol = TCP};
	struct home home;
	__u32 slot;

	if (!(request->family == IPV6 ? read_ipv6(number, &flow) : read_ipv4(number, &flow)))
		return 1;
	home = home_of(request->row, &flow);
	slot = connection_slot(&home, &flow);
	if (slot == NO_SLOT)
		slot = insert_connection(&home, &flow, request->slot, life);
	request->no_room += slot == NO_SLOT;
	request->others += slot != NO_SLOT && slot != request->slot;
	return 0;
}

/* Takes the connections of some slots, or of some rows, out of the table. */
SEC("syscall")
int forget(struct upkeep_request *request)
{
	struct upkeep_request own = *request;

	bpf_loop(own.count, forget_bucket, &own, 0);
	request->done = own.done;
	return 0;
}

/* Takes over what a table of another size has; what is known here already stays as it is. */
SEC("syscall")
int adopt(struct upkeep_request *request)
{
	struct upkeep_request own = *request;

	bpf_loop(own.count, adopt_bucket, &own, 0);
	request->done = own.done;
	return 0;
}

/* The connections that one host says are its own; what is known here already stays as it is. */
SEC("syscall")
int enter(struct enter_request *request)
{
	struct enter_request own = *request;

	bpf_loop(own.count, enter_row, &own, 0);
	request->others = own.others;
	request->no_room = own.no_room;
	return 0;
}

#endif
