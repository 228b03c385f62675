/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What Python has done to the connection table (docs/adr/0003): while packets
 * come, only a program can change an entry by compare-and-swap.
 */
#ifndef ANYPORT_UPKEEP_H
#define ANYPORT_UPKEEP_H

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

#endif
